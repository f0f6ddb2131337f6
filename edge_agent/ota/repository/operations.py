"""What an operator does with a repository. Each leaves it whole: ``timestamp.json``, written last, makes the rest count."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Key,
    Metadata,
    Role,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from edge_agent.durable import sync_folder, write_file
from edge_agent.errors import UsageError
from edge_agent.ota.bundle import write_bundle
from edge_agent.ota.offer import Bundle, Channel, Facts, bundle_path, channel_path, team_paths
from edge_agent.ota.repository.metadata import DAYS, RepositoryFiles, Waiting


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key for a role: made here under ``name``, or ``public`` of somebody who keeps the private one (``place``: its URI)."""

    name: str
    public: Key | None = None
    place: str | None = None


def init(files: RepositoryFiles, team: str, root_keys: int, threshold: int) -> None:
    """Make the first version of everything, with new keys. Raises UsageError."""
    if files.metadata.exists():
        raise UsageError(f"{files.metadata} is there already: this is a repository")
    if not 1 <= threshold <= root_keys:
        raise UsageError(f"of {root_keys} root keys {threshold} cannot be needed: give 1 to {root_keys}")
    _check_team(team)
    root = Root(consistent_snapshot=True)
    for number in range(1, root_keys + 1):
        root.add_key(files.keyring.make(f"root-{number}"), Root.type)
    root.roles[Root.type].threshold = threshold
    for role in (Targets.type, Snapshot.type, Timestamp.type):
        root.add_key(files.keyring.make(role), role)
    files.close(Root.type, Metadata(root))
    files.close(Targets.type, Metadata(Targets()))
    add_key(files, team, NewKey(f"team-{team}"), None)


def add_key(files: RepositoryFiles, role: str, new: NewKey, threshold: int | None) -> Key:
    """Give ``role`` one more key; a role that is not there becomes a team's. Raises UsageError, Waiting."""
    key = new.public if new.public is not None else files.keyring.make(new.name)
    if new.place is not None:
        files.keyring.remember(key, new.place)
    if role in DAYS:
        with files.edit_root() as root:
            root.add_key(key, role)
            _set_threshold(root.roles[role], threshold)
        settle(files)
        return key
    with files.edit_targets() as targets:
        targets.delegations = targets.delegations or Delegations({}, {})
        roles = targets.delegations.roles
        assert roles is not None
        if role not in roles:
            _check_team(role)
            roles[role] = DelegatedRole(role, [], 1, terminating=True, paths=team_paths(role))
        targets.add_key(key, role)
        _set_threshold(roles[role], threshold)
    settle(files)
    return key


def remove_key(files: RepositoryFiles, role: str, name: str, threshold: int | None) -> None:
    """Take a key from ``role``: what it signs counts no more. Raises UsageError, Waiting."""
    keyid = files.keyring.find(name)
    keys, needed = files.keys(role)
    if keyid not in {key.keyid for key in keys}:
        raise UsageError(f"{name} is no key of {role}")
    if len(keys) - 1 < (threshold or needed):
        raise UsageError(
            f"{role} would have {len(keys) - 1} keys and needs {threshold or needed}: add another one first"
        )
    if role in DAYS:
        with files.edit_root() as root:
            root.revoke_key(keyid, role)
            _set_threshold(root.roles[role], threshold)
    else:
        with files.edit_targets() as targets:
            targets.revoke_key(keyid, role)
            assert targets.delegations is not None and targets.delegations.roles is not None
            _set_threshold(targets.delegations.roles[role], threshold)
    settle(files)


def publish(files: RepositoryFiles, team: str, folder: Path, facts: Facts, channel: str) -> Bundle:
    """Put a model version's folder there, and offer it in ``channel``. Raises UsageError, Waiting."""
    _check_word("channel", channel)
    files.unlock(team)
    path = bundle_path(team, facts.name, facts.version)
    files.targets_folder.mkdir(parents=True, exist_ok=True)
    fresh = files.targets_folder / "bundle.new"
    with fresh.open("wb") as made:
        write_bundle(folder, made)
        made.flush()
        os.fsync(made.fileno())
    target = TargetFile.from_file(path, str(fresh), ["sha256"])
    bundle = Bundle(name=facts.name, version=facts.version, sha256=target.hashes["sha256"])
    before = files.targets(team).targets.get(path)
    if before is not None and before.hashes != target.hashes:
        fresh.unlink()
        raise UsageError(
            f"{bundle.label} is published with another content, and boxes may have it: give it a new version"
        )
    fresh.replace(_place(files, target))
    sync_folder(_place(files, target).parent)
    target.unrecognized_fields["custom"] = facts.model_dump(mode="json")
    with files.edit_targets(team) as targets:
        targets.targets[path] = target
        _offer(files, targets, team, channel, bundle.name, bundle.version)
    settle(files)
    return bundle


