"""What the outbox says about itself: for status, heartbeat, REST and the live panel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class OutboxStat:
    """Counts by ``events``, ``metrics``, ``telemetry``; ``accepted``, ``dropped`` and ``refused`` since the process began."""

    state: Literal["ok", "degraded"]
    reason: str
    depth: dict[str, int]
    """Stored and not delivered."""
    queued: int
    """In memory, not stored yet."""
    bytes: int
    """On disk, write-ahead log included."""
    oldest_age_s: float | None
    """Of the oldest stored message; None when there is none."""
    accepted: dict[str, int]
    dropped: dict[str, int]
    refused: dict[str, int]
    sequence: int
    """The last one given to an event."""
