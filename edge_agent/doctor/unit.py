"""Reads the systemd unit and the user database as files, so that no service manager need be running."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NAME = "edge-agent.service"
_FOLDERS = ("etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system")
_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit file with its drop-ins."""

    path: Path
    values: dict[str, str]

    def get(self, key: str) -> str:
        """A setting's last value, "" where it is not set; lists are joined by blanks."""
        return self.values.get(key, "")

    @property
    def dynamic_user(self) -> bool:
        """Whether systemd makes the user at each start."""
        return self.get("DynamicUser").lower() in {"yes", "true", "on", "1"}


def find(root: Path) -> Unit | None:
    """The agent's unit below ``root``, the administrator's before the package's; None where there is none."""
    for folder in _FOLDERS:
        path = root / folder / NAME
        if path.is_file():
            values: dict[str, str] = {}
            drop_ins = [file for place in _FOLDERS for file in (root / place / f"{NAME}.d").glob("*.conf")]
            for file in [path, *sorted(drop_ins, key=lambda file: file.name)]:
                _take(file, values)
            return Unit(path, values)
    return None


def _take(path: Path, values: dict[str, str]) -> None:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(_MAX)
    except OSError:
        return
    for line in text.replace("\\\n", " ").splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and not key.startswith(("#", ";", "[")):
            key, value = key.strip(), value.strip()
            # systemd.unit(5): lists grow, and an empty value begins anew.
            grows = key in {"SupplementaryGroups", "ReadWritePaths", "DeviceAllow"} and value
            values[key] = f"{values.get(key, '')} {value}".strip() if grows else value


def groups(text: str) -> dict[str, int]:
    """``/etc/group``: name → number."""
    found = {}
    for line in text.splitlines():
        parts = line.split(":")
        if len(parts) >= 3 and parts[2].isdecimal():
            found[parts[0]] = int(parts[2])
    return found


def memberships(text: str, user: str) -> set[int]:
    """Numbers of the groups in ``/etc/group`` that name ``user`` as a member."""
    rows = [line.split(":") for line in text.splitlines()]
    return {int(row[2]) for row in rows if len(row) >= 4 and row[2].isdecimal() and user in row[3].split(",")}


def account(text: str, user: str) -> tuple[int | None, int | None]:
    """(uid, gid) of ``user`` in ``/etc/passwd``; None, None where there is no such user."""
    for line in text.splitlines():
        parts = line.split(":")
        if parts[0] == user and len(parts) >= 4 and parts[2].isdecimal() and parts[3].isdecimal():
            return int(parts[2]), int(parts[3])
    return None, None
