"""Whoever gives commands over MQTT, and what came back."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.mosquitto import Subscriber, wait_for

ROOT = "edge/v1/lab/box1/"
ANSWERS = ROOT + "replies/backend"
_numbers = itertools.count()


class Asker:
    """Gives commands through a subscriber to everything, and finds the answers by their correlation data."""

    def __init__(self, sub: Subscriber) -> None:
        self.sub = sub

    def send(
        self,
        name: str,
        payload: dict[str, Any] | bytes | None = None,
        *,
        to: str | None = ANSWERS,
        expiry_s: int | None = None,
        retain: bool = False,
    ) -> bytes:
        """Publish a command; the correlation data that its answer will carry."""
        properties: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        correlation = b"%d" % next(_numbers)
        properties.CorrelationData = correlation
        if to is not None:
            properties.ResponseTopic = to
        if expiry_s is not None:
            properties.MessageExpiryInterval = expiry_s
        body = payload if isinstance(payload, bytes) else b"" if payload is None else json.dumps(payload).encode()
        self.sub.publish(ROOT + f"commands/{name}", body, retain=retain, properties=properties)
        return correlation

    def answers(self, correlation: bytes) -> list[tuple[str, dict[str, Any]]]:
        """(topic, answer) of all that came for it."""
        return [
            (message.topic, json.loads(message.payload))
            for message in list(self.sub.messages)
            if getattr(message.properties, "CorrelationData", None) == correlation
            and not re.fullmatch(r".*/commands/[^/]*", message.topic)  # the command itself
        ]

    def ask(self, name: str, payload: dict[str, Any] | bytes | None = None, **options: Any) -> dict[str, Any]:
        """Publish a command and wait for its answer."""
        timeout_s = options.pop("timeout_s", 30.0)
        correlation = self.send(name, payload, **options)
        wait_for(lambda: self.answers(correlation), timeout_s, f"an answer to {name}")
        return self.answers(correlation)[0][1]
