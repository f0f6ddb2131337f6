"""What Home Assistant is told there is on this box: the payload of MQTT device discovery.

https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload (2025): one retained message for the device, its entities as
``components``. Each reads a topic that is published anyway, through a template.
"""

from __future__ import annotations

import re
import zlib
from typing import Any, TypeAlias, get_args

from edge_agent.config import Config
from edge_agent.types import CameraState

Component: TypeAlias = dict[str, Any]
BIRTH_TOPIC = "homeassistant/status"
"""Where Home Assistant says by default that it has come, whatever its discovery prefix is."""
_MIN_EXPIRY_S = 90
_OFFLINE = {"connectivity", "model"}
"""What is known also of a box that is not there."""


def identity(config: Config, device: str) -> str:
    """The box in Home Assistant: of letters, digits, ``_`` and ``-``, as the topic of discovery wants."""
    return _plain(f"edge-agent_{config.site}_{device}")


def discovery_topic(config: Config, device: str) -> str:
    """Where the message goes; "" where Home Assistant is not to be told."""
    prefix = config.mqtt.discovery_prefix
    return f"{prefix}/device/{identity(config, device)}/config" if prefix else ""


def components(config: Config, device: str) -> dict[str, Component]:
    """The entities by component id."""
    root = f"edge/v1/{config.site}/{device}/"
    found = _box(root)
    distancing = config.use_cases.social_distancing
    for camera in config.cameras:
        found |= _camera(root, camera.id)
        if distancing is not None and (distancing.cameras is None or camera.id in distancing.cameras):
            found |= _distancing(root, camera.id)
    for sensor in config.sensors:
        found[f"sensor_{_plain(sensor.id)}"] = _telemetry(root, sensor.id, sensor.unit)
    expiry_s = max(_MIN_EXPIRY_S, int(3 * config.mqtt.heartbeat_s))
    own = identity(config, device)
    for name, each in found.items():
        each["unique_id"] = f"{own}_{name}"
        each.setdefault("state_topic", f"{root}heartbeat")
        if each["state_topic"] == f"{root}heartbeat":
            each["expire_after"] = expiry_s
        if name in _OFFLINE:
            each["availability"] = []
    return found


def document(config: Config, device: str, version: str, gone: dict[str, str]) -> dict[str, Any]:
    """The whole message. ``gone`` are the platforms of components that there were: Home Assistant removes them."""
    root = f"edge/v1/{config.site}/{device}/"
    return {
        "device": {
            "identifiers": [identity(config, device)],
            "name": device,
            "manufacturer": "edge-agent",
            "model": "edge-agent",
            "sw_version": version,
        },
        "origin": {"name": "edge-agent", "sw_version": version},
        "availability": [{"topic": f"{root}status", "value_template": "{{ value_json.state }}"}],
        "qos": 1,
        "components": {
            **components(config, device),
            **{name: {"platform": platform} for name, platform in gone.items()},
        },
    }


