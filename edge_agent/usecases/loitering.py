"""Loitering: somebody stays in a zone for too long. One episode for each person, also over short times out of sight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from edge_agent.config_zones import LoiteringRule
from edge_agent.payload import Count, NonNegative, Seconds
from edge_agent.types import Event
from edge_agent.usecases.evidence import FALSE, GRACE_S, TOLERANCE_S, TRUE
from edge_agent.usecases.minutes import Minute
from edge_agent.usecases.presence import in_zone, need_zone
from edge_agent.usecases.rules import RuleAtWork, RuleUseCase
from edge_agent.usecases.scene import Place, Scene
from edge_agent.usecases.schedule import Schedule
from edge_agent.usecases.spells import Begun, Lasting, Over, Spell, SpellFacts, Teller


class Loiterer(SpellFacts):
    """Somebody who stays for too long; it began when they came into the zone."""

    zone: Annotated[str | None, Field(description="where; null: everywhere")]
    dwell_s: Annotated[Seconds, Field(description="longer than this is too long")]
    track_id: Annotated[Count, Field(description="who, by the tracker's last id; valid within one run of the agent")]
    unseen_s: Annotated[Seconds, Field(description="of the time, for how long they were out of sight")]


class LoiteringStarted(Loiterer, Begun):
    """They have been there for too long now."""


class LoiteringUpdated(Loiterer, Lasting):
    """They are still there."""


class LoiteringEnded(Loiterer, Over):
    """They left the zone, or were not seen again."""


class LoiteringRuleMinute(TypedDict):
    """One rule in one minute."""

    people_mean: Annotated[NonNegative, Field(description="who were in the zone, over the time observed")]
    people_max: Annotated[Count, Field(description="at once")]
    loiterers_max: Annotated[Count, Field(description="who stayed for too long, at once")]
    loitering_s: Annotated[Seconds, Field(description="time beyond the limit; two at once count twice")]
    episodes: Annotated[Count, Field(description="who came to be there for too long")]


class LoiteringMinute(TypedDict):
    """What loitering saw in one minute."""

    rules: Annotated[dict[str, LoiteringRuleMinute], Field(description="by name of the rule")]
    events_held_back: Annotated[Count, Field(description="events that the rate cap held back")]


@dataclass(slots=True)
class _Stay:
    began: float
    last: float
    spell: Spell
    track: int
    unseen_s: float = 0.0


class LoiteringAtWork(RuleAtWork[LoiteringRule]):
    """One rule; stays by the id of ``things``."""

    def __init__(self, rule: LoiteringRule, place: Place, teller: Teller) -> None:
        super().__init__(rule, place, teller)
        need_zone(place, rule.zone)
        self._schedule = Schedule(rule.time, rule.days) if rule.time or rule.days else None
        self._stays: dict[int, _Stay] = {}
        self._began = self._people = 0

    @property
    def open(self) -> int:
        """See ``RuleAtWork``."""
        return sum(stay.spell.on and bool(stay.spell.ident) for stay in self._stays.values())

    def update(self, scene: Scene) -> Iterator[Event]:
        """See ``RuleAtWork``."""
        self._began = self._people = 0
        if self._schedule is not None and scene.utc not in self._schedule:
            yield from self.end("schedule", scene.t, scene.utc)
            return
        things, stays = scene.things, self._stays
        for newcomer, known in things.renamed:
            if (stay := stays.pop(newcomer, None)) is not None:
                stays.setdefault(known, stay)
        there = in_zone(scene, self.rule.zone, self.rule.anchor)
        for row in (there == TRUE).nonzero()[0].tolist():
            self._people += 1
            yield from self._stays_on(int(things.ids[row]), int(things.tracks[row]), scene)
        if len(stays) > self._people:
            yield from self._goodbye(dict(zip(things.ids.tolist(), there.tolist(), strict=True)), scene)

    def _stays_on(self, ident: int, track: int, scene: Scene) -> Iterator[Event]:
        stay, t = self._stays.get(ident), scene.t
        if stay is None:
            stay = self._stays[ident] = _Stay(t, t, Spell(self.rule.update_at_s), track)
        if t - stay.last > GRACE_S:
            stay.unseen_s += t - stay.last
        stay.last, stay.track = t, track
        on = stay.spell.on or t - stay.began >= self.rule.dwell_s - TOLERANCE_S
        change = stay.spell.update(on, stay.began, t, t)
        self._began += change is not None and change.phase == "started" and not change.again
        yield from self.teller.change("stay", stay.spell, change, scene.now, partial(self._facts, stay))

    def _goodbye(self, there: Mapping[int, int], scene: Scene) -> Iterator[Event]:
        """Of those who are not seen in the zone now: hidden ones may still be in it."""
        for ident, stay in list(self._stays.items()):
            value = there.get(ident)
            if value is None:
                reason = "lost"
            elif value == FALSE and scene.t - stay.last >= self.rule.leave_duration_s - TOLERANCE_S:
                reason = "over"
            else:
                continue
            del self._stays[ident]
            change = stay.spell.end(reason, stay.last)
            yield from self.teller.change("stay", stay.spell, change, scene.now, partial(self._facts, stay))

    def end(self, reason: str, t: float, utc: float) -> Iterator[Event]:
        """See ``RuleAtWork``."""
        stays, self._stays = self._stays, {}
        self._people = 0
        for stay in stays.values():
            yield from self.teller.change(
                "stay", stay.spell, stay.spell.end(reason, t), (t, utc), partial(self._facts, stay)
            )

    def levels(self) -> Mapping[str, float]:
        """See ``RuleAtWork``."""
        return {"people": float(self._people), "loiterers": float(sum(s.spell.on for s in self._stays.values()))}

    def happened(self) -> Mapping[str, int]:
        """See ``RuleAtWork``."""
        return {"episodes": self._began} if self._began else {}

    def minute(self, minute: Minute, prefix: str) -> LoiteringRuleMinute:
        """See ``RuleAtWork``."""
        return {
            "people_mean": minute.mean(f"{prefix}people"),
            "people_max": minute.most(f"{prefix}people"),
            "loiterers_max": minute.most(f"{prefix}loiterers"),
            "loitering_s": minute.lasted(f"{prefix}loiterers"),
            "episodes": minute.times(f"{prefix}episodes"),
        }

    def _facts(self, stay: _Stay) -> Mapping[str, object]:
        return {
            "rule": self.rule.name,
            "zone": self.rule.zone,
            "dwell_s": self.rule.dwell_s,
            "track_id": stay.track,
            "unseen_s": round(stay.unseen_s, 3),
        }


class Loitering(RuleUseCase[LoiteringRule]):
    """Who stays for too long. Events: ``stay`` started, updated, ended."""

    name = "loitering"
    at_work = LoiteringAtWork
