"""What was lost and not yet told: stored with the database, so that a gap in ``sequence`` is always explained in the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from edge_agent.outbox.messages import Priority, sequence_text
from edge_agent.outbox.ranges import Range, cover
from edge_agent.payload import Count, SequenceRanges

MAX_RANGES = 200
"""As many go into one report; when there are more, reports are made at once."""
MAX_REASONS = 20
"""Told apart in one report: a sink may give a reason of its own for each message."""
EVERY_SINK = "all"
"""In place of a sink's name: lost before it was stored, so for all of them."""


class LossReport(TypedDict):
    """What was lost since the last report."""

    events: Annotated[Count, Field(description="events lost")]
    metrics: Annotated[Count, Field(description="metrics lost")]
    telemetry: Annotated[Count, Field(description="sensor values lost")]
    reasons: Annotated[
        dict[str, Count], Field(description="messages by reason; continued: more ranges of an earlier report")
    ]
    sequences: Annotated[SequenceRanges, Field(description="the events that this sink will not get")]


class SinkLosses(LossReport):
    """What one sink will not get. A report holds 200 ranges at most; more follow in the next."""

    sink: Annotated[str, Field(description="whose they were; all: lost before they were stored")]


@dataclass(slots=True)
class Losses:
    """What one sink lost since the last report: counts by priority and by reason, sequence ranges of the events."""

    counts: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    ranges: list[Range] = field(default_factory=list)
    total: dict[str, int] = field(default_factory=lambda: {p.plural: 0 for p in Priority})
    """Since the process began, by priority."""
    last_reason: str = ""

    def __bool__(self) -> bool:
        return bool(self.reasons)

    @property
    def crowded(self) -> bool:
        """More ranges than one report takes: telling them cannot wait."""
        return len(self.ranges) > MAX_RANGES

    def add(self, priority: Priority, reason: str, count: int = 1, sequences: Iterable[int] = ()) -> None:
        """Count ``count`` messages; those that had a sequence number name it."""
        self.counts[priority.plural] = self.counts.get(priority.plural, 0) + count
        told = reason if reason in self.reasons or len(self.reasons) < MAX_REASONS else "other"
        self.reasons[told] = self.reasons.get(told, 0) + count
        self.total[priority.plural] += count
        self.last_reason = reason
        cover(self.ranges, ((n, n) for n in sequences))

    def data(self) -> LossReport:
        """All of it as JSON; ``restore`` takes it back."""
        return {
            "events": self.counts.get("events", 0),
            "metrics": self.counts.get("metrics", 0),
            "telemetry": self.counts.get("telemetry", 0),
            "reasons": dict(self.reasons),
            "sequences": sequences_data(self.ranges),
        }

    def report(self) -> LossReport:
        """The ``data`` of the event that tells it, and begin anew; ranges beyond the bound stay for the next report."""
        data, later = self.data(), self.ranges[MAX_RANGES:]
        data["sequences"] = data["sequences"][:MAX_RANGES]
        self.counts, self.reasons, self.ranges = {}, {"continued": 0} if later else {}, later
        return data

    def restore(self, data: Mapping[str, Any]) -> None:
        """Take up again what was stored, or a report that was itself lost before it was delivered."""
        cover(self.ranges, ((int(first), int(last)) for first, last in data["sequences"]))
        for priority in Priority:
            self.counts[priority.plural] = self.counts.get(priority.plural, 0) + int(data.get(priority.plural, 0))
        for reason, count in data["reasons"].items():
            self.reasons[reason] = self.reasons.get(reason, 0) + int(count)


def sequences_data(ranges: Iterable[Range]) -> SequenceRanges:
    """Ranges as events tell them."""
    return [[sequence_text(first), sequence_text(last)] for first, last in ranges]
