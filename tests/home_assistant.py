"""What Home Assistant makes of the messages it gets: its rules for device discovery, and its templates by the real Jinja2.

From its documentation of the MQTT integration and its platforms (2025.12). A fault is an error here, where the real one only logs it.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

_COMMON = {
    *("platform", "name", "unique_id", "qos", "availability", "entity_category", "enabled_by_default", "icon"),
    *("state_topic", "value_template", "json_attributes_topic", "json_attributes_template"),
}
_OWN = {
    "sensor": {"device_class", "expire_after", "options", "state_class", "unit_of_measurement"},
    "binary_sensor": {"device_class", "expire_after", "off_delay", "payload_on", "payload_off"},
    "event": {"device_class", "event_types"},
}
_UNITS: dict[str, set[str | None]] = {
    "temperature": {"°C", "°F", "K"},
    "data_size": {"kB", "MB", "MiB", "GB"},
    "power": {"W", "kW"},
    "enum": {None},
}
_BINARY = {"connectivity", "problem"}
_TOPIC = re.compile(r"(.+)/device/([a-zA-Z0-9_-]+)/config")
_RETAINED = ("/status", "/model")
_ENVIRONMENT = ImmutableSandboxedEnvironment()
_ENVIRONMENT.filters["tojson"] = json.dumps


def check_discovery(topic: str, payload: bytes) -> dict[str, Any]:
    """The message, where it is as the documentation has it."""
    assert _TOPIC.fullmatch(topic), topic
    told: dict[str, Any] = json.loads(payload)
    assert set(told) <= {"device", "origin", "components", "availability", "qos", "state_topic", "encoding"}
    assert told["origin"]["name"] and set(told["origin"]) <= {"name", "sw_version", "support_url"}
    assert told["device"]["identifiers"]
    assert set(told["device"]) <= {"identifiers", "name", "manufacturer", "model", "sw_version", "serial_number"}
    ids = [each["unique_id"] for each in told["components"].values() if len(each) > 1]
    assert len(ids) == len(set(ids))
    for name, each in told["components"].items():
        assert set(each) <= _COMMON | _OWN[each["platform"]], name
        assert each.keys() == {"platform"} or "state_topic" in each
        _check_classes(each)
        for key in ("value_template", "json_attributes_template"):
            _ENVIRONMENT.from_string(each.get(key, ""))
    return told


def _check_classes(each: dict[str, Any]) -> None:
    kind = each.get("device_class")
    if each["platform"] == "binary_sensor":
        assert kind is None or kind in _BINARY
    elif kind is not None:
        assert each.get("unit_of_measurement") in _UNITS[kind]
        assert ("options" in each) == (kind == "enum")
        assert not (kind == "enum" and "state_class" in each)


class HomeAssistant:
    """``take`` is given every message in order; ``states`` are by component id, "unavailable" and "unknown" as there."""

    def __init__(self, *messages: Any) -> None:
        self.components: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        self._availability: list[Any] = []
        self._values: dict[str, str] = {}
        self._available = False
        self._kept: dict[str, bytes] = {}
        """By the broker: what comes with a subscription, which follows a discovery."""
        for message in messages:
            self.take(message.topic, bytes(message.payload), retained=message.retain)

    @property
    def states(self) -> dict[str, str]:
        return {
            name: self._values.get(name, "unknown")
            if self._available or each.get("availability") == []
            else "unavailable"
            for name, each in self.components.items()
        }

    def take(self, topic: str, payload: bytes, *, retained: bool = False) -> None:
        if _TOPIC.fullmatch(topic):
            self._discover(topic, payload)
            for kept in self._kept.items():
                self.take(*kept, retained=True)
            return
        if topic.endswith(_RETAINED):
            self._kept[topic] = payload
        for name, component in self.components.items():
            if component["state_topic"] == topic:
                self._update(name, component, payload, retained=retained)
            if component.get("json_attributes_topic") == topic:
                json.loads(_render(component["json_attributes_template"], payload))
        for source in self._availability:
            if source["topic"] == topic:
                self._available = _render(source["value_template"], payload) == "online"

    def _discover(self, topic: str, payload: bytes) -> None:
        if not payload:
            self.components.clear()
            return
        told = check_discovery(topic, payload)
        self._availability = told["availability"]
        for name, each in told["components"].items():
            if len(each) > 1:
                self.components[name] = each
            else:
                self.components.pop(name, None)

    def _update(self, name: str, each: dict[str, Any], payload: bytes, *, retained: bool) -> None:
        said = _render(each["value_template"], payload)
        if each["platform"] == "event":
            assert not retained
            event = json.loads(said)
            assert event["event_type"] in each["event_types"]
            self.events.append(event)
        elif each["platform"] == "binary_sensor":
            words = {each.get("payload_on", "ON"): "on", each.get("payload_off", "OFF"): "off"}
            self._values[name] = words[said]
        elif said == "None":
            self._values[name] = "unknown"
        else:
            if "state_class" in each:
                float(said)
            assert said in each.get("options", [said])
            self._values[name] = said


_compiled = cache(_ENVIRONMENT.from_string)


def _render(template: str, payload: bytes) -> str:
    return str(_compiled(template).render(value_json=json.loads(payload), value=payload.decode()))
