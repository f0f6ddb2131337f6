"""The MQTT sink at work, and what a subscriber saw of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from paho.mqtt.client import MQTTMessage

from edge_agent.config_mqtt import MqttConfig
from edge_agent.health.heartbeat import HeartbeatBuilder
from edge_agent.outbox import Outbox
from edge_agent.sinks.mqtt import MqttSink
from edge_agent.sinks.mqtt_inbound import Listener
from edge_agent.types import Event
from tests.health_fixtures import agent_status
from tests.mosquitto import Subscriber
from tests.outbox_fixtures import UTC, make_event

ROOT = "edge/v1/site/box/"


@contextmanager
def delivering(
    outbox: Outbox,
    port: int | None,
    alarms: list[Event] | None = None,
    boot_id: str = "boot-1",
    listeners: Sequence[Listener] = (),
    **config: Any,
) -> Iterator[MqttSink]:
    """A sink that was started; stopped at the end. ``config`` is of the section ``mqtt``."""
    options = {"host": "127.0.0.1", "port": port, "reconnect_max_s": 1.0, **config}
    sink = MqttSink(
        MqttConfig(**options),
        outbox.outlet("mqtt"),
        site="site",
        device="box",
        boot_id=boot_id,
        version="0.1",
        on_alarm=lambda event: None if alarms is None else alarms.append(event),
        listeners=listeners,
    )
    sink.start()
    try:
        yield sink
    finally:
        sink.stop(0.2)


def heartbeat() -> bytes:
    """One as a healthy agent sends it."""
    return HeartbeatBuilder().build(agent_status(), UTC)


def fill(outbox: Outbox, count: int, start: int = 0) -> None:
    for first in range(start, start + count, 500):
        outbox.put(
            [make_event(n, camera="door" if n % 2 else "till") for n in range(first, min(first + 500, start + count))]
        )
        assert outbox.flush(20)


def numbers(sub: Subscriber) -> list[int]:
    return [json.loads(message.payload)["data"]["n"] for message in sub.under("/events/")]


def content_type(message: MQTTMessage) -> str:
    assert message.properties is not None
    return str(message.properties.ContentType)  # type: ignore[attr-defined]


def statuses(sub: Subscriber) -> list[str]:
    return [json.loads(message.payload)["state"] for message in sub.under("/status")]
