"""Intrusion: somebody is in a zone where, or at a time when, nobody may be. One episode for each rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from edge_agent.config_zones import IntrusionRule
from edge_agent.payload import Count, Seconds
from edge_agent.types import Event
from edge_agent.usecases.inertia import Inertia
from edge_agent.usecases.minutes import Minute
from edge_agent.usecases.presence import MAX_LISTED, Presence, need_zone, presence
from edge_agent.usecases.rules import RuleAtWork, RuleUseCase
from edge_agent.usecases.scene import Place, Scene
from edge_agent.usecases.schedule import Schedule
from edge_agent.usecases.spells import Begun, Lasting, Over, Spell, SpellFacts, Teller


class Intruders(SpellFacts):
    """Somebody is where nobody may be."""

    zone: Annotated[str, Field(description="where")]
    people: Annotated[Count, Field(description="who are there now")]
    people_max: Annotated[Count, Field(description="most who were there at once")]
    track_ids: Annotated[
        list[Count],
        Field(max_length=MAX_LISTED, description="who are in view there; valid within one run of the agent"),
    ]


class IntrusionStarted(Intruders, Begun):
    """Somebody came in."""


class IntrusionUpdated(Intruders, Lasting):
    """Somebody is still there, or more came."""


class IntrusionEnded(Intruders, Over):
    """Nobody is there any more."""


class IntrusionRuleMinute(TypedDict):
    """One rule in one minute."""

    people_max: Annotated[Count, Field(description="at once, while nobody may be there")]
    intrusion_s: Annotated[Seconds, Field(description="time with somebody there")]
    episodes: Annotated[Count, Field(description="times that this began")]


class IntrusionMinute(TypedDict):
    """What intrusion saw in one minute."""

    rules: Annotated[dict[str, IntrusionRuleMinute], Field(description="by name of the rule")]
    events_held_back: Annotated[Count, Field(description="events that the rate cap held back")]


class IntrusionAtWork(RuleAtWork[IntrusionRule]):
    """One rule."""

    def __init__(self, rule: IntrusionRule, place: Place, teller: Teller) -> None:
        super().__init__(rule, place, teller)
        need_zone(place, rule.zone)
        self._schedule = Schedule(rule.time, rule.days) if rule.time or rule.days else None
        self._forget()

    def _forget(self) -> None:
        self._there = Inertia(self.rule.min_duration_s, self.rule.leave_duration_s)
        self._spell = Spell(self.rule.update_at_s, grows=True)
        self._now: Presence | None = None
        self._last = 0.0
        self._began = False

    @property
    def open(self) -> int:
        """See ``RuleAtWork``."""
        return int(self._spell.on and bool(self._spell.ident))

    def update(self, scene: Scene) -> Iterator[Event]:
        """See ``RuleAtWork``."""
        self._began = False
        if self._schedule is not None and scene.utc not in self._schedule:
            yield from self.end("schedule", scene.t, scene.utc)
            return
        self._now = now = presence(scene, self.rule.zone, self.rule.anchor)
        if now.people:
            self._last = scene.t
        self._there.update(now.people > 0, scene.t)
        since = self._there.since if self._there.since is not None else self._last
        change = self._spell.update(self._there.on, since, self._last, scene.t, now.people)
        self._began = change is not None and change.phase == "started" and not change.again
        yield from self.teller.change("presence", self._spell, change, scene.now, self._facts)

    def end(self, reason: str, t: float, utc: float) -> Iterator[Event]:
        """See ``RuleAtWork``."""
        yield from self.teller.change("presence", self._spell, self._spell.end(reason, t), (t, utc), self._facts)
        self._forget()

    def levels(self) -> Mapping[str, float]:
        """See ``RuleAtWork``."""
        return {"people": float(self._now.people if self._now else 0), "intrusion": float(self._spell.on)}

    def happened(self) -> Mapping[str, int]:
        """See ``RuleAtWork``."""
        return {"episodes": 1} if self._began else {}

    def minute(self, minute: Minute, prefix: str) -> IntrusionRuleMinute:
        """See ``RuleAtWork``."""
        return {
            "people_max": minute.most(f"{prefix}people"),
            "intrusion_s": minute.lasted(f"{prefix}intrusion"),
            "episodes": minute.times(f"{prefix}episodes"),
        }

    def _facts(self) -> Mapping[str, object]:
        now = self._now
        return {
            "rule": self.rule.name,
            "zone": self.rule.zone,
            "people": now.people if now else 0,
            "people_max": self._spell.people_max,
            "track_ids": now.listed if now else [],
        }


class Intrusion(RuleUseCase[IntrusionRule]):
    """Who is where nobody may be. Events: ``presence`` started, updated, ended."""

    name = "intrusion"
    at_work = IntrusionAtWork
