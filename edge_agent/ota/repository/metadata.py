"""The signed files of a repository: reading the newest, writing the next. What is served is in ``public/``, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Key, Metadata, MetaFile, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer
from tuf.repository import Repository

from edge_agent.durable import write_file
from edge_agent.errors import UsageError
from edge_agent.ota.repository.keys import Keyring

DAYS = {Root.type: 365, Targets.type: 365, Snapshot.type: 30, Timestamp.type: 7}
TEAM_DAYS = 365
_NEW: dict[str, type[Root | Targets | Snapshot | Timestamp]] = {
    kind.type: kind for kind in (Root, Targets, Snapshot, Timestamp)
}


class Waiting(UsageError):
    """It was written down, but must be signed by more keys before it counts."""


class RepositoryFiles(Repository):
    """The metadata below a folder. ``days`` says how long what is signed now is valid, where not as usual (``DAYS``)."""

    def __init__(self, folder: Path, keyring: Keyring, days: Mapping[str, int] | None = None) -> None:
        self.metadata, self.targets_folder = folder / "public" / "metadata", folder / "public" / "targets"
        self.waiting = folder / "waiting"
        self.keyring = keyring
        self._days = {**DAYS, **(days or {})}

    # ---- what tuf.repository asks for

    def open(self, role: str) -> Metadata[Any]:
        """The newest of a role; a new one, version 0, where there is none."""
        path = self._newest(role)
        if path is None:
            return Metadata(_NEW.get(role, Targets)(version=1))
        return _read(path)

    def close(self, role: str, md: Metadata[Any]) -> None:
        """Sign and write the next version. Raises Waiting where keys are missing that are elsewhere."""
        if (self.waiting / f"{role}.json").exists():
            raise UsageError(
                f"a change of {role} waits for signatures: `edge-agent repo sign`, or remove {self.waiting}/{role}.json"
            )
        md.signed.version += self._newest(role) is not None
        md.signed.expires = _now() + timedelta(days=self._days.get(role, TEAM_DAYS))
        md.signatures.clear()
        self.sign(role, md)

    @property
    def targets_infos(self) -> dict[str, MetaFile]:
        """Versions of all roles that sign for files."""
        known = [role for role in (Targets.type, *self.teams()) if self._newest(role) is not None]
        return {f"{role}.json": MetaFile(self.open(role).signed.version) for role in known}

    @property
    def snapshot_info(self) -> MetaFile:
        """The version of the snapshot."""
        return MetaFile(self.open(Snapshot.type).signed.version)

    # ---- ours

    def teams(self) -> list[str]:
        """The delegated roles that have published something, or can."""
        delegations = self.targets().delegations
        return sorted(delegations.roles or {}) if delegations is not None else []

    def roles(self) -> Iterator[str]:
        """All of them."""
        yield from DAYS
        yield from self.teams()

    def keys(self, role: str) -> tuple[list[Key], int]:
        """Of a role: its keys, and how many of them must sign. Raises UsageError where there is no such role."""
        delegator = self._delegator(role)
        found = delegator.get_delegated_role(role)
        return [delegator.get_key(keyid) for keyid in found.keyids], found.threshold

    def can_sign(self, role: str) -> bool:
        """Whether enough of its keys are here. Raises UsageError (a wrong passphrase)."""
        keys, threshold = self.keys(role)
        return sum(self.keyring.signer(key) is not None for key in keys) >= threshold

    def ageing(self, role: str) -> bool:
        """Whether less than half of its time is left."""
        left: timedelta = self.open(role).signed.expires - _now()
        return left < timedelta(days=self._days.get(role, TEAM_DAYS)) / 2

    def unlock(self, team: str) -> None:
        """Ask for the passphrases of a change of ``team`` now, before anything is written.

        Raises UsageError where the change could not be published here. Where the team's own keys are not enough it will wait.
        """
        self.can_sign(team)
        for role in (Snapshot.type, Timestamp.type):
            if not self.can_sign(role):
                keys, threshold = self.keys(role)
                names = ", ".join(self.keyring.place(key.keyid) for key in keys)
                raise UsageError(f"{role} needs {threshold} of {names}: name the folder they are in with --keys")

    def sign(self, role: str, md: Metadata[Any]) -> None:
        """Add what signatures can be had here; publish it if they are enough. Raises Waiting where they are not."""
        keys = self.keys(role)[0] if role != Root.type else self._root_keys(md.signed)
        for key in keys:
            if key.keyid not in md.signatures and (signer := self.keyring.signer(key)) is not None:
                md.sign(signer, append=True)
        content = md.to_bytes(JSONSerializer(compact=False))
        waits = self.waiting / f"{role}.json"
        if missing := self.missing(role, md):
            self.waiting.mkdir(exist_ok=True)
            write_file(waits, content)
            raise Waiting(
                f"{role} version {md.signed.version} waits in {waits}: {missing}; then `edge-agent repo sign`"
            )
        name = "timestamp.json" if role == Timestamp.type else f"{md.signed.version}.{role}.json"
        self.metadata.mkdir(parents=True, exist_ok=True)
        write_file(self.metadata / name, content)
        waits.unlink(missing_ok=True)

    def waits(self) -> dict[str, Metadata[Any]]:
        """What lacks signatures, by role."""
        return {path.stem: _read(path) for path in sorted(self.waiting.glob("*.json"))}

    def missing(self, role: str, md: Metadata[Any]) -> str:
        """Which signatures ``md`` lacks, in words; "" where it is valid."""
        if (
            role == Root.type
            and (before := self._newest(role)) is not None
            and before.name != f"{md.signed.version}.root.json"
        ):
            # A new root is signed by as many of the old keys as the old one asks for, and of its own (TUF 5.3.4).
            result = md.signed.get_root_verification_result(self.root(), md.signed_bytes, md.signatures)
            short = max(result.first.missing, result.second.missing)
        else:
            delegator = self._delegator(role) if role != Root.type else md.signed
            result = delegator.get_verification_result(role, md.signed_bytes, md.signatures)
            short = result.missing
        if result.verified:
            return ""
        names = ", ".join(self.keyring.place(keyid) for keyid in result.unsigned)
        return f"{short} more signature(s) needed, of {names}"

    def _root_keys(self, new: Root) -> list[Key]:
        keys = {keyid: new.get_key(keyid) for keyid in new.roles[Root.type].keyids}
        if self._newest(Root.type) is not None:
            old = self.root()
            keys |= {keyid: old.get_key(keyid) for keyid in old.roles[Root.type].keyids}
        return list(keys.values())

    def _delegator(self, role: str) -> Root | Targets:
        delegator = self.root() if role in DAYS else self.targets()
        if role not in DAYS and role not in self.teams():
            raise UsageError(f"there is no role {role!r}; there are: {', '.join(self.roles())}")
        return delegator

    def _newest(self, role: str) -> Path | None:
        if role == Timestamp.type:
            path = self.metadata / "timestamp.json"
            return path if path.exists() else None
        found = {int(n): p for p in self.metadata.glob(f"*.{role}.json") if (n := p.name.partition(".")[0]).isdecimal()}
        found = {number: path for number, path in found.items() if path.name == f"{number}.{role}.json"}
        return found[max(found)] if found else None


def _read(path: Path) -> Metadata[Any]:
    try:
        return Metadata.from_bytes(path.read_bytes())
    except (RepositoryError, OSError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error


def _now() -> datetime:
    return datetime.now(timezone.utc).replace(microsecond=0)