def promote(files: RepositoryFiles, team: str, name: str, version: str, channel: str) -> None:
    """Offer a published version in ``channel`` too. Raises UsageError, Waiting."""
    _check_word("channel", channel)
    files.unlock(team)
    with files.edit_targets(team) as targets:
        if bundle_path(team, name, version) not in targets.targets:
            raise UsageError(f"{team} has not published {name}@{version}: see `edge-agent repo status`")
        _offer(files, targets, team, channel, name, version)
    settle(files)


def revoke(files: RepositoryFiles, team: str, name: str, version: str) -> list[str]:
    """Offer a version no more, and remove it; the channels that had it, which offer none of that name now. Raises UsageError."""
    files.unlock(team)
    had = []
    with files.edit_targets(team) as targets:
        target = targets.targets.pop(bundle_path(team, name, version), None)
        if target is None:
            raise UsageError(f"{team} has not published {name}@{version}: see `edge-agent repo status`")
        for channel, offered in channels(files, targets, team).items():
            if offered.bundles.get(name) == version:
                had.append(channel)
                _offer(files, targets, team, channel, name, None)
    settle(files)
    return had


def refresh(files: RepositoryFiles) -> list[str]:
    """Vouch for the present state anew: the timestamp always, others past half their time whose keys are here. Which were."""
    done = [role for role in files.roles() if role != Timestamp.type and files.ageing(role) and files.can_sign(role)]
    for role in done:
        if role != Snapshot.type:
            files.close(role, files.open(role))
    files.do_snapshot(force=Snapshot.type in done)
    files.do_timestamp(force=True)
    return [*done, Timestamp.type]


def sign(files: RepositoryFiles) -> list[str]:
    """Add the signatures of the keys that are here to what waits for them; what is complete now. Raises UsageError, Waiting."""
    outcome = {role: _sign(files, role, md) for role, md in files.waits().items()}
    done = [role for role, lacks in outcome.items() if not lacks]
    if done:
        settle(files)
    if still := [lacks for lacks in outcome.values() if lacks]:
        raise Waiting("; ".join(still))
    return done


def _sign(files: RepositoryFiles, role: str, md: Metadata[Any]) -> str:
    """What it still lacks."""
    try:
        files.sign(role, md)
    except Waiting as error:
        return str(error)
    return ""


def settle(files: RepositoryFiles) -> None:
    """Make what was signed count, and remove what nothing names any more. Raises Waiting where a role must sign anew elsewhere."""
    still = ""
    for role in (Targets.type, *files.teams()):
        md = files.open(role)
        if files.missing(role, md):  # its keys were changed
            try:
                files.close(role, md)
            except Waiting as error:
                still = str(error)
    files.do_snapshot()
    files.do_timestamp()
    if still:
        raise Waiting(still)
    if not files.waits():
        _sweep(files)


def _sweep(files: RepositoryFiles) -> None:
    named = {_place(files, target) for role in files.teams() for target in files.targets(role).targets.values()}
    for path in files.targets_folder.rglob("*"):
        if path.is_file() and path not in named:
            path.unlink()


def channels(files: RepositoryFiles, targets: Targets, team: str) -> dict[str, Channel]:
    """What each channel of a team offers."""
    found = {}
    for path, target in targets.targets.items():
        if path.startswith(channel_path(team, "").removesuffix(".json")):
            text = _place(files, target).read_bytes()
            found[path.rpartition("/")[2].removesuffix(".json")] = Channel.model_validate_json(text)
    return found


def _offer(  # noqa: PLR0917
    files: RepositoryFiles, targets: Targets, team: str, channel: str, name: str, version: str | None
) -> None:
    """Write the channel anew with ``version``, or without ``name``."""
    path = channel_path(team, channel)
    before = targets.targets.get(path)
    bundles = dict(channels(files, targets, team)[channel].bundles) if before is not None else {}
    bundles.pop(name, None)
    if version is not None:
        bundles[name] = version
    text = json.dumps({"bundles": dict(sorted(bundles.items()))}).encode()
    target = TargetFile.from_data(path, text, ["sha256"])
    write_file(_place(files, target), text)
    targets.targets[path] = target


def _place(files: RepositoryFiles, target: TargetFile) -> Path:
    """Where a target's file lies; its name begins with its hash (TUF's consistent snapshots)."""
    place = files.targets_folder / target.get_prefixed_paths()[0]
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _set_threshold(role: Role, threshold: int | None) -> None:
    if threshold is not None:
        if not 1 <= threshold <= len(role.keyids):
            raise UsageError(f"of {len(role.keyids)} keys {threshold} cannot be needed")
        role.threshold = threshold


def _check_team(team: str) -> None:
    if team in DAYS:
        raise UsageError(f"a team cannot be called {team}")
    _check_word("team", team)


def _check_word(what: str, text: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", text):
        raise UsageError(f"{what} {text!r}: letters, digits, '.', '_' and '-' only, at most 63")
