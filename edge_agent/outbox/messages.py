"""From a value of the pipeline to the bytes on the wire. Everything but ``sequence`` and ``clockok`` is made before the transaction."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

from edge_agent.errors import OutboxError
from edge_agent.types import Event, Metric, Stored, Telemetry, rfc3339

EVENT_TYPE = "application/cloudevents+json"
JSON_TYPE = "application/json"
ROW_BITS = 56
"""A row id is ``priority << ROW_BITS | number``: the primary key alone gives every priority its own order, without an index."""


class Priority(IntEnum):
    """Lower is more important: sent first, dropped last."""

    EVENT = 0
    METRIC = 1
    TELEMETRY = 2

    @property
    def plural(self) -> str:
        """How counts of it are called."""
        return ("events", "metrics", "telemetry")[self]


def priority_of(item: Stored) -> Priority:
    """Events before metrics, metrics before telemetry."""
    if isinstance(item, Event):
        return Priority.EVENT
    return Priority.METRIC if isinstance(item, Metric) else Priority.TELEMETRY


class Row(NamedTuple):
    """One stored message. ``topic`` is below the device's root, ``payload`` UTF-8 JSON."""

    row: int
    sequence: int | None
    topic: str
    payload: bytes

    @property
    def priority(self) -> Priority:
        """Its place in the order of importance."""
        return Priority(self.row >> ROW_BITS)

    @property
    def content_type(self) -> str:
        """The MIME type of the payload."""
        return EVENT_TYPE if self.priority is Priority.EVENT else JSON_TYPE


@dataclass(frozen=True, slots=True)
class Draft:
    """A message ready but for what only the committing transaction can say."""

    priority: Priority
    topic: str
    doc: dict[str, Any]
    head: str
    """``doc`` as JSON without the closing brace."""
    event: Event | None

    def payload(self, sequence: int | None, clock_ok: bool) -> bytes:
        """The bytes to store; ``sequence`` is given for events and for nothing else."""
        if sequence is None:
            return (self.head + "}").encode()
        flag = "true" if clock_ok else "false"
        return f'{self.head},"sequence":"{sequence_text(sequence)}","clockok":{flag}}}'.encode()


def sequence_text(sequence: int) -> str:
    """CloudEvents' ``sequence`` extension is compared as text, hence the padding."""
    return f"{sequence:016d}"


def draft(item: Stored, *, site: str, device: str, boot_id: str) -> Draft:
    """Serialise. Raises OutboxError for a value that no JSON can hold (a time out of range, a bottomless structure)."""
    try:
        if isinstance(item, Event):
            doc = _event(item, site, device, boot_id)
        elif isinstance(item, Metric):
            doc = _metric(item)
        elif isinstance(item, Telemetry):
            doc = _telemetry(item)
        else:
            doc = plain(item.data)
        head = json.dumps(doc, separators=(",", ":"), ensure_ascii=False, allow_nan=False)[:-1]
    except (ValueError, OverflowError, OSError, TypeError, RecursionError) as error:
        raise OutboxError(f"cannot be written as JSON: {item.topic}: {error}") from error
    return Draft(priority_of(item), item.topic, doc, head, item if isinstance(item, Event) else None)


def _event(event: Event, site: str, device: str, boot_id: str) -> dict[str, Any]:
    """CloudEvents 1.0, structured mode."""
    return {
        "specversion": "1.0",
        "id": event.id,
        "source": f"/{site}/{device}/{event.camera}",
        "subject": event.episode,
        "type": event.type,
        "time": rfc3339(event.utc),
        "datacontenttype": JSON_TYPE,
        "dataschema": f"urn:edge-agent:event:{event.use_case}.{event.what}:1",
        "data": plain(event.data),
        "bootid": boot_id,
    }


def _metric(metric: Metric) -> dict[str, Any]:
    return {
        "time": rfc3339(metric.utc),
        "interval_s": plain(metric.interval_s),
        "observed_s": plain(metric.observed_s),
        "data": plain(metric.data),
    }


def _telemetry(telemetry: Telemetry) -> dict[str, Any]:
    return {
        "time": rfc3339(telemetry.utc),
        "value": plain(telemetry.value),
        "unit": telemetry.unit,
        "quality": telemetry.quality,
    }


def plain(value: Any) -> Any:
    """JSON's own types: numpy values become numbers, NaN and infinities null (RFC 8259 §6 has none), text valid Unicode."""
    if isinstance(value, bool | int | None):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_text(str(key)): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return _text(str(value))


def _text(value: str) -> str:
    """Without lone surrogates, which UTF-8 cannot hold: Python makes them from a file name or message in another encoding."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()
