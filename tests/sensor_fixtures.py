"""Sensors of a configuration, and a clock that only the test moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_agent.config_sensors import SensorConfig
from edge_agent.sensors.sensors import Sensors
from edge_agent.types import Event, Stored, Telemetry
from tests.outbox_fixtures import new_id


class Clock:
    """Seconds, for whatever takes ``time.monotonic``."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def sensor_config(ident: str = "door", **options: Any) -> SensorConfig:
    return SensorConfig.model_validate({"id": ident, **options})


def make_sensors(*configs: SensorConfig, clock: Clock | None = None, root: Path = Path("/")) -> Sensors:
    return Sensors(configs, new_id, root=root, clock=clock or Clock())


def said(outputs: list[Stored]) -> list[Any]:
    """Telemetry as (value, quality), events as (state, previous)."""
    told: list[Any] = []
    for output in outputs:
        if isinstance(output, Telemetry):
            told.append((output.value, output.quality))
        elif isinstance(output, Event):
            told.append((output.data["state"], output.data["previous"]))
    return told
