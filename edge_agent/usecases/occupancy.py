"""Occupancy: how many people are in a zone, or by its doors in a room that is not seen, and whether that is too many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from edge_agent.config_sop import Anchor
from edge_agent.config_zones import OccupancyRule
from edge_agent.payload import Count, NonNegative, Seconds
from edge_agent.types import Event
from edge_agent.usecases.inertia import Inertia
from edge_agent.usecases.lines import goes
from edge_agent.usecases.minutes import Minute
from edge_agent.usecases.presence import need_zone, presence
from edge_agent.usecases.rules import RuleAtWork, RuleUseCase
from edge_agent.usecases.scene import Place, Scene
from edge_agent.usecases.spells import Begun, Lasting, Over, Spell, SpellFacts, Teller


class OverCapacity(SpellFacts):
    """More people than the capacity, for longer than a moment."""

    zone: Annotated[str | None, Field(description="where; null: everywhere, or by the doors")]
    capacity: Annotated[Count, Field(description="more are too many")]
    people: Annotated[Count, Field(description="who are there now")]
    people_max: Annotated[Count, Field(description="most who were there at once")]


class OverCapacityStarted(OverCapacity, Begun):
    """Too many came."""


class OverCapacityUpdated(OverCapacity, Lasting):
    """They are still too many."""


class OverCapacityEnded(OverCapacity, Over):
    """They are no longer too many."""


class OccupancyRuleMinute(TypedDict):
    """One rule in one minute."""

    people_mean: Annotated[NonNegative, Field(description="over the time observed")]
    people_max: Annotated[Count, Field(description="at once")]
    came: Annotated[Count, Field(description="who came in over the doors; 0 without doors")]
    went: Annotated[Count, Field(description="who went out over the doors; 0 without doors")]
    over_s: Annotated[Seconds, Field(description="time with too many")]
    episodes: Annotated[Count, Field(description="times that this began")]


class OccupancyMinute(TypedDict):
    """What occupancy saw in one minute."""

    rules: Annotated[dict[str, OccupancyRuleMinute], Field(description="by name of the rule")]
    events_held_back: Annotated[Count, Field(description="events that the rate cap held back")]


class Doors:
    """The balance of a room: who came less who went. It is never below nobody: whoever goes then was not seen to come."""

    def __init__(self, rule: OccupancyRule, place: Place) -> None:
        self._doors, self._anchor, self._place = rule.doors, rule.anchor, place
        self.inside = rule.start_count
        self.came = self.went = 0
        """In the last frame."""
        for door in rule.doors:
            place.watch(door.line, rule.anchor)

    def update(self, scene: Scene) -> int:
        """How many are inside after the next frame."""
        self.came = self.went = 0
        people = set(scene.things.ids[scene.persons].tolist())
        for door in self._doors:
            for ident, sign in self._place.crossings(door.line, self._anchor):
                if ident not in people:
                    continue
                if goes(door.inward, sign):
                    self.came += 1
                else:
                    self.went += 1
        self.inside = max(self.inside + self.came - self.went, 0)
        return self.inside


class OccupancyAtWork(RuleAtWork[OccupancyRule]):
    """One rule."""

    def __init__(self, rule: OccupancyRule, place: Place, teller: Teller) -> None:
        super().__init__(rule, place, teller)
        need_zone(place, rule.zone)
        self._anchor: Anchor = rule.anchor
        self._doors = Doors(rule, place) if rule.doors else None
        self._people = 0
        self._last = 0.0
        self._forget()

    def _forget(self) -> None:
        self._over = Inertia(self.rule.min_duration_s, self.rule.leave_duration_s)
        self._spell = Spell(self.rule.update_at_s)
        self._began = False

    @property
    def open(self) -> int:
        """See ``RuleAtWork``."""
        return int(self._spell.on and bool(self._spell.ident))

    def update(self, scene: Scene) -> Iterator[Event]:
        """See ``RuleAtWork``."""
        rule = self.rule
        if self._doors is not None:
            self._people = self._doors.update(scene)
        else:
            self._people = presence(scene, rule.zone, self._anchor).people
        self._began = False
        if rule.capacity is None:
            return
        over = self._people > rule.capacity
        if over:
            self._last = scene.t
        self._over.update(over, scene.t)
        since = self._over.since if self._over.since is not None else self._last
        change = self._spell.update(self._over.on, since, self._last, scene.t, self._people)
        self._began = change is not None and change.phase == "started" and not change.again
        yield from self.teller.change("over_capacity", self._spell, change, scene.now, self._facts)

    def end(self, reason: str, t: float, utc: float) -> Iterator[Event]:
        """See ``RuleAtWork``; the balance of doors stays."""
        change = self._spell.end(reason, t)
        yield from self.teller.change("over_capacity", self._spell, change, (t, utc), self._facts)
        self._forget()

    def levels(self) -> Mapping[str, float]:
        """See ``RuleAtWork``."""
        return {"people": float(self._people), "over": float(self._spell.on)}

    def happened(self) -> Mapping[str, int]:
        """See ``RuleAtWork``."""
        doors = self._doors
        if not self._began and (doors is None or not (doors.came or doors.went)):
            return {}
        there = {"came": doors.came, "went": doors.went} if doors is not None else {}
        return there | {"episodes": int(self._began)}

    def minute(self, minute: Minute, prefix: str) -> OccupancyRuleMinute:
        """See ``RuleAtWork``."""
        return {
            "people_mean": minute.mean(f"{prefix}people"),
            "people_max": minute.most(f"{prefix}people"),
            "came": minute.times(f"{prefix}came"),
            "went": minute.times(f"{prefix}went"),
            "over_s": minute.lasted(f"{prefix}over"),
            "episodes": minute.times(f"{prefix}episodes"),
        }

    def _facts(self) -> Mapping[str, object]:
        return {
            "rule": self.rule.name,
            "zone": self.rule.zone,
            "capacity": self.rule.capacity or 0,
            "people": self._people,
            "people_max": self._spell.people_max,
        }


class Occupancy(RuleUseCase[OccupancyRule]):
    """How many are there. Events: ``over_capacity`` started, updated, ended; the counts are in the metrics."""

    name = "occupancy"
    at_work = OccupancyAtWork
