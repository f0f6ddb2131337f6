"""From a stored message to InfluxDB's points, as dictionaries that ``influxdb-client`` writes.

Few series: tags are names from the configuration and words of the contract (site, device, camera, use case, what, phase,
sensor), never ids and never free text. One type for each field: numbers are floats, but for ``sequence``, which is always
whole. A measurement for each use case and each sensor, so that equal names of different things never meet.
Lists are left out; MQTT carries them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from edge_agent.sinks.store import Row
from edge_agent.types import DEVICE, parse_rfc3339

Point: TypeAlias = dict[str, Any]

MAX_FIELDS = 64
MAX_DEPTH = 3
MAX_TEXT = 256
"""Characters of a text field."""
MAX_NAME = 64
"""Characters of the name of a field."""
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,62}")
_NS_PER_MS = 1_000_000
_HUGE = 1e300
"""Whole numbers can be longer than any float; nothing is smaller than NaN."""


class Unfit(Exception):
    """No points can be made of this message; the text says why, in words that do not depend on its content."""


def points(row: Row, tags: Mapping[str, str]) -> list[Point]:
    """No point at all where nothing in it can be drawn; ``tags`` are added to each. Raises Unfit."""
    try:
        doc = json.loads(row.payload)
        when = round(parse_rfc3339(doc["time"]) * 1000) * _NS_PER_MS + row.row % _NS_PER_MS
        kind, *names = row.topic.split("/")
        made = list(_KINDS[kind](doc, names))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, OSError) as error:
        raise Unfit(f"not a message that InfluxDB can have ({type(error).__name__})") from error
    for point in made:
        point["tags"] = {name: value for name, value in {**tags, **point["tags"]}.items() if _TAG.fullmatch(value)}
        # A tag and a field of one name are hard to tell apart in a query.
        point["fields"] = {name: value for name, value in point["fields"].items() if name not in point["tags"]}
        # Two messages of one series in one millisecond would be one point: the row's number tells them apart, each time alike.
        point["time"] = when
    return [point for point in made if point["fields"]]


def _event(doc: dict[str, Any], names: list[str]) -> Iterator[Point]:
    camera, _ = names
    _, use_case, what, *phase = doc["type"].split(".")
    data = doc["data"]
    if camera == DEVICE and isinstance(data.get("camera"), str):  # the camera that something is told of
        camera = data["camera"]
    fields = _fields(data) | {
        "id": str(doc["id"])[:MAX_TEXT],
        "episode": str(doc["subject"])[:MAX_TEXT],
        "sequence": int(doc["sequence"]),
        "clockok": bool(doc["clockok"]),
    }
    tags = {"camera": camera, "use_case": use_case, "what": what} | ({"phase": phase[0]} if phase else {})
    yield {"measurement": f"edge_event_{_name(use_case)}", "tags": tags, "fields": fields}


def _metric(doc: dict[str, Any], names: list[str]) -> Iterator[Point]:
    camera, use_case = names
    fields = _fields(doc["data"]) | _fields({key: doc[key] for key in ("interval_s", "observed_s")})
    tags = {"camera": camera, "use_case": use_case}
    yield {"measurement": f"edge_metric_{_name(use_case)}", "tags": tags, "fields": fields}


def _telemetry(doc: dict[str, Any], names: list[str]) -> Iterator[Point]:
    (sensor,) = names
    fields = _fields({key: value for key, value in doc.items() if key != "time"})
    yield {"measurement": f"edge_telemetry_{_name(sensor)}", "tags": {"sensor": sensor}, "fields": fields}


def _heartbeat(doc: dict[str, Any], _: list[str]) -> Iterator[Point]:
    fields = _fields({key: value for key, value in doc.items() if key not in {"time", "sequence"}})
    fields["sequence"] = int(doc["sequence"])
    yield {"measurement": "edge_heartbeat", "tags": {}, "fields": fields}
    for camera in doc.get("cameras", []):
        own = _fields({key: value for key, value in camera.items() if key != "id"})
        yield {"measurement": "edge_heartbeat_camera", "tags": {"camera": camera["id"]}, "fields": own}


_KINDS = {"events": _event, "metrics": _metric, "telemetry": _telemetry, "heartbeat": _heartbeat}


def _fields(data: Mapping[str, Any]) -> dict[str, float | bool | str]:
    found: dict[str, float | bool | str] = {}
    for name, value in _flat(data, "", MAX_DEPTH):
        if len(found) == MAX_FIELDS:
            break
        field = _field(value)
        if field is not None:
            found.setdefault(name, field)
    return found


def _flat(data: Mapping[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        name = _name(f"{prefix}{key}")
        if not isinstance(value, Mapping):
            yield name, value
        elif depth > 1:
            yield from _flat(value, f"{name}_", depth - 1)


def _field(value: Any) -> float | bool | str | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return float(value) if abs(value) < _HUGE else None
    if isinstance(value, str):
        # A line feed inside of quotes is allowed, and not every server knows that.
        return "".join(c if c.isprintable() else " " for c in value[:MAX_TEXT])
    return None


def _name(text: str) -> str:
    """Letters, digits and underscores: needs no escape in line protocol, and no quotes in Flux or PromQL."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", text)[:MAX_NAME].lstrip("_")
    return name if name and name != "time" else f"value_{name}"  # ``time`` and a leading underscore are InfluxDB's own
