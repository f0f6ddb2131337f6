"""One sensor: its latest value, whether that is still good, and what of it is worth telling."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

from pydantic import Field
from typing_extensions import TypedDict

from edge_agent.config_sensors import SensorConfig
from edge_agent.errors import SensorError
from edge_agent.journal import told
from edge_agent.types import DEVICE, Event, NewId, Quality, SensorValue, Stored, Telemetry

log = logging.getLogger(__name__)


class Reading(NamedTuple):
    """A value with the times when it came: monotonic and UTC, seconds."""

    value: bool | float
    at: float
    utc: float


class SensorStateFacts(TypedDict):
    """A sensor has no good value any more, or again."""

    sensor: Annotated[str, Field(description="the sensor")]
    state: Annotated[Quality, Field(description="its quality now")]
    previous: Annotated[Quality | Literal["starting"], Field(description="its quality before")]
    reason: Annotated[str, Field(description="why, in words; empty when it is good again")]


class Sensor:
    """``take`` and ``fail`` are called by whoever reads it, one thread; ``look`` by the main thread; ``state`` by any.

    A value that is old is not good, whatever the reason; a try that failed is only the reason. So a sensor that now and then
    does not answer is no news, and one that is gone is news once.
    """

    def __init__(self, config: SensorConfig, unit: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.config, self.unit = config, unit
        self._clock = clock
        self._began = clock()
        # Each is replaced as a whole, so no lock is needed.
        self._reading: Reading | None = None
        self._trouble = ""
        self._told: Reading | None = None
        self._told_at = -math.inf
        self._told_quality: Quality | None = None

    def take(self, value: bool | float) -> None:
        """A reading. Raises SensorError for one that cannot be."""
        if not isinstance(value, bool):
            value = float(f"{value * self.config.scale + self.config.offset:.12g}")
            low, high = self.config.min, self.config.max
            if not math.isfinite(value) or (low is not None and value < low) or (high is not None and value > high):
                raise SensorError(f"{value:g} {self.unit}".rstrip() + " is outside of min and max")
        self._reading = Reading(value, self._clock(), time.time())
        self._trouble = ""

    def fail(self, reason: str) -> None:
        """A try failed."""
        self._trouble = reason

    def state(self) -> SensorValue | None:
        """The latest; None while it is too early to tell."""
        reading, trouble, now = self._reading, self._trouble, self._clock()
        good_s = self.config.good_s
        if reading is not None and now - reading.at <= good_s:
            return SensorValue(reading.value, self.unit, now - reading.at)
        if reading is None and now - self._began <= good_s:
            return None
        quality: Quality = "failed" if trouble else "stale"
        reason = trouble or f"nothing came for {good_s:g} s"
        if reading is None:
            return SensorValue(None, self.unit, None, quality, reason)
        return SensorValue(reading.value, self.unit, now - reading.at, quality, reason)

    def look(self, new_id: NewId) -> list[Stored]:
        """What is to be told now: values; and once each time, that there is no good one any more, or again."""
        state, reading = self.state(), self._reading
        if state is None:
            return []
        good = reading if state.quality == "good" else None
        before, self._told_quality = self._told_quality, state.quality
        if before != state.quality and not (before is None and good is not None):
            return [self._telemetry(good, state.quality), self._turn(state, before, new_id)]
        return [self._telemetry(good, "good")] if good is not None and self._due(good) else []

    def _due(self, reading: Reading) -> bool:
        since = self._clock() - self._told_at
        if self._told is None or since >= max(self.config.report_s, self.config.interval_s):
            return True
        return since >= self.config.interval_s and self._changed(self._told.value, reading.value)

    def _changed(self, old: bool | float, new: bool | float) -> bool:
        if isinstance(old, bool) or isinstance(new, bool):
            return old is not new
        return abs(new - old) > self.config.min_change

    def _telemetry(self, reading: Reading | None, quality: Quality) -> Telemetry:
        self._told, self._told_at = reading, self._clock()
        if reading is None:
            return Telemetry(self.config.id, time.time(), None, self.unit, quality)
        return Telemetry(self.config.id, reading.utc, reading.value, self.unit, quality)

    def _turn(self, state: SensorValue, before: Quality | None, new_id: NewId) -> Event:
        """An event about the box: its telemetry goes first where there is no room."""
        extra = told("edge_agent.device.sensor_state", sensor=self.config.id, state=state.quality)
        if state.quality == "good":
            log.info("sensor %s: good again", self.config.id, extra=extra)
        else:
            log.warning("sensor %s: %s: %s", self.config.id, state.quality, state.reason, extra=extra)
        utc = time.time()
        ident = new_id(utc)
        data = SensorStateFacts(
            sensor=self.config.id, state=state.quality, previous=before or "starting", reason=state.reason
        )
        return Event(ident, DEVICE, "device", "sensor_state", None, ident, utc, data)
