"""Attention: what share of the people in a zone face a direction, over time. Told of groups only, and never exactly.

It says where heads point, and not what is in them: it knows neither interest nor mood, and nobody can be asked for by name.
Only time counts in which enough people can be judged. The group are those who could be in half of it or more. One that
differs from one told before by a few people is not told until more have come or gone, or it is the same again: the
difference would be about these few.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Annotated

import numpy as np
from pydantic import Field

from edge_agent.config_aggregates import AttentionRule
from edge_agent.config_sop import Condition
from edge_agent.payload import Count, Seconds
from edge_agent.types import Event
from edge_agent.usecases.aggregates import SMALL, AggregateAtWork, AggregateFacts
from edge_agent.usecases.conditions import Test
from edge_agent.usecases.evidence import TOLERANCE_S, TRUE, UNKNOWN
from edge_agent.usecases.presence import in_zone
from edge_agent.usecases.rules import RuleUseCase
from edge_agent.usecases.scene import Place, Scene
from edge_agent.usecases.spells import Teller

LOWEST, HIGHEST, STEP = 0.1, 0.9, 0.1
"""Shares are told in these steps, and nothing beyond: *all of them* would be about each of them."""
PEOPLE_STEP = 5
_REMEMBERED = 32
"""Groups told before; older ones have no people in common with that of now, as far as the agent knows."""


class AttentionShare(AggregateFacts):
    """A group of people, and how many of it faced the direction, all in all."""

    facing: Annotated[list[str], Field(description="labels of which one says that somebody faces it")]
    counted_s: Annotated[Seconds, Field(description="time in which at least `min_people` could be judged")]
    people: Annotated[Count, Field(description=f"judged at once, on average, to the nearest {PEOPLE_STEP}")]
    share: Annotated[
        float,
        Field(ge=LOWEST, le=HIGHEST, description="of them who faced it; 0.1 stands for less too, and 0.9 for more"),
    ]


class AttentionAtWork(AggregateAtWork[AttentionRule]):
    """One rule."""

    def __init__(self, rule: AttentionRule, place: Place, teller: Teller) -> None:
        super().__init__(rule, rule.interval_s, place, teller)
        facing = Condition(any=[Condition(has=label) for label in rule.facing])
        self._test = Test(facing, place, {}, somebody=False)
        self._told: deque[set[int]] = deque(maxlen=_REMEMBERED)
        self._forget()

    def _forget(self) -> None:
        self._judged: dict[int, float] = {}
        self._counted_s = self._judged_s = self._facing_s = 0.0

    def update(self, scene: Scene) -> Iterator[Event]:
        """See ``RuleAtWork``."""
        self._happened = {}
        if self.interval_over(scene.utc):
            yield from self._tell(scene.t, scene.utc)
        dt, ids = self.passed(scene), scene.things.ids
        for newcomer, known in scene.things.renamed:
            if (seconds := self._judged.pop(newcomer, None)) is not None:
                self._judged[known] = self._judged.get(known, 0.0) + seconds
        there = in_zone(scene, self.rule.zone, self.rule.anchor) == TRUE
        if np.count_nonzero(there) < self.rule.min_people:
            return
        faces = np.broadcast_to(self._test.ask(scene), len(ids))
        judged = there & (faces != UNKNOWN)
        people = int(np.count_nonzero(judged))
        if people < self.rule.min_people:
            return
        self._counted_s += dt
        self._judged_s += people * dt
        self._facing_s += int(np.count_nonzero(faces[judged] == TRUE)) * dt
        for ident in ids[judged].tolist():
            self._judged[ident] = self._judged.get(ident, 0.0) + dt

    def _tell(self, t: float, utc: float) -> Iterator[Event]:
        """At the end of an interval."""
        group = {ident for ident, seconds in self._judged.items() if seconds >= self._counted_s / 2}
        alike = any(0 < len(group ^ told) < SMALL for told in self._told)
        if alike or self._counted_s < self.rule.min_counted_s - TOLERANCE_S:
            self._happened = {"kept_back": 1}
            return
        self._happened = {"told": 1}
        people, share = self._judged_s / self._counted_s, self._facing_s / self._judged_s
        data = {
            **self.facts(utc),
            "facing": self.rule.facing,
            "counted_s": round(self._counted_s, 3),
            "people": PEOPLE_STEP * round(people / PEOPLE_STEP),
            "share": round(min(max(STEP * round(share / STEP), LOWEST), HIGHEST), 3),
        }
        self._told.append(group)
        self._forget()
        yield from self.teller.fact("share", (t, utc), data)

    def end(self, reason: str, t: float, utc: float) -> Iterator[Event]:
        """See ``RuleAtWork``."""
        self._t = None
        if reason != "camera_gap":
            yield from self._tell(t, utc)


class Attention(RuleUseCase[AttentionRule]):
    """What share of groups faces a direction. Event: ``share``."""

    name = "attention"
    at_work = AttentionAtWork
