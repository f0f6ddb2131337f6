"""Aggregates per minute of UTC: what was seen, weighted by the time it was seen for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias

from pydantic import Field
from typing_extensions import TypedDict

from edge_agent.payload import Count, Metres, NonNegative, Seconds
from edge_agent.types import Metric

_CLOCK_STEP_S = 1.0
"""UTC that differs from the monotonic clock by more has been set; the minute begun is closed then."""


class Occupancy(TypedDict):
    """How many people were in a zone."""

    mean: Annotated[NonNegative, Field(description="over the time observed")]
    max: Annotated[Count, Field(description="at once")]


class DistancingMinute(TypedDict):
    """What social distancing saw in one minute; means are over the time observed. Without exemption: as if no group were exempt."""

    people_mean: Annotated[NonNegative, Field(description="people who count")]
    people_max: Annotated[Count, Field(description="at once")]
    pairs_mean: Annotated[NonNegative, Field(description="pairs nearer than the limit")]
    pairs_max: Annotated[Count, Field(description="at once")]
    violations: Annotated[Count, Field(description="episodes that began")]
    violation_s: Annotated[Seconds, Field(description="time in violations; two at once count twice")]
    violations_without_exemption: Annotated[Count, Field(description="episodes that would have begun")]
    violation_s_without_exemption: Annotated[Seconds, Field(description="time that would have been in them")]
    min_distance_m: Annotated[Metres | None, Field(description="the pair nearest for sure; null: no pair was seen")]
    mean_distance_m: Annotated[Metres | None, Field(description="of all pairs seen; null: no pair was seen")]
    occupancy: Annotated[dict[str, Occupancy], Field(description="by name of the zone")]
    events_held_back: Annotated[Count, Field(description="events that the rate cap held back")]


@dataclass(frozen=True, slots=True)
class Sample:
    """What one frame shows; it holds until the next frame."""

    levels: Mapping[str, float] = field(default_factory=dict)
    """Averaged over time, and the highest of them; occupancies of zones are named ``zone/<name>``."""
    closest: tuple[float, float] | None = None
    """Distance and its standard error, metres, of the pair that is nearest for sure (by their sum)."""
    distance_mean_m: float | None = None


@dataclass(slots=True)
class Minute:
    """What was seen in one minute. ``start`` is UTC, POSIX seconds."""

    start: float
    observed_s: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    highest: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    closest: tuple[float, float] | None = None
    distance_s: float = 0.0
    distance_m_s: float = 0.0

    def mean(self, name: str) -> float:
        """Of a level over the time observed."""
        return round(self.seconds.get(name, 0.0) / self.observed_s, 3) if self.observed_s > 0 else 0.0

    def most(self, name: str) -> int:
        """The highest of a level."""
        return int(self.highest.get(name, 0))

    def lasted(self, name: str) -> float:
        """Seconds times the level: of one that is 0 or 1, for how long it was 1."""
        return round(self.seconds.get(name, 0.0), 3)

    def times(self, name: str) -> int:
        """How often it happened."""
        return self.counts.get(name, 0)


MinuteData: TypeAlias = Callable[[Minute], Mapping[str, Any]]


def distancing_minute(minute: Minute) -> DistancingMinute:
    """That of social distancing."""
    return {
        "people_mean": minute.mean("people"),
        "people_max": minute.most("people"),
        "pairs_mean": minute.mean("pairs"),
        "pairs_max": minute.most("pairs"),
        "violations": minute.times("violations"),
        "violation_s": minute.lasted("violations"),
        "violations_without_exemption": minute.times("violations_without_exemption"),
        "violation_s_without_exemption": minute.lasted("violations_without_exemption"),
        "min_distance_m": None if minute.closest is None else round(minute.closest[0], 3),
        "mean_distance_m": round(minute.distance_m_s / minute.distance_s, 3) if minute.distance_s else None,
        "occupancy": {
            name.removeprefix("zone/"): {"mean": minute.mean(name), "max": int(highest)}
            for name, highest in minute.highest.items()
            if name.startswith("zone/")
        },
        "events_held_back": minute.times("events_held_back"),
    }


class Minutes:
    """Collects one camera's minutes. ``gap_s``: frames farther apart than this leave the time between unobserved."""

    def __init__(
        self,
        camera: str,
        use_case: str,
        gap_s: float,
        interval_s: float = 60.0,
        data: MinuteData = distancing_minute,
    ) -> None:
        self._camera, self._use_case, self._gap_s, self._interval_s = camera, use_case, gap_s, interval_s
        self._data = data
        self._held = Sample()
        self._t: float | None = None
        self._utc = 0.0
        self._minute: Minute | None = None

    def advance(self, t: float, utc: float) -> list[Metric]:
        """Let what was held last time hold until now; returns the minutes that are over."""
        done: list[Metric] = []
        if self._t is None or self._minute is None:
            self._minute = Minute(self._floor(utc))
        else:
            passed = max(t - self._t, 0.0)
            moved = utc - self._utc
            if passed <= self._gap_s:
                left, at = passed, self._utc
                while left > 0:
                    part = left
                    if abs(moved - passed) <= _CLOCK_STEP_S:
                        part = min(left, max(self._minute.start + self._interval_s - at, 0.0))
                    self._add(self._minute, part)
                    left, at = left - part, at + part
                    if left > 1e-9:
                        done += self._turn(self._minute.start + self._interval_s)
                    else:
                        break
            else:
                self._held = Sample()  # nobody knows for how long it was true
            if self._floor(utc) != self._minute.start:
                done += self._turn(self._floor(utc))
        self._t, self._utc = t, utc
        return done

    def hold(self, sample: Sample) -> None:
        """What is seen from now on."""
        self._held = sample
        if self._minute is not None:
            for name, level in sample.levels.items():
                self._minute.highest[name] = max(level, self._minute.highest.get(name, 0.0))
            low = sample.closest
            if low is not None and (self._minute.closest is None or sum(low) < sum(self._minute.closest)):
                self._minute.closest = low

    def count(self, name: str, by: int = 1) -> None:
        """Something happened in this minute."""
        if self._minute is not None:
            self._minute.counts[name] = self._minute.counts.get(name, 0) + by

    def close(self) -> list[Metric]:
        """The minute begun."""
        minute, self._minute, self._t = self._minute, None, None
        return self._metric(minute) if minute else []

    def _floor(self, utc: float) -> float:
        return utc - utc % self._interval_s

    def _add(self, minute: Minute, dt: float) -> None:
        minute.observed_s += dt
        for name, level in self._held.levels.items():
            minute.seconds[name] = minute.seconds.get(name, 0.0) + level * dt
        if self._held.distance_mean_m is not None:
            minute.distance_s += dt
            minute.distance_m_s += self._held.distance_mean_m * dt

    def _turn(self, start: float) -> list[Metric]:
        done = self._metric(self._minute) if self._minute else []
        self._minute = Minute(start)
        self.hold(self._held)
        return done

    def _metric(self, minute: Minute) -> list[Metric]:
        if minute.observed_s <= 0 and not minute.counts:
            return []
        return [
            Metric(
                self._camera,
                self._use_case,
                minute.start,
                self._interval_s,
                round(minute.observed_s, 3),
                self._data(minute),
            )
        ]
