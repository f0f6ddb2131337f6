"""What the parts of the outbox hand each other."""

from __future__ import annotations

from typing import Any, NamedTuple

from edge_agent.outbox.messages import ROW_BITS, Priority, Row

DROPS = "outbox_drops"
DEAD = "dead_letter"


class Episode(NamedTuple):
    """One that was started and has not ended. Times are POSIX seconds, ``data`` JSON of the last event."""

    episode: str
    camera: str
    use_case: str
    what: str
    started: float
    updated: float
    data: str


class Refusal(NamedTuple):
    """``sink`` will never take this row. ``code`` is what its protocol calls the reason (MQTT: the reason code)."""

    sink: str
    row: int
    code: int
    reason: str


class Committed(NamedTuple):
    """One message as it was stored; ``doc`` is the complete CloudEvent for an event, None for anything else."""

    row: Row
    doc: dict[str, Any] | None


def span(priority: Priority) -> tuple[int, int]:
    """The row ids of a priority: first (inclusive) and last (exclusive)."""
    return priority << ROW_BITS, (priority + 1) << ROW_BITS
