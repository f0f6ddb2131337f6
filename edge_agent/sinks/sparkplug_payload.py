"""Payloads of Sparkplug B: what of its Protocol Buffers message we send, and what of one that is sent to us we read.

Field numbers and datatypes: Sparkplug Specification 3.0.0, 6.4 (Payload, Metric) and 6.4.16 (datatypes); wire format:
https://protobuf.dev/programming-guides/encoding/. An own coder of a page: the published .proto is under the EPL, and the
protobuf runtime would be 1 MB for four types.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, TypeAlias

Datatype: TypeAlias = Literal["Int64", "Double", "Boolean", "String"]
Value: TypeAlias = int | float | bool | str | None

CONTENT_TYPE = "application/x-protobuf"
MAX_BYTES = 65_536
"""Of a payload that is read."""
MAX_METRICS = 256
_CODES: dict[Datatype, int] = {"Int64": 4, "Double": 10, "Boolean": 11, "String": 12}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TIMESTAMP, _METRICS, _SEQ = 1, 2, 3
_NAME, _METRIC_TIMESTAMP, _DATATYPE, _IS_NULL = 1, 3, 4, 7
_LONG, _DOUBLE, _BOOLEAN, _STRING = 11, 13, 14, 15


class Metric(NamedTuple):
    """One value; None: there is none now. ``name`` may have levels, divided by a slash."""

    name: str
    datatype: Datatype
    value: Value


class NotSparkplug(ValueError):
    """What was sent is no payload."""


def encode(metrics: Iterable[Metric], utc_ms: int, seq: int | None) -> bytes:
    """A payload; ``utc_ms``: milliseconds since 1970, of it and of each metric. ``seq`` None: without, as in NDEATH."""
    parts = [_number(_TIMESTAMP, utc_ms), *(_bytes(_METRICS, _metric(each, utc_ms)) for each in metrics)]
    if seq is not None:
        parts.append(_number(_SEQ, seq))
    return b"".join(parts)


def _metric(metric: Metric, utc_ms: int) -> bytes:
    parts = [
        _bytes(_NAME, metric.name.encode()),
        _number(_METRIC_TIMESTAMP, utc_ms),
        _number(_DATATYPE, _CODES[metric.datatype]),
    ]
    value = metric.value
    if value is None:
        parts.append(_number(_IS_NULL, 1))
    elif metric.datatype == "Int64":  # negative as two's complement (6.4.16)
        parts.append(_number(_LONG, int(value) & 0xFFFF_FFFF_FFFF_FFFF))
    elif metric.datatype == "Double":
        parts.append(_varint(_DOUBLE << 3 | _FIXED64) + struct.pack("<d", float(value)))
    elif metric.datatype == "Boolean":
        parts.append(_number(_BOOLEAN, int(bool(value))))
    else:
        parts.append(_bytes(_STRING, str(value).encode()))
    return b"".join(parts)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def switched_on(payload: bytes) -> set[str]:
    """The names of the metrics that are Boolean and true: all that a command to us can mean. Raises NotSparkplug."""
    if len(payload) > MAX_BYTES:
        raise NotSparkplug(f"{len(payload)} bytes; at most {MAX_BYTES} are read")
    metrics = [content for field, content in _fields(payload) if field == _METRICS and isinstance(content, bytes)]
    if len(metrics) > MAX_METRICS:
        raise NotSparkplug(f"{len(metrics)} metrics; at most {MAX_METRICS} are read")
    found = set()
    for metric in metrics:
        fields = dict(_fields(metric))  # of a field that comes twice the last one counts
        name = fields.get(_NAME)
        if isinstance(name, bytes) and fields.get(_BOOLEAN) == 1:
            found.add(name.decode(errors="replace"))
    return found


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, content) of each field; of fixed width as bytes."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _read_varint(message, at)
            yield field, value
            continue
        if wire == _BYTES:
            size, at = _read_varint(message, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise NotSparkplug(f"wire type {wire}")
        if size > len(message) - at:
            raise NotSparkplug("cut off")
        yield field, message[at : at + size]
        at += size


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise NotSparkplug("cut off")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise NotSparkplug("a number of more than ten bytes")
