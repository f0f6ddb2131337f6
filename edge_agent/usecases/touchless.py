"""Touchless: who stands at a place, raises a hand or shows a code commands a door, a lamp, a lift."""

from __future__ import annotations

from collections.abc import Iterator

from edge_agent.acting import Actuators
from edge_agent.config_acting import TouchlessRule
from edge_agent.types import Event
from edge_agent.usecases.acting import ActionAtWork
from edge_agent.usecases.action_use_case import ActionUseCase
from edge_agent.usecases.evidence import TOLERANCE_S, TRUE
from edge_agent.usecases.scene import Place, Scene
from edge_agent.usecases.spells import Teller


class TouchlessAtWork(ActionAtWork[TouchlessRule]):
    """One rule."""

    def __init__(self, rule: TouchlessRule, place: Place, teller: Teller, actuators: Actuators) -> None:
        super().__init__(rule, place, teller, actuators)
        self._only_if = self._test(rule.only_if) if rule.only_if is not None else None
        self._allowed = True

    def update(self, scene: Scene) -> Iterator[Event]:
        """See ``RuleAtWork``. The interlock is asked in every frame, as it may have to hold for a while."""
        self._allowed = self._only_if is None or bool(self._only_if.ask(scene) == TRUE)
        yield from super().update(scene)

    def purpose(self) -> str | None:
        """See ``ActionAtWork``."""
        return self.rule.token

    def clear(self, scene: Scene) -> bool:
        """See ``ActionAtWork``."""
        return self._allowed

    def over(self, scene: Scene, held_s: float) -> str:
        """See ``ActionAtWork``."""
        if not self._allowed:
            return "interlock"
        return "done" if held_s >= self.rule.hold_s - TOLERANCE_S else ""


class Touchless(ActionUseCase[TouchlessRule]):
    """Devices commanded without a touch. Events: ``action`` started, ended."""

    name = "touchless"
    at_work = TouchlessAtWork
