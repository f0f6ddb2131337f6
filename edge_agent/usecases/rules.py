"""Use cases that are made of rules about zones and lines: what they have in common.

A new one is a class of ``RuleAtWork`` that judges a scene, and one of ``RuleUseCase`` that names both; its section of the
configuration is a ``config_use_case.RuleSection``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from edge_agent.config import CameraConfig
from edge_agent.config_use_case import Rule, RuleSection
from edge_agent.errors import ConfigError
from edge_agent.types import Event, NewId, Observation, Output
from edge_agent.usecases.minutes import Minute, Minutes, Sample
from edge_agent.usecases.scene import Place, Places, Scene
from edge_agent.usecases.spells import Teller

GAP_S = 5.0
"""Frames farther apart than this: nobody knows what happened between, all episodes end."""

R = TypeVar("R", bound=Rule)


class RuleAtWork(ABC, Generic[R]):
    """One rule on one camera. Not thread-safe; fed in frame order."""

    def __init__(self, rule: R, place: Place, teller: Teller) -> None:
        self.rule, self.place, self.teller = rule, place, teller

    @property
    def open(self) -> int:
        """Episodes that were told to have started and not ended."""
        return 0

    @abstractmethod
    def update(self, scene: Scene) -> Iterable[Event]:
        """What the next frame brings."""

    def end(self, reason: str, t: float, utc: float) -> Iterable[Event]:
        """End what is open, at ``t`` (UTC ``utc``), and forget what had begun."""
        return ()

    @abstractmethod
    def levels(self) -> Mapping[str, float]:
        """What holds from the last frame on, for the metrics of the minute."""

    def happened(self) -> Mapping[str, int]:
        """What happened in the last frame, for the same; only what is above zero."""
        return {}

    @abstractmethod
    def minute(self, minute: Minute, prefix: str) -> Mapping[str, Any]:
        """Its part of a minute, in which its levels and happenings are named with ``prefix``."""


class RuleUseCase(Generic[R]):
    """The use case for one camera (see ``pipeline.UseCase``). ``new_id`` makes ids of events and episodes;
    ``places`` are shared with other use cases of the camera.

    Raises ConfigError for a zone that is no polygon, and for a place that the camera does not have.
    """

    name: str
    at_work: ClassVar[type[RuleAtWork[Any]]]

    def __init__(
        self, config: RuleSection[R], camera: CameraConfig, new_id: NewId, places: Places | None = None
    ) -> None:
        self._minutes = Minutes(camera.id, self.name, GAP_S, data=self._minute)
        self._held_back = 0
        teller = Teller(
            camera.id, self.name, new_id, config.max_events_per_minute, lambda: self._minutes.count("events_held_back")
        )
        self._places: dict[str, Place] = {}
        places = places or Places(camera)
        self._rules: list[RuleAtWork[R]] = []
        for rule in config.rules:
            if rule.runs_on(camera.id):
                place = self._places.setdefault(rule.label, places.of(rule.label))
                try:
                    self._rules.append(self.make(rule, place, teller))
                except KeyError as missing:
                    text = f"rule {rule.name}: camera {camera.id} has no zone or line {missing}"
                    raise ConfigError([f"use_cases.{self.name}: {text}"]) from None
        self._last: Observation | None = None

    def make(self, rule: R, place: Place, teller: Teller) -> RuleAtWork[R]:
        """One rule at work. KeyError for a place that the camera does not have."""
        return self.at_work(rule, place, teller)

    @property
    def open_episodes(self) -> int:
        """See ``pipeline.UseCase``."""
        return sum(rule.open for rule in self._rules)

    def update(self, seen: Observation) -> list[Output]:
        """See ``pipeline.UseCase``."""
        outputs: list[Output] = []
        if self._last is not None and seen.t - self._last.t > GAP_S:
            outputs += self._end("camera_gap", self._last)
        outputs += self._minutes.advance(seen.t, seen.utc)
        self._last = seen
        scenes = {label: place.look(seen) for label, place in self._places.items()}
        levels: dict[str, float] = {}
        for rule in self._rules:
            outputs += rule.update(scenes[rule.rule.label])
            prefix = f"{rule.rule.name}/"
            levels |= {prefix + name: level for name, level in rule.levels().items()}
            for name, times in rule.happened().items():
                self._minutes.count(prefix + name, times)
        self._minutes.hold(Sample(levels))
        return outputs

    def close(self, reason: str) -> list[Output]:
        """See ``pipeline.UseCase``."""
        if self._last is None:
            return []
        return [*self._end(reason, self._last), *self._minutes.close()]

    def _end(self, reason: str, last: Observation) -> Iterator[Event]:
        for rule in self._rules:
            yield from rule.end(reason, last.t, last.utc)

    def _minute(self, minute: Minute) -> Mapping[str, Any]:
        rules = {rule.rule.name: rule.minute(minute, f"{rule.rule.name}/") for rule in self._rules}
        return {"rules": rules, "events_held_back": minute.times("events_held_back")}
