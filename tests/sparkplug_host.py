"""A Host Application of Sparkplug B 3.0: decodes by the real protobuf library, and holds an Edge Node to what it must do.

The message is built here from the field numbers of the specification (6.4), as its .proto file is not ours to copy.
"""

from __future__ import annotations

import re
import time
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_F: Any = descriptor_pb2.FieldDescriptorProto
_PAYLOAD = [("timestamp", 1, _F.TYPE_UINT64), ("metrics", 2, ".spb.Metric"), ("seq", 3, _F.TYPE_UINT64)]
_PAYLOAD += [("uuid", 4, _F.TYPE_STRING), ("body", 5, _F.TYPE_BYTES)]
_METRIC = [("name", 1, _F.TYPE_STRING), ("alias", 2, _F.TYPE_UINT64), ("timestamp", 3, _F.TYPE_UINT64)]
_METRIC += [("datatype", 4, _F.TYPE_UINT32), ("is_historical", 5, _F.TYPE_BOOL), ("is_transient", 6, _F.TYPE_BOOL)]
_METRIC += [("is_null", 7, _F.TYPE_BOOL), ("int_value", 10, _F.TYPE_UINT32), ("long_value", 11, _F.TYPE_UINT64)]
_METRIC += [
    ("float_value", 12, _F.TYPE_FLOAT),
    ("double_value", 13, _F.TYPE_DOUBLE),
    ("boolean_value", 14, _F.TYPE_BOOL),
]
_METRIC += [("string_value", 15, _F.TYPE_STRING), ("bytes_value", 16, _F.TYPE_BYTES)]
_VALUES = {4: "long_value", 10: "double_value", 11: "boolean_value", 12: "string_value"}
REBIRTH = "Node Control/Rebirth"


def _made() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="spb.proto", package="spb", syntax="proto2")
    for name, fields in (("Metric", _METRIC), ("Payload", _PAYLOAD)):
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            if isinstance(kind, str):
                message.field.add(
                    name=field, number=number, type=_F.TYPE_MESSAGE, type_name=kind, label=_F.LABEL_REPEATED
                )
            else:
                message.field.add(name=field, number=number, type=kind, label=_F.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("spb.Payload"))


Payload = _made()


def decode(payload: bytes) -> Any:
    """The message; a field that it does not know is an error."""
    made = Payload()
    made.ParseFromString(payload)
    assert made.SerializeToString(deterministic=True) and len(made.SerializeToString()) == len(payload)
    return made


def value(metric: Any) -> Any:
    """Its value in Python, None where it has none."""
    field = _VALUES[metric.datatype]
    if metric.is_null:
        assert not any(metric.HasField(name) for name in _VALUES.values())
        return None
    assert metric.HasField(field), metric
    number = getattr(metric, field)
    return number - 2**64 if field == "long_value" and number >= 2**63 else number


def rebirth(*, wanted: bool = True) -> bytes:
    """An NCMD."""
    made = Payload(timestamp=int(time.time() * 1000))
    made.metrics.add(name=REBIRTH, timestamp=made.timestamp, datatype=11, boolean_value=wanted)
    return bytes(made.SerializeToString())


class Host:
    """``take`` each message of one Edge Node in order. An AssertionError names the requirement that is broken."""

    def __init__(self, group: str, node: str) -> None:
        self._topic = re.compile(rf"spBv1\.0/{group}/(NBIRTH|NDATA|NDEATH|DBIRTH|DDATA|DDEATH)/{node}(?:/([^/+#]+))?")
        self.online = False
        self.values: dict[str, dict[str, Any]] = {}
        """By living device, "" the node."""
        self.numbers: list[int] = []
        """bdSeq of each birth."""
        self.kinds: list[str] = []
        self._seq = 0
        self._types: dict[tuple[str, str], int] = {}

    def take(self, topic: str, payload: bytes, *, qos: int, retained: bool) -> None:
        found = self._topic.fullmatch(topic)
        if found is None:
            return
        kind, device = found[1], found[2] or ""
        assert (kind[0] == "D") == bool(device), "tck-id-topic-structure-namespace-device-id-associated-message-types"
        assert not retained and qos == (1 if kind == "NDEATH" else 0), f"tck-id-topics-{kind.lower()}-mqtt"
        self.kinds.append(kind)
        message = decode(payload)
        if kind == "NDEATH":
            self._death(message)
            return
        assert message.timestamp > 1.6e12, "a timestamp in milliseconds of UTC"
        expected = 0 if kind == "NBIRTH" else (self._seq + 1) % 256
        assert message.HasField("seq") and message.seq == expected, "tck-id-payloads-sequence-num-incrementing"
        self._seq = expected
        getattr(self, f"_{kind[1:].lower()}")(message, device)

    def _birth(self, message: Any, device: str) -> None:
        told = {metric.name: value(metric) for metric in message.metrics}
        assert len(told) == len(message.metrics), "names are unique"
        for metric in message.metrics:
            assert metric.HasField("timestamp") and metric.HasField("datatype"), (
                "tck-id-payloads-name-birth-data-requirement"
            )
            assert self._types.setdefault((device, metric.name), metric.datatype) == metric.datatype
        if device:
            assert self.online, "tck-id-payloads-dbirth-order"
        else:
            assert told[REBIRTH] is False, "tck-id-payloads-nbirth-rebirth-req"
            self.numbers.append(told["bdSeq"])
            self.values.clear()
            self.online = True
        self.values[device] = told

    def _data(self, message: Any, device: str) -> None:
        assert message.metrics and device in self.values, "tck-id-payloads-ndata-order"
        for metric in message.metrics:
            assert metric.name in self.values[device], "only what the birth named"
            assert self.values[device][metric.name] != value(metric), "report by exception"
            self.values[device][metric.name] = value(metric)

    def _death(self, message: Any, device: str = "") -> None:
        if device:
            del self.values[device]
            return
        (metric,) = message.metrics
        assert metric.name == "bdSeq" and not message.HasField("seq"), "tck-id-topics-ndeath-seq"
        if self.numbers and metric.long_value == self.numbers[-1]:  # another one is of an earlier session
            self.online = False
            self.values.clear()
