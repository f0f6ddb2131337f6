"""What use cases that tell of groups only have in common: intervals of UTC, and what is left unsaid.

Somebody who knows all about a group but one person learns about that one from any exact count; and from two counts of
almost the same people, by their difference. So no count of a small group is told, no count that is small itself, and no two
counts of almost the same people (L. Sweeney, k-anonymity, 2002; L. Willenborg and T. de Waal, Elements of Statistical
Disclosure Control, 2001, on thresholds, complements, and top and bottom coding).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import Field
from typing_extensions import TypedDict

from edge_agent.config_aggregates import AggregateRule
from edge_agent.payload import Count, Seconds, Time
from edge_agent.types import rfc3339
from edge_agent.usecases.minutes import Minute
from edge_agent.usecases.presence import need_zone
from edge_agent.usecases.rules import RuleAtWork
from edge_agent.usecases.scene import Place, Scene
from edge_agent.usecases.spells import RuleFacts, Teller

SMALL = 5
"""A count below this is small; and so is a difference between two groups."""


class AggregateFacts(RuleFacts):
    """What every aggregate says. Its times are those of intervals, never of a person."""

    zone: Annotated[str | None, Field(description="where; null: everywhere")]
    began: Annotated[Time, Field(description="of the first interval that it is about, or when the camera began")]
    ended: Annotated[Time, Field(description="of the last one, or when the camera ended")]
    observed_s: Annotated[Seconds, Field(description="of that, how long the camera delivered")]


class AggregateRuleMinute(TypedDict):
    """One rule in one minute. What it counts is not in here."""

    told: Annotated[Count, Field(description="intervals that ended and were told")]
    kept_back: Annotated[
        Count, Field(description="intervals that ended with too few people or too little time, and go on with the next")
    ]


class AggregateMinute(TypedDict):
    """Of a use case that tells of groups only."""

    rules: Annotated[dict[str, AggregateRuleMinute], Field(description="by name of the rule")]
    events_held_back: Annotated[Count, Field(description="events that the rate cap held back")]


A = TypeVar("A", bound=AggregateRule)
T = TypeVar("T")


class AggregateAtWork(RuleAtWork[A]):
    """One rule, with its interval. Nothing of it outlives the process: what was not told is gone with it."""

    def __init__(self, rule: A, interval_s: float, place: Place, teller: Teller) -> None:
        super().__init__(rule, place, teller)
        need_zone(place, rule.zone)
        self._interval_s = interval_s
        self._slot: int | None = None
        self._began = 0.0
        self._t: float | None = None
        self._observed_s = 0.0
        self._happened: dict[str, int] = {}

    def passed(self, scene: Scene) -> float:
        """Seconds since the last frame; 0 after a gap."""
        dt = 0.0 if self._t is None else scene.t - self._t
        self._t = scene.t
        self._observed_s += dt
        return dt

    def interval_over(self, utc: float) -> bool:
        """Whether an interval ended before this frame, by the clock: also where that was set."""
        slot, before = int(utc // self._interval_s), self._slot
        if before is None:
            self._began = utc
        self._slot = slot
        return before is not None and slot != before

    def facts(self, ended: float) -> dict[str, Any]:
        """What every aggregate says; the next one begins at ``ended`` (UTC)."""
        said = {
            "rule": self.rule.name,
            "zone": self.rule.zone,
            "began": rfc3339(min(self._began, ended)),
            "ended": rfc3339(ended),
            "observed_s": round(self._observed_s, 3),
        }
        self._began, self._observed_s = ended, 0.0
        return said

    def levels(self) -> Mapping[str, float]:
        """See ``RuleAtWork``: none, as a level of every minute would tell what the interval keeps back."""
        return {}

    def happened(self) -> Mapping[str, int]:
        """See ``RuleAtWork``."""
        return self._happened

    def minute(self, minute: Minute, prefix: str) -> AggregateRuleMinute:
        """See ``RuleAtWork``."""
        return {"told": minute.times(f"{prefix}told"), "kept_back": minute.times(f"{prefix}kept_back")}


def join_renamed(known: dict[int, T], scene: Scene, join: Callable[[T, T], None]) -> None:
    """Newcomers turned out to be somebody known: what is kept of both goes under the one id."""
    for newcomer, before in scene.things.renamed:
        if (later := known.pop(newcomer, None)) is not None:
            if before in known:
                join(known[before], later)
            else:
                known[before] = later
