"""A repository at a glance."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from edge_agent.ota.repository.metadata import RepositoryFiles
from edge_agent.ota.repository.operations import channels


def status(files: RepositoryFiles) -> dict[str, Any]:
    """Roles, channels and what waits, as JSON has it. Asks for no passphrase. Raises UsageError where there is no repository."""
    now = datetime.now(timezone.utc)
    roles = []
    for role in files.roles():
        signed, (keys, threshold) = files.open(role).signed, files.keys(role)
        roles.append(
            {
                "role": role,
                "version": signed.version,
                "expires": signed.expires.isoformat(),
                "days_left": round((signed.expires - now).total_seconds() / 86_400, 1),
                "threshold": threshold,
                "keys": [{"id": key.keyid, "place": files.keyring.place(key.keyid)} for key in keys],
            }
        )
    offered = [
        {"team": team, "channel": channel, "bundles": dict(found.bundles)}
        for team in files.teams()
        for channel, found in sorted(channels(files, files.targets(team), team).items())
    ]
    published = {
        team: sorted(path for path in files.targets(team).targets if path.endswith(".tar")) for team in files.teams()
    }
    waiting = {role: files.missing(role, md) for role, md in files.waits().items()}
    return {"roles": roles, "channels": offered, "published": published, "waiting": waiting}


def tables(found: dict[str, Any]) -> Iterator[Any]:
    """For a screen."""
    from rich.table import Table

    roles = Table("role", "version", "expires in days", "keys needed", "keys", title="roles")
    for role in found["roles"]:
        places = ", ".join(f"{key['place']} ({key['id'][:8]})" for key in role["keys"])
        left, many = f"{role['days_left']:.1f}", f"{role['threshold']} of {len(role['keys'])}"
        roles.add_row(role["role"], str(role["version"]), left, many, places)
    yield roles
    offered = Table("team", "channel", "offers", title="channels")
    for channel in found["channels"]:
        bundles = ", ".join(f"{name}@{version}" for name, version in channel["bundles"].items())
        offered.add_row(channel["team"], channel["channel"], bundles or "nothing")
    yield offered
    if found["waiting"]:
        waiting = Table("role", "lacks", title="waiting for signatures")
        for role, lacks in found["waiting"].items():
            waiting.add_row(role, lacks)
        yield waiting
