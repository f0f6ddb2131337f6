"""From a value of the pipeline to the bytes on the wire. Everything but ``sequence`` and ``clockok`` is made before the transaction."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from edge_agent.errors import OutboxError
from edge_agent.payload import EventId, Seconds, SequenceNumber, Time
from edge_agent.types import Event, Metric, Quality, Stored, Telemetry, data_schema, rfc3339

EVENT_TYPE = "application/cloudevents+json"
JSON_TYPE = "application/json"
SHA_DIGITS = 12
ROW_BITS = 56
"""A row id is ``priority << ROW_BITS | number``: the primary key alone gives every priority its own order, without an index."""


class EventHead(TypedDict):
    """A CloudEvent 1.0 in structured mode, as far as it is known before it is committed."""

    specversion: Annotated[Literal["1.0"], Field(description="of CloudEvents")]
    id: Annotated[EventId, Field(description="unique for ever: de-duplicate on it")]
    source: Annotated[
        str, Field(pattern="^/[^/]+/[^/]+/[^/]+$", description="/site/device/camera; the camera is _device for the box")
    ]
    subject: Annotated[
        str, Field(min_length=1, description="the episode, which joins started, updated and ended; else the id itself")
    ]
    type: Annotated[str, Field(description="edge_agent, use case, what, and of an episode started, updated or ended")]
    time: Annotated[Time, Field(description="when the fact began, changed or ended")]
    datacontenttype: Annotated[Literal["application/json"], Field(description="of data")]
    dataschema: Annotated[str, Field(description="names the schema of data, with its version")]
    data: Annotated[Mapping[str, Any], Field(description="the facts")]
    bootid: Annotated[str, Field(min_length=1, description="changes with every start of the agent")]
    model: NotRequired[Annotated[str, Field(description="name@version of the model that saw it")]]
    modelsha: NotRequired[
        Annotated[str, Field(description="first digits of the SHA-256 of that model's file; the heartbeat has all")]
    ]


class CloudEvent(EventHead):
    """A change of state, never an echo of every frame. At least once, in order per camera."""

    sequence: Annotated[SequenceNumber, Field(description="counts the events of this device without a gap")]
    clockok: Annotated[bool, Field(description="whether the clock was synchronised when it was committed")]


class MetricMessage(TypedDict):
    """An aggregate over a time."""

    time: Annotated[Time, Field(description="when the time begins")]
    interval_s: Annotated[Seconds, Field(description="how long it is")]
    observed_s: Annotated[Seconds, Field(description="for how much of it the camera delivered: the denominator")]
    data: Annotated[Mapping[str, Any], Field(description="what was seen")]


class TelemetryMessage(TypedDict):
    """A sensor's value, or that there is no good one any more."""

    time: Annotated[Time, Field(description="when it was read; without a value: since when there is none")]
    value: Annotated[bool | float | None, Field(description="null: there is no good one")]
    unit: Annotated[str, Field(description="of the value; empty where it has none")]
    quality: Annotated[Quality, Field(description="good; stale: none came for too long; failed: it cannot be read")]


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
    doc: Mapping[str, Any]
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
    doc: Mapping[str, Any]
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


def _event(event: Event, site: str, device: str, boot_id: str) -> EventHead:
    head: EventHead = {
        "specversion": "1.0",
        "id": event.id,
        "source": f"/{site}/{device}/{event.camera}",
        "subject": event.episode,
        "type": event.type,
        "time": rfc3339(event.utc),
        "datacontenttype": "application/json",
        "dataschema": data_schema(event.use_case, event.what),
        "data": plain(event.data),
        "bootid": boot_id,
    }
    if event.model is not None:
        head["model"], head["modelsha"] = event.model.label, event.model.sha256[:SHA_DIGITS]
    return head


def _metric(metric: Metric) -> MetricMessage:
    return {
        "time": rfc3339(metric.utc),
        "interval_s": plain(metric.interval_s),
        "observed_s": plain(metric.observed_s),
        "data": plain(metric.data),
    }


def _telemetry(telemetry: Telemetry) -> TelemetryMessage:
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
