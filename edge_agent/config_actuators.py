"""The ``actuators`` section: doors, locks, lamps and lifts that use cases may command over MQTT."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from edge_agent.config_base import Slug, Strict
from edge_agent.config_sensors import MqttSource

Topic = Annotated[str, StringConstraints(pattern=r"^[^$+#\x00-\x1f\x7f][^+#\x00-\x1f\x7f]*$", max_length=500)]
Payload = Annotated[str, StringConstraints(max_length=1000)]


class AckSource(MqttSource):
    """Where the device says what it did."""


class Action(Strict):
    """Something that a device can do."""

    payload: Payload = Field(description="what is sent to it")
    says: str | bool | float | None = Field(
        None, description="what it says at `ack` once it is done; default: that it says anything"
    )


class ActuatorConfig(Strict):
    """One device."""

    id: Slug = Field(description="name in use cases and events; unique")
    topic: Topic = Field(description="where its commands go; must begin with one of `allow`")
    actions: dict[Slug, Action] = Field(min_length=1, max_length=20, description="what it can do, by name")
    safe: Slug = Field(description="the action after which nothing can happen: close, off, stop")
    ack: AckSource | None = Field(None, description="where it answers; default: the broker's word is enough")
    ack_s: float = Field(3.0, gt=0, le=60, description="an answer that comes later is none")
    expiry_s: int = Field(5, ge=1, le=60, description="a command that was not delivered by then never is")
    max_s: float = Field(
        60.0, gt=0, le=86_400, description="out of its safe state for longer, it is brought back whatever happens"
    )


class ActuatorsConfig(Strict):
    """What may be commanded."""

    allow: list[Topic] = Field(min_length=1, max_length=50, description="how topics of commands may begin")
    devices: list[ActuatorConfig] = Field(min_length=1, max_length=100, description="the devices")
