"""Attributes: how many of those who came through a zone had a bag, a trolley, a child with them. Told of groups only.

Everybody counts once for each visit, in the interval in which it is over, so that no two counts share a visit and their
difference says nothing. An interval with too few people is not told: they are counted with those of the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict

from edge_agent.config_aggregates import AttributesRule
from edge_agent.payload import Count
from edge_agent.types import Event
from edge_agent.usecases.aggregates import SMALL, AggregateAtWork, AggregateFacts, join_renamed
from edge_agent.usecases.conditions import Test
from edge_agent.usecases.evidence import FALSE, GRACE_S, TOLERANCE_S, TRUE
from edge_agent.usecases.presence import in_zone
from edge_agent.usecases.rules import RuleUseCase
from edge_agent.usecases.scene import Place, Scene
from edge_agent.usecases.spells import Teller

VISIT_S = 1.0
"""Whoever is seen in the zone for less was not there, and an attribute is judged from so much time on."""
YES, NO = 0.5, 0.2
"""Shares of the time judged: seen with it from the one on is a yes, up to the other a no; between them it is unknown."""


class Held(TypedDict):
    """One attribute of a group. ``yes`` and ``no`` are null where one of them is small: then neither is told."""

    yes: Annotated[Count | None, Field(description="who had it")]
    no: Annotated[Count | None, Field(description="who had it not")]
    unknown: Annotated[Count, Field(description="who could not be judged: these count for neither")]


class AttributeCounts(AggregateFacts):
    """A group of people, by their attributes. Nobody is in two of these for one visit."""

    people: Annotated[Count, Field(description="whose visit ended, at least `min_people`")]
    attributes: Annotated[dict[str, Held], Field(description="by the names of the rule")]


@dataclass(slots=True)
class _Visit:
    """Somebody in the zone: seconds there, and seconds with and without each attribute."""

    last: float
    seconds: float = 0.0
    held: list[float] = field(default_factory=list)
    lacked: list[float] = field(default_factory=list)

    def join(self, later: _Visit) -> None:
        self.last = max(self.last, later.last)
        self.seconds += later.seconds
        self.held = [a + b for a, b in zip(self.held, later.held, strict=True)]
        self.lacked = [a + b for a, b in zip(self.lacked, later.lacked, strict=True)]

    def verdicts(self) -> Iterator[int]:
        """0 for yes, 1 for no, 2 for unknown, attribute by attribute."""
        for held, lacked in zip(self.held, self.lacked, strict=True):
            judged = held + lacked
            if judged < VISIT_S - TOLERANCE_S:
                yield 2
            else:
                yield 0 if held >= YES * judged else 1 if held <= NO * judged else 2


class AttributesAtWork(AggregateAtWork[AttributesRule]):
    """One rule."""

    def __init__(self, rule: AttributesRule, place: Place, teller: Teller) -> None:
        super().__init__(rule, rule.interval_s, place, teller)
        conditions = rule.conditions()
        self._names = list(conditions)
        self._tests = [Test(condition, place, {}, somebody=False) for condition in conditions.values()]
        self._visits: dict[int, _Visit] = {}
        self._group()

    def _group(self) -> None:
        self._people = 0
        self._counts = [[0, 0, 0] for _ in self._names]

    def update(self, scene: Scene) -> Iterator[Event]:
        """See ``RuleAtWork``."""
        self._happened = {}
        if self.interval_over(scene.utc):
            yield from self._tell(scene.t, scene.utc)
        dt, things = self.passed(scene), scene.things
        join_renamed(self._visits, scene, _Visit.join)
        there = in_zone(scene, self.rule.zone, self.rule.anchor)
        rows, ids = np.flatnonzero(there == TRUE).tolist(), things.ids.tolist()
        if rows:
            answers = [np.broadcast_to(test.ask(scene), len(ids)) for test in self._tests]
            truths = np.array(answers).reshape(len(answers), len(ids))[:, rows].T.tolist()
            for row, truth in zip(rows, truths, strict=True):
                self._see(ids[row], truth, scene.t, dt)
        if len(self._visits) > len(rows):
            self._goodbye(dict(zip(ids, there.tolist(), strict=True)), scene.t)

    def _see(self, ident: int, truth: list[int], t: float, dt: float) -> None:
        visit = self._visits.get(ident)
        if visit is None:
            none = [0.0] * len(self._names)
            self._visits[ident] = _Visit(t, 0.0, none, list(none))
            return
        visit.last = t
        visit.seconds += dt
        for k, value in enumerate(truth):
            if value == TRUE:
                visit.held[k] += dt
            elif value == FALSE:
                visit.lacked[k] += dt

    def _goodbye(self, there: dict[int, int], t: float) -> None:
        """Of those who are not seen in the zone now: hidden ones may still be in it."""
        for ident, visit in list(self._visits.items()):
            outside = there.get(ident, FALSE) == FALSE
            if outside and (ident not in there or t - visit.last >= GRACE_S - TOLERANCE_S):
                self._count(self._visits.pop(ident))

    def _count(self, visit: _Visit) -> None:
        if visit.seconds < VISIT_S - TOLERANCE_S:
            return
        self._people += 1
        for counts, verdict in zip(self._counts, visit.verdicts(), strict=True):
            counts[verdict] += 1

    def _tell(self, t: float, utc: float) -> Iterator[Event]:
        """At the end of an interval."""
        if self._people < self.rule.min_people:
            self._happened = {"kept_back": 1}
            return
        self._happened = {"told": 1}
        held = {name: _held(*counts) for name, counts in zip(self._names, self._counts, strict=True)}
        data = {**self.facts(utc), "people": self._people, "attributes": held}
        self._group()
        yield from self.teller.fact("counts", (t, utc), data)

    def end(self, reason: str, t: float, utc: float) -> Iterator[Event]:
        """See ``RuleAtWork``. After a gap nobody knows who is still there; what was counted stays."""
        visits, self._visits, self._t = self._visits, {}, None
        for visit in visits.values():
            self._count(visit)
        if reason != "camera_gap":
            yield from self._tell(t, utc)


def _held(yes: int, no: int, unknown: int) -> Held:
    """Neither is told where one is small: all but one had a bag says as much about the one as that one did not."""
    if min(yes, no) < SMALL:
        return {"yes": None, "no": None, "unknown": unknown}
    return {"yes": yes, "no": no, "unknown": unknown}


class Attributes(RuleUseCase[AttributesRule]):
    """What groups of people have with them. Event: ``counts``."""

    name = "attributes"
    at_work = AttributesAtWork
