"""Holds what the suite publishes to the contract: a message that breaks it fails the test that made it.

``watch`` looks at every event and metric that is made, every message that an outbox commits, every heartbeat, and every message on
its way to a broker or seen by a ``Subscriber``, every command that is understood and its answer; ``check_outboxes`` at what agents in
processes of their own left undelivered. The schemas are taken strictly: a field that they do not name is a fault.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from paho.mqtt.client import MQTTMessage

from edge_agent.commands import envelope
from edge_agent.contract.message import Channel, Message
from edge_agent.contract.published import CHANNELS
from edge_agent.contract.schemas import command_schemas, messages
from edge_agent.errors import OutboxError
from edge_agent.health.heartbeat import HeartbeatBuilder
from edge_agent.outbox.messages import draft
from edge_agent.outbox.records import Committed
from edge_agent.outbox.store import Store
from edge_agent.sinks.mqtt_connection import Connection
from edge_agent.types import Event, Metric, Telemetry
from tests.mosquitto import Subscriber

SYNTHETIC = "synthetic"
"""The use case of made-up events and metrics: no schema knows it, and of these only the envelope is held to the contract."""
_NAME = "[A-Za-z0-9][^/]*"
FAULTS: list[str] = []
"""Found since they were last taken; by any thread."""
OUTBOXES: list[Path] = []
"""Of agents in processes of their own, not looked at yet."""


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The same, but closed: what a producer is held to."""
    definitions = {
        name: {**each, "additionalProperties": False} if "properties" in each else each
        for name, each in schema["$defs"].items()
    }
    return {**schema, "$defs": definitions}


@cache
def _validator(definition: str) -> Draft202012Validator:
    schema = {"$defs": strict(messages())["$defs"], "$ref": f"#/$defs/{definition}"}
    return Draft202012Validator(schema)


@lru_cache(maxsize=5000)
def fault(topic: str, payload: bytes) -> str:
    """What is wrong with a message; ``topic`` is below the device's root. Empty where all is well."""
    try:
        doc = json.loads(payload)
    except (ValueError, RecursionError) as no_json:
        return f"{topic}: no JSON: {no_json}"
    found = _described(topic, doc)
    if found is None:
        return f"{topic}: not described: {payload[:200]!r}"
    error = best_match(_validator(found[2]).iter_errors(doc))
    return "" if error is None else f"{topic}: {error.json_path}: {error.message}"


def _described(topic: str, doc: Any) -> tuple[Channel, Message, str] | None:
    """Where a message belongs, what it is, and the name of its schema."""
    kind = {key: doc.get(key) if isinstance(doc, dict) else None for key in ("type", "command")}
    for channel in CHANNELS:
        for message in channel.messages:
            if re.fullmatch(_topics(channel, message.last), topic) and kind == {**kind, **_kind(message)}:
                return channel, message, message.name
            if "{camera}" in channel.address and re.fullmatch(_topics(channel, SYNTHETIC), topic):
                return channel, message, message.payload.__name__
    return None


def _kind(message: Message) -> dict[str, str]:
    return {key: value for key, value in message.fixed.items() if key in {"type", "command"}}


def _topics(channel: Channel, last: str) -> str:
    return re.sub(r"{\w+}", _NAME, re.sub(r"{\w+}$", last or _NAME, channel.address))


def check(topic: str, payload: bytes) -> None:
    """Note what is wrong."""
    if found := fault(topic, payload):
        FAULTS.append(found)


def check_seen(topic: str, payload: bytes) -> str:
    """The same for a whole topic; what is not below a device's root is not ours. The topic below it, else empty."""
    below = re.match("edge/v1/[^/]+/[^/]+/(.+)", topic)
    if below is None:
        return ""
    check(below[1], payload)
    return below[1]


def _check_sent(topic: str, payload: bytes, content_type: str, *, retain: bool) -> None:
    below = check_seen(topic, payload)
    if found := below and _described(below, json.loads(payload)):
        channel, message, _ = found
        if (retain, content_type) != (channel.retained, message.content_type):
            FAULTS.append(f"{below}: sent as {content_type}, retained: {retain}")


def request_fault(command: str, doc: dict[str, Any]) -> str:
    """What is wrong with what is asked. Empty where all is well."""
    error = best_match(_asked(command).iter_errors(doc))
    return "" if error is None else f"commands/{command}: {error.json_path}: {error.message}"


@cache
def _asked(command: str) -> Draft202012Validator:
    return Draft202012Validator(command_schemas()["commands"][command]["request"])


def check_understood(command: str, doc: dict[str, Any]) -> None:
    """Note what is wrong with what the agent takes."""
    if found := request_fault(command, doc):
        FAULTS.append(f"understood, against the contract: {found}")


def check_answer(payload: bytes) -> None:
    """Note what is wrong with an answer, wherever it goes."""
    check("commands/any/reply", payload)


def _check_received(_: None, subscriber: Subscriber, message: MQTTMessage) -> None:
    if not subscriber.published(message):  # what a test sends itself may be anything
        check_seen(message.topic, bytes(message.payload))


def _check_made(item: Event | Metric | Telemetry) -> None:
    if not isinstance(item, Telemetry) and item.use_case == SYNTHETIC:
        return  # looked at when it is committed
    try:
        made = draft(item, site="site", device="box", boot_id="boot")
    except OutboxError:
        return  # never published
    check(made.topic, made.payload(1 if made.event else None, clock_ok=True))


def take_faults() -> list[str]:
    """What was found, each once; it is forgotten here."""
    found, FAULTS[:] = list(dict.fromkeys(FAULTS)), []
    return found


def _check_rows(stored: Iterable[Committed]) -> None:
    for row, _ in stored:
        check(row.topic, row.payload)


def watch(patch: pytest.MonkeyPatch) -> None:
    """Look at everything that is published in this process."""

    def after(owner: Any, name: str, look: Callable[..., object]) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            look(result, *args, **kwargs)
            return result

        patch.setattr(owner, name, wrapped)

    after(Event, "__init__", lambda _, event, *__, **___: _check_made(event))
    after(Metric, "__init__", lambda _, metric, *__, **___: _check_made(metric))
    after(Telemetry, "__init__", lambda _, telemetry, *__, **___: _check_made(telemetry))
    after(Store, "commit", lambda stored, *_, **__: _check_rows(stored))
    after(HeartbeatBuilder, "build", lambda beat, *_, **__: check("heartbeat", beat))
    after(Subscriber, "receive", _check_received)
    after(envelope, "understand", lambda _, *asked: check_understood(*asked))
    after(Connection, "answer", lambda _, __, ___, payload, *____: check_answer(payload))
    after(Connection, "publish", lambda _, __, *message, **how: _check_sent(*message, **how))


def check_outboxes() -> None:
    """Look at what the agents in processes of their own left undelivered."""
    while OUTBOXES:
        path = OUTBOXES.pop()
        with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as cx:
            for topic, payload in cx.execute("SELECT topic, payload FROM message"):
                check(topic, payload)
