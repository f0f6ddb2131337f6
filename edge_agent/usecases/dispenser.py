"""Dispenser: against a token something is handed out, once nobody is in the way, and closed again whether it was taken or not."""

from __future__ import annotations

from collections.abc import Iterator

from edge_agent.acting import Actuators
from edge_agent.config_acting import DispenserRule
from edge_agent.types import Event
from edge_agent.usecases.acting import ActionAtWork
from edge_agent.usecases.action_use_case import ActionUseCase
from edge_agent.usecases.evidence import TOLERANCE_S, TRUE
from edge_agent.usecases.scene import Place, Scene
from edge_agent.usecases.spells import Teller


class DispenserAtWork(ActionAtWork[DispenserRule]):
    """One dispenser."""

    what = "dispense"
    done_reason = "taken"

    def __init__(self, rule: DispenserRule, place: Place, teller: Teller, actuators: Actuators) -> None:
        super().__init__(rule, place, teller, actuators)
        self._clear, self._taken = self._test(rule.clear), self._test(rule.taken)
        self._is_clear = self._is_taken = False

    def update(self, scene: Scene) -> Iterator[Event]:
        """See ``RuleAtWork``. Both conditions are asked in every frame, as they may have to hold for a while."""
        self._is_clear = bool(self._clear.ask(scene) == TRUE)
        self._is_taken = bool(self._taken.ask(scene) == TRUE)
        yield from super().update(scene)

    def purpose(self) -> str | None:
        """See ``ActionAtWork``."""
        return self.rule.token

    def clear(self, scene: Scene) -> bool:
        """See ``ActionAtWork``."""
        return self._is_clear

    def clear_within_s(self) -> float:
        """See ``ActionAtWork``."""
        return self.rule.clear_within_s

    def over(self, scene: Scene, held_s: float) -> str:
        """See ``ActionAtWork``."""
        if self._is_taken:
            return "taken"
        return "not_taken" if held_s >= self.rule.take_within_s - TOLERANCE_S else ""


class Dispenser(ActionUseCase[DispenserRule]):
    """Things handed out against tokens. Events: ``dispense`` started, ended."""

    name = "dispenser"
    at_work = DispenserAtWork
