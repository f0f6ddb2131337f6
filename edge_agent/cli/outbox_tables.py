"""What ``outbox stat`` shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

from edge_agent.sentences import printable, seconds


def tables(found: dict[str, Any]) -> Iterator[Table | Text]:
    """From what ``inspection.stat`` found, and whether an ``agent`` holds the folder."""
    running = {True: "an agent is running", False: "no agent is running", None: "agent: not known"}[found["agent"]]
    yield Text(f"{found['path']}: {found['bytes'] / 2**20:.1f} MB, sequence {found['sequence']}, {running}")
    if found["set_aside"]:
        yield Text(f"a damaged database is kept aside: {found['set_aside']}")
    yield _waiting(found)
    if found["dead"]:
        yield _dead(found)
    for what, data in found["not_told"].items():
        yield Text(f"not announced yet: {what}: {data['reasons']}")


def _waiting(found: dict[str, Any]) -> Table:
    table = Table("waits for", *found["depth"], "MB", "oldest")
    for name, sink in found["sinks"].items():
        oldest = "-" if sink["oldest_age_s"] is None else seconds(sink["oldest_age_s"])
        table.add_row(name, *map(str, sink["depth"].values()), f"{sink['bytes'] / 2**20:.2f}", oldest)
    return table


def _dead(found: dict[str, Any]) -> Table:
    table = Table("refused by", "messages", "reason", "first", "last")
    for group in found["dead"]:
        reason = f"{printable(group['reason'], 60)} ({group['code']})"
        table.add_row(group["sink"], str(group["count"]), reason, group["first_refused"], group["last_refused"])
    return table
