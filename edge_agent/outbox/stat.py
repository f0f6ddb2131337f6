"""What the outbox says about itself: for status, heartbeat, REST and the live panel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class SinkStat:
    """What waits for one sink, by ``events``, ``metrics``, ``telemetry``."""

    depth: Mapping[str, int]
    bytes: int
    """Of their content."""
    oldest_age_s: float | None
    """None when nothing waits."""
    dropping: bool
    """Whether something had to be dropped within the last minute."""


@dataclass(frozen=True, slots=True)
class OutboxStat:
    """Counts by ``events``, ``metrics``, ``telemetry``; ``accepted``, ``dropped`` and ``refused`` since the process began.

    A message that two sinks lose is dropped twice.
    """

    state: Literal["ok", "degraded"]
    reason: str
    depth: dict[str, int]
    """Stored, and not delivered to every sink."""
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
    sinks: Mapping[str, SinkStat] = field(default_factory=dict)
