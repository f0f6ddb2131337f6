"""Line count: who crosses a line, by direction; whoever dithers on it is counted once or not at all (``lines.Line``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from edge_agent.config_zones import LineRule
from edge_agent.payload import Count
from edge_agent.types import Event
from edge_agent.usecases.minutes import Minute
from edge_agent.usecases.rules import RuleAtWork, RuleUseCase
from edge_agent.usecases.scene import Place, Scene
from edge_agent.usecases.spells import RuleFacts, Teller


class Crossing(RuleFacts):
    """Somebody crossed a line, and is clear of it."""

    line: Annotated[str, Field(description="which")]
    direction: Annotated[str, Field(description="as the rule calls it; forward: from the line's left to its right")]
    track_id: Annotated[Count, Field(description="who; valid within one run of the agent")]
    counts: Annotated[
        dict[str, Count], Field(description="crossings since the agent started, by direction, this one included")
    ]


class LineCountMinute(TypedDict):
    """What line count saw in one minute."""

    rules: Annotated[dict[str, dict[str, Count]], Field(description="crossings by rule and direction")]
    events_held_back: Annotated[Count, Field(description="events that the rate cap held back; they are counted")]


class LineAtWork(RuleAtWork[LineRule]):
    """One rule."""

    def __init__(self, rule: LineRule, place: Place, teller: Teller) -> None:
        super().__init__(rule, place, teller)
        place.watch(rule.line, rule.anchor)
        self.counts = {rule.forward: 0, rule.backward: 0}
        self._now: dict[str, int] = {}

    def update(self, scene: Scene) -> Iterator[Event]:
        """See ``RuleAtWork``."""
        rule, things = self.rule, scene.things
        self._now = {}
        for ident, sign in self.place.crossings(rule.line, rule.anchor):
            (row,) = (things.ids == ident).nonzero()[0].tolist()
            if not scene.persons[row]:
                continue
            direction = rule.forward if sign > 0 else rule.backward
            self.counts[direction] += 1
            self._now[direction] = self._now.get(direction, 0) + 1
            if rule.events:
                data: Crossing = {
                    "rule": rule.name,
                    "line": rule.line,
                    "direction": direction,
                    "track_id": int(things.tracks[row]),
                    "counts": dict(self.counts),
                }
                yield from self.teller.fact("crossing", scene.now, data)

    def levels(self) -> Mapping[str, float]:
        """See ``RuleAtWork``: a line has none."""
        return {}

    def happened(self) -> Mapping[str, int]:
        """See ``RuleAtWork``."""
        return self._now

    def minute(self, minute: Minute, prefix: str) -> Mapping[str, int]:
        """See ``RuleAtWork``."""
        return {direction: minute.times(prefix + direction) for direction in self.counts}


class LineCount(RuleUseCase[LineRule]):
    """Who crosses lines. Events: ``crossing``, a single fact."""

    name = "line_count"
    at_work = LineAtWork
