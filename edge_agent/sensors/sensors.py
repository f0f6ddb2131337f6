"""All sensors of the box, as others see them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from edge_agent.config_sensors import SensorConfig
from edge_agent.errors import SensorError
from edge_agent.sensors.sensor import Sensor
from edge_agent.sensors.sources import read, unit_of
from edge_agent.sensors.values import from_message
from edge_agent.types import Beat, NewId, SensorValue, Stored


class Reader:
    """Reads one sensor's file again and again, in a thread of its own: one that hangs holds up nobody else."""

    def __init__(self, sensor: Sensor, root: Path) -> None:
        self._sensor, self._root = sensor, root
        self.name = sensor.config.id
        self.deadline_s = sensor.config.good_s
        """A read that takes longer hangs."""

    def run(self, beat: Beat, stop: threading.Event) -> None:
        """Until ``stop``."""
        while not stop.is_set():
            beat.begin()
            _try(self._sensor, partial(read, self._sensor.config, self._root))
            beat.end()
            stop.wait(self._sensor.config.interval_s)


class Sensors:
    """``latest`` may be called by any thread and waits for nobody; ``look`` by one, a few times a second.

    ``readers`` are to be run, each in a thread of its own. ``subscriptions``: whole MQTT topics, and what takes the payload
    of a message there (quick, raises nothing). ``root`` stands in front of /sys.
    """

    def __init__(
        self,
        configs: Sequence[SensorConfig],
        new_id: NewId,
        *,
        root: Path = Path("/"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._new_id = new_id
        self._sensors = [Sensor(config, unit_of(config), clock) for config in configs]
        self.readers = [Reader(sensor, root) for sensor in self._sensors if sensor.config.mqtt is None]
        topics: dict[str, list[Sensor]] = {}
        for sensor in self._sensors:
            if sensor.config.mqtt is not None:
                topics.setdefault(sensor.config.mqtt.topic, []).append(sensor)
        self.subscriptions: Mapping[str, Callable[[bytes], None]] = {
            topic: partial(_message, sensors) for topic, sensors in topics.items()
        }

    def latest(self) -> Mapping[str, SensorValue]:
        """By id; without those of which nothing is known yet."""
        return {sensor.config.id: state for sensor in self._sensors if (state := sensor.state()) is not None}

    def look(self) -> list[Stored]:
        """What is to be told since the last call."""
        return [output for sensor in self._sensors for output in sensor.look(self._new_id)]


def _message(sensors: Sequence[Sensor], payload: bytes) -> None:
    for sensor in sensors:
        key = sensor.config.mqtt.key if sensor.config.mqtt is not None else None
        _try(sensor, partial(from_message, payload, key))


def _try(sensor: Sensor, value: Callable[[], bool | float]) -> None:
    try:
        sensor.take(value())
    except SensorError as error:
        sensor.fail(str(error))