def _plain(name: str) -> str:
    """``name`` where it is plain already, else so written that no two become one."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    return plain if plain == name else f"{plain}_{zlib.crc32(name.encode()):08x}"


def _sensor(name: str, template: str, **more: Any) -> Component:
    return {"platform": "sensor", "name": name, "value_template": template, **more}


def _binary(name: str, template: str, **more: Any) -> Component:
    return {"platform": "binary_sensor", "name": name, "value_template": template, **more}


def _measured(name: str, field: str, unit: str, **more: Any) -> Component:
    """A number of ``host`` in the heartbeat; unknown where the box does not say it."""
    template = f"{{{{ value_json.host.{field} | default(none) }}}}"
    return _sensor(name, template, unit_of_measurement=unit, state_class="measurement", **_DIAGNOSTIC, **more)


_DIAGNOSTIC = {"entity_category": "diagnostic"}


def _box(root: str) -> dict[str, Component]:
    return {
        "connectivity": _binary(
            "Connection",
            "{{ value_json.state }}",
            state_topic=f"{root}status",
            payload_on="online",
            payload_off="offline",
            device_class="connectivity",
            **_DIAGNOSTIC,
        ),
        "health": _sensor(
            "Health",
            "{{ value_json.status }}",
            device_class="enum",
            options=["ok", "degraded", "failing"],
            json_attributes_topic=f"{root}heartbeat",
            json_attributes_template="{{ {'last_error': value_json.last_error | default('')} | tojson }}",
            **_DIAGNOSTIC,
        ),
        "model": _sensor(
            "Model",
            "{{ value_json.active.name ~ ' ' ~ value_json.active.version if value_json.active else 'none' }}",
            state_topic=f"{root}model",
            **_DIAGNOSTIC,
        ),
        "update": _sensor("Model update", "{{ value_json.state }}", state_topic=f"{root}model", **_DIAGNOSTIC),
        "temperature": _measured("Temperature", "temperature_c", "°C", device_class="temperature"),
        "cpu": _measured("CPU", "cpu_pct", "%"),
        "memory": _measured("Memory", "ram_pct", "%"),
        "disk": _measured("Disk free", "disk_free_mb", "MiB", device_class="data_size"),
        "power": _measured("Power", "power_w", "W", device_class="power", enabled_by_default=False),
        "throttled": _binary(
            "Slowed down",
            "{{ 'ON' if value_json.host.throttled is defined else 'OFF' }}",
            device_class="problem",
            **_DIAGNOSTIC,
        ),
        "waiting": _sensor(
            "Messages waiting", "{{ value_json.outbox.depth }}", state_class="measurement", **_DIAGNOSTIC
        ),
    }


def _camera(root: str, camera: str) -> dict[str, Component]:
    mine = f"{{% set c = value_json.cameras | selectattr('id', 'eq', '{camera}') | list | first %}}"
    name = _plain(camera)
    return {
        f"{name}_state": _sensor(
            f"{camera} state",
            f"{mine}{{{{ c.state if c else none }}}}",
            device_class="enum",
            options=list(get_args(CameraState)),
            **_DIAGNOSTIC,
        ),
        f"{name}_fps": _sensor(
            f"{camera} frame rate",
            f"{mine}{{{{ c.fps if c and c.fps is defined else 0 }}}}",
            unit_of_measurement="fps",
            state_class="measurement",
            **_DIAGNOSTIC,
        ),
        f"{name}_problem": _binary(
            f"{camera} view",
            f"{mine}{{{{ 'OFF' if c and c.state == 'delivering' and c.view is not defined else 'ON' }}}}",
            device_class="problem",
            **_DIAGNOSTIC,
        ),
    }


def _distancing(root: str, camera: str) -> dict[str, Component]:
    events, minutes = (f"{root}{kind}/{camera}/social_distancing" for kind in ("events", "metrics"))
    name = _plain(camera)
    # A started one tells how many are open; what a crash left open is ended with what was known before it.
    open_now = "{{ 'OFF' if value_json.data.reason | default('') == 'agent_restart' or value_json.data.open_episodes == 0 else 'ON' }}"
    facts = "'episode': value_json.subject, 'people': value_json.data.people, 'min_distance_m': value_json.data.min_distance_m"
    return {
        f"{name}_people": _sensor(
            f"{camera} people", "{{ value_json.data.people_max }}", state_topic=minutes, state_class="measurement"
        ),
        f"{name}_violation": _binary(f"{camera} distance", open_now, state_topic=events, device_class="problem"),
        f"{name}_violation_event": {
            "platform": "event",
            "name": f"{camera} distance",
            "state_topic": events,
            "event_types": ["started", "updated", "ended"],
            "value_template": f"{{{{ {{'event_type': value_json.type.split('.')[-1], {facts}}} | tojson }}}}",
        },
    }


def _telemetry(root: str, sensor: str, unit: str | None) -> Component:
    unit_of = {} if unit is None else {"unit_of_measurement": unit, "state_class": "measurement"}
    return _sensor(sensor, "{{ value_json.value }}", state_topic=f"{root}telemetry/{sensor}", **unit_of)
