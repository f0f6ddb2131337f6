"""Protective equipment: somebody is in a zone without what has to be worn there. One episode for each person and thing.

What it goes by are the conditions of procedures: ``has`` and ``lacks``, by a classifier's votes or by objects on the body.
Whoever cannot be judged is UNKNOWN: that begins no episode and ends none, and is counted apart from who wears it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict

from edge_agent.config_classifiers import PpeRule
from edge_agent.config_sop import Condition
from edge_agent.payload import Count, Seconds
from edge_agent.types import Event
from edge_agent.usecases.conditions import Test
from edge_agent.usecases.evidence import FALSE, TRUE, UNKNOWN
from edge_agent.usecases.inertia import Inertia
from edge_agent.usecases.minutes import Minute
from edge_agent.usecases.presence import need_zone
from edge_agent.usecases.rules import RuleAtWork, RuleUseCase
from edge_agent.usecases.scene import Place, Scene
from edge_agent.usecases.spells import Begun, Lasting, Over, Spell, SpellFacts, Teller


class Unprotected(SpellFacts):
    """Somebody is seen without something that has to be worn."""

    zone: Annotated[str | None, Field(description="where; null: everywhere")]
    missing: Annotated[str, Field(description="what is not worn")]
    track_id: Annotated[Count, Field(description="who, by the tracker's last id; valid within one run of the agent")]


class UnprotectedStarted(Unprotected, Begun):
    """For long enough to be sure."""


class UnprotectedUpdated(Unprotected, Lasting):
    """Still."""


class UnprotectedEnded(Unprotected, Over):
    """They wear it, left the zone, or were not seen again."""


class PpeRuleMinute(TypedDict):
    """One rule in one minute; persons times seconds in the zone, for each thing to be worn."""

    worn_s: Annotated[Seconds, Field(description="seen to be worn")]
    missing_s: Annotated[Seconds, Field(description="seen to be missing")]
    unknown_s: Annotated[Seconds, Field(description="could not be told: this is no proof that it was worn")]
    episodes: Annotated[Count, Field(description="episodes that began")]


class PpeMinute(TypedDict):
    """What ppe saw in one minute."""

    rules: Annotated[dict[str, PpeRuleMinute], Field(description="by name of the rule")]
    events_held_back: Annotated[Count, Field(description="events that the rate cap held back")]


@dataclass(slots=True)
class _Lack:
    missing: str
    track: int
    inertia: Inertia
    spell: Spell
    last: float = field(default=0.0)


class PpeAtWork(RuleAtWork[PpeRule]):
    """One rule."""

    def __init__(self, rule: PpeRule, place: Place, teller: Teller) -> None:
        super().__init__(rule, place, teller)
        need_zone(place, rule.zone)
        self._lacks = {
            label: Test(Condition(zone=rule.zone, anchor=rule.anchor, lacks=label), place, {}, somebody=False)
            for label in rule.wears
        }
        self._known: dict[tuple[int, str], _Lack] = {}
        self._levels = {"worn": 0.0, "missing": 0.0, "unknown": 0.0}
        self._began = 0

    @property
    def open(self) -> int:
        """See ``RuleAtWork``."""
        return sum(lack.spell.on and bool(lack.spell.ident) for lack in self._known.values())

    def update(self, scene: Scene) -> Iterator[Event]:
        """See ``RuleAtWork``."""
        things = scene.things
        self._began = 0
        self._levels = dict.fromkeys(self._levels, 0.0)
        for newcomer, known in things.renamed:
            for label in self._lacks:
                if (lack := self._known.pop((newcomer, label), None)) is not None:
                    self._known.setdefault((known, label), lack)
        where = scene.in_zone(self.rule.zone, self.rule.anchor) if self.rule.zone is not None else None
        ids, tracks = things.ids.tolist(), things.tracks.tolist()
        for label, test in self._lacks.items():
            answer = test.ask(scene)
            lacking = answer if isinstance(answer, np.ndarray) else np.full(len(ids), answer, np.int8)
            for row in np.flatnonzero(scene.persons).tolist():
                outside = scene.hidden[row] or (where is not None and where[row] != TRUE)
                if not outside:
                    name = {TRUE: "missing", UNKNOWN: "unknown", FALSE: "worn"}[int(lacking[row])]
                    self._levels[name] += 1
                key = (ids[row], label)
                if key in self._known or lacking[row] == TRUE:
                    yield from self._judge(key, int(lacking[row]), tracks[row], scene)
        yield from self._goodbye(set(ids), scene)

    def _judge(self, key: tuple[int, str], lacking: int, track: int, scene: Scene) -> Iterator[Event]:
        lack = self._known.get(key)
        if lack is None:
            inertia = Inertia(self.rule.min_duration_s, self.rule.leave_duration_s)
            lack = self._known[key] = _Lack(key[1], track, inertia, Spell(self.rule.update_at_s))
        if lacking == TRUE:
            lack.last, lack.track = scene.t, track
        lack.inertia.update({TRUE: True, UNKNOWN: None, FALSE: False}[lacking], scene.t)
        if lacking == UNKNOWN:
            return
        since = lack.inertia.since if lack.inertia.since is not None else lack.last
        change = lack.spell.update(lack.inertia.on, since, lack.last, scene.t)
        self._began += change is not None and change.phase == "started" and not change.again
        yield from self.teller.change("missing", lack.spell, change, scene.now, partial(self._facts, lack))
        if lack.inertia.since is None and not lack.spell.on:
            del self._known[key]

    def _goodbye(self, ids: set[int], scene: Scene) -> Iterator[Event]:
        for key in [key for key in self._known if key[0] not in ids]:
            lack = self._known.pop(key)
            change = lack.spell.end("lost", lack.last)
            yield from self.teller.change("missing", lack.spell, change, scene.now, partial(self._facts, lack))

    def end(self, reason: str, t: float, utc: float) -> Iterator[Event]:
        """See ``RuleAtWork``."""
        known, self._known = self._known, {}
        for lack in known.values():
            change = lack.spell.end(reason, t)
            yield from self.teller.change("missing", lack.spell, change, (t, utc), partial(self._facts, lack))

    def levels(self) -> Mapping[str, float]:
        """See ``RuleAtWork``."""
        return self._levels

    def happened(self) -> Mapping[str, int]:
        """See ``RuleAtWork``."""
        return {"episodes": self._began} if self._began else {}

    def minute(self, minute: Minute, prefix: str) -> PpeRuleMinute:
        """See ``RuleAtWork``."""
        return {
            "worn_s": minute.lasted(f"{prefix}worn"),
            "missing_s": minute.lasted(f"{prefix}missing"),
            "unknown_s": minute.lasted(f"{prefix}unknown"),
            "episodes": minute.times(f"{prefix}episodes"),
        }

    def _facts(self, lack: _Lack) -> Mapping[str, object]:
        return {"rule": self.rule.name, "zone": self.rule.zone, "missing": lack.missing, "track_id": lack.track}


class Ppe(RuleUseCase[PpeRule]):
    """Who lacks what has to be worn. Events: ``missing`` started, updated, ended."""

    name = "ppe"
    at_work = PpeAtWork
