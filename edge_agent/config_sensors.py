"""The ``sensors`` section."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from edge_agent.config_base import Slug, Strict

SOURCES = ("file", "hwmon", "iio", "mqtt")
ChipName = Annotated[str, StringConstraints(pattern=r"^[!-.0-~]{1,64}$")]
"""What stands in ``name`` in sysfs: one word, without a slash."""


class HwmonSource(Strict):
    """An input of a hardware monitoring chip."""

    chip: ChipName = Field(description="what its file `name` says, for example nct6775; hwmon numbers change")
    input: str = Field(
        pattern=r"^(temp|in|curr|power|energy|humidity|fan|freq)[0-9]{1,3}$",
        description="temp1, in0, curr1, power1, humidity1, fan2, ...",
    )
    device: ChipName | None = Field(
        None, description="where several chips have that name: a folder on its path, for example 1-0040"
    )


class IioSource(Strict):
    """A channel of an industrial I/O device."""

    name: ChipName = Field(description="what its file `name` says, for example bme280")
    channel: str = Field(
        pattern=r"^[a-z][a-z0-9_-]{0,62}$", description="temp for in_temp_input or in_temp_raw, voltage0, ..."
    )
    device: ChipName | None = Field(
        None, description="where several devices have that name: a folder on its path, for example 1-0076"
    )


class MqttSource(Strict):
    """What another device sends to the broker of section `mqtt`."""

    topic: str = Field(
        pattern=r"^(\$S|[^$+#\x00-\x1f\x7f])[^+#\x00-\x1f\x7f]*$",
        max_length=500,
        description="its whole topic, without + and #",
    )
    key: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="where in its JSON: contact, ENERGY.Power, or /a~1b/0 (RFC 6901); default: the message is the value",
    )


class SensorConfig(Strict):
    """One value: a number, or true and false. Exactly one of `file`, `hwmon`, `iio` and `mqtt` says where from."""

    id: Slug = Field(description="name in topics and for use cases; unique")
    unit: str | None = Field(None, max_length=16, description="default: °C, V, A, W, ... with hwmon and iio, else none")
    file: Path | None = Field(None, description="a file that holds a number, or true, false, on, off")
    hwmon: HwmonSource | None = Field(None, description="a chip's input, in °C, V, A, W, J, %, rpm, Hz")
    iio: IioSource | None = Field(None, description="a device's channel, in °C, V, A, W, %, kPa, lx, ...")
    mqtt: MqttSource | None = Field(None, description="a message of another device")
    every_s: float | None = Field(
        None,
        ge=0.1,
        le=86_400,
        description="time between two readings, and at least between two messages about it; default: 10, mqtt 1",
    )
    stale_after_s: float | None = Field(
        None,
        gt=0,
        le=2_592_000,
        description="a value is good for so long; default: three times every_s, at least 5; mqtt 7200",
    )
    scale: float = Field(1.0, description="a number is multiplied by this")
    offset: float = Field(0.0, description="then this is added")
    min: float | None = Field(None, description="a number below is no value")
    max: float | None = Field(None, description="a number above is no value")
    min_change: float = Field(0.0, ge=0, description="a number that changed by no more is not published at once")
    report_s: float = Field(60.0, ge=1, le=86_400, description="a good value is published at least so often")

    @model_validator(mode="after")
    def _one_source(self) -> SensorConfig:
        if sum(getattr(self, name) is not None for name in SOURCES) != 1:
            raise ValueError(f"needs exactly one of {', '.join(SOURCES)}")
        return self

    @property
    def interval_s(self) -> float:
        """``every_s``, or its default."""
        return self.every_s if self.every_s is not None else 10.0 if self.mqtt is None else 1.0

    @property
    def good_s(self) -> float:
        """``stale_after_s``, or its default. Zigbee's battery devices report once an hour where nothing changes."""
        if self.stale_after_s is not None:
            return self.stale_after_s
        return max(3 * self.interval_s, 5.0) if self.mqtt is None else 7200.0
