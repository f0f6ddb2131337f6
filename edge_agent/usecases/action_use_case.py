"""What use cases that command devices have in common."""

from __future__ import annotations

from typing import Any, TypeVar

from edge_agent.acting import Actuators
from edge_agent.config import CameraConfig
from edge_agent.config_use_case import Rule, RuleSection
from edge_agent.types import NewId
from edge_agent.usecases.rules import RuleAtWork, RuleUseCase
from edge_agent.usecases.scene import Place, Places
from edge_agent.usecases.spells import Teller

R = TypeVar("R", bound=Rule)


class ActionUseCase(RuleUseCase[R]):
    """Its rules are given the devices: ``at_work`` takes these as a fourth argument."""

    def __init__(
        self, config: RuleSection[Any], camera: CameraConfig, new_id: NewId, places: Places, actuators: Actuators
    ) -> None:
        self._actuators = actuators
        super().__init__(config, camera, new_id, places)

    def make(self, rule: R, place: Place, teller: Teller) -> RuleAtWork[R]:
        """See ``RuleUseCase``."""
        made: Any = self.at_work
        at_work: RuleAtWork[R] = made(rule, place, teller, self._actuators)
        return at_work
