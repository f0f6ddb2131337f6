"""What the outbox itself has to say: events about the box, and log lines about what it drops."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from edge_agent.outbox.ledger import MAX_RANGES, Losses, SinkLosses, sequences_data
from edge_agent.outbox.messages import Draft, draft, sequence_text
from edge_agent.outbox.ranges import Range
from edge_agent.outbox.records import DEAD, DROPS, Episode
from edge_agent.payload import Count, SequenceNumber, SequenceRanges
from edge_agent.types import DEVICE, Event, NewId, rfc3339

log = logging.getLogger(__name__)

_QUIET_S = 60.0
_DOING = {DROPS: "dropping messages", DEAD: "putting refused messages aside"}


class OutboxRecreated(TypedDict):
    """The database was lost, replaced or damaged, and a new one goes on."""

    reason: Annotated[str, Field(description="what happened")]
    moved_to: NotRequired[Annotated[str, Field(description="name of the file that the damaged one is kept as")]]
    recovered: NotRequired[Annotated[Count, Field(description="messages taken over from it")]]
    before_sequence: Annotated[SequenceNumber, Field(description="sequence of this event: numbers go on from here")]
    sequences: Annotated[
        SequenceRanges, Field(max_length=MAX_RANGES, description="not in the new one, whether you had them or not")
    ]


class Teller:
    """Makes the events of the outbox's own. ``names`` are site, device and boot_id; ``wall`` gives POSIX seconds."""

    def __init__(self, names: Mapping[str, str], new_id: NewId, wall: Callable[[], float]) -> None:
        self._names, self._new_id, self._wall = names, new_id, wall

    def report(self, kind: str, data: SinkLosses) -> Draft:
        """Of losses: ``outbox_drops`` or ``dead_letter``."""
        return self._device(kind, data)

    def recreated(
        self, reason: str, sequence: int, lost: Sequence[Range], *, moved_to: str | None = None, recovered: int = 0
    ) -> Draft:
        """A new database goes on after ``sequence``; the numbers ``lost`` are not in it, whether delivered before or not."""
        told: OutboxRecreated = {
            "reason": reason,
            "before_sequence": sequence_text(sequence + 1),
            "sequences": sequences_data(lost[-MAX_RANGES:]),
        }
        if moved_to is not None:
            told["moved_to"], told["recovered"] = moved_to, recovered
        return self._device("outbox_recreated", told)

    def end(self, left: Episode) -> Draft:
        """Ended at the last time it is known to have been open."""
        data = json.loads(left.data)
        known = data.get("duration_s")
        duration = max(left.updated - left.started, float(known) if isinstance(known, int | float) else 0.0)
        utc = max(left.updated, left.started + duration)
        data |= {"duration_s": round(duration, 3), "ended": rfc3339(utc), "reason": "agent_restart"}
        new_id = self._new_id(self._wall())
        return draft(
            Event(new_id, left.camera, left.use_case, left.what, "ended", left.episode, utc, data), **self._names
        )

    def _device(self, what: str, data: Mapping[str, Any]) -> Draft:
        utc = self._wall()
        new_id = self._new_id(utc)
        return draft(Event(new_id, DEVICE, "device", what, None, new_id, utc, data), **self._names)


class LossLog:
    """Logs when a sink begins to lose messages and when that has been over for a minute, not each time. One thread."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, str], int] = {}
        self._since: dict[tuple[str, str], tuple[int, float]] = {}
        """For those that lose: how many were lost before, and when the last was."""

    def losing(self, kind: str) -> set[str]:
        """The sinks that do, for a kind of loss."""
        return {sink for of, sink in self._since if of == kind}

    def look(self, losses: Mapping[tuple[str, str], Losses], now: float) -> None:
        """At the totals after a commit; ``now`` monotonic."""
        for key, lost in losses.items():
            total = sum(lost.total.values())
            before = self._before.get(key, 0)
            if total > before:
                if key not in self._since:
                    self._begin(*key, lost.last_reason)
                self._since[key] = self._since.get(key, (before, now))[0], now
            self._before[key] = total
        for (kind, sink), (before, last) in list(self._since.items()):
            if now - last > _QUIET_S:
                del self._since[kind, sink]
                lost_now = self._before[kind, sink] - before
                log.warning("outbox: no longer %s for %s: %d in all", _DOING[kind], sink, lost_now)

    @staticmethod
    def _begin(kind: str, sink: str, reason: str) -> None:
        log.warning("outbox: %s for %s (%s); events/_device/%s tells which", _DOING[kind], sink, reason, kind)
