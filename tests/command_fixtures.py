"""Whoever gives commands over MQTT, and what came back."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.commands.catalogue import COMMANDS
from tests import contract
from tests.agent_process import RunningAgent, write_config
from tests.mosquitto import Mosquitto, Subscriber, broker, subscriber, wait_for

ROOT = "edge/v1/lab/box1/"
ANSWERS = "backend/answers/here"
_numbers = itertools.count()


class Asker:
    """Gives commands through a subscriber to everything, and finds the answers by their correlation data."""

    def __init__(self, sub: Subscriber) -> None:
        self.sub = sub
        self._asked: dict[bytes, tuple[str, bytes]] = {}

    def send(
        self,
        name: str,
        payload: dict[str, Any] | bytes | None = None,
        *,
        to: str | None = ANSWERS,
        retain: bool = False,
    ) -> bytes:
        """Publish a command; the correlation data that its answer will carry."""
        properties: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        correlation = b"%d" % next(_numbers)
        properties.CorrelationData = correlation
        if to is not None:
            properties.ResponseTopic = to
        body = payload if isinstance(payload, bytes) else b"" if payload is None else json.dumps(payload).encode()
        self._asked[correlation] = name, body
        self.sub.publish(ROOT + f"commands/{name}", body, retain=retain, properties=properties)
        return correlation

    def answers(self, correlation: bytes) -> list[tuple[str, dict[str, Any]]]:
        """(topic, answer) of all that came for it."""
        found = [
            (message.topic, json.loads(message.payload))
            for message in list(self.sub.messages)
            if getattr(message.properties, "CorrelationData", None) == correlation
            and not re.fullmatch(r".*/commands/[^/]*", message.topic)  # the command itself
        ]
        for _, answer in found:
            contract.check_answer(json.dumps(answer).encode())
            self._check_asked(answer, *self._asked.get(correlation, ("", b"")))
        return found

    def _check_asked(self, answer: dict[str, Any], name: str, body: bytes) -> None:
        """The schema of what is asked says what the agent takes."""
        if name in COMMANDS and answer["ok"]:
            assert not contract.request_fault(name, json.loads(body or b"{}"))
        elif answer["ok"] is False and answer["error"]["code"] == "invalid_args":
            assert contract.request_fault(name, json.loads(body)), "refused, though the contract allows it"

    def ask(self, name: str, payload: dict[str, Any] | bytes | None = None, **options: Any) -> dict[str, Any]:
        """Publish a command and wait for its answer."""
        timeout_s = options.pop("timeout_s", 30.0)
        correlation = self.send(name, payload, **options)
        wait_for(lambda: self.answers(correlation), timeout_s, f"an answer to {name}")
        return self.answers(correlation)[0][1]


@contextmanager
def commanded(root: Path, folder: Path, **change: Any) -> Iterator[tuple[RunningAgent, Asker]]:
    """A running agent that is connected to a broker which lets everybody do everything, and whoever commands it."""
    with (
        broker(folder / "broker") as server,
        subscriber(server.port) as sub,
        RunningAgent(folder, "-c", config_for(root, folder, server, **change), "--realtime") as agent,
    ):
        wait_until_listening(sub)
        yield agent, Asker(sub)


def config_for(root: Path, folder: Path, server: Mosquitto, **change: Any) -> Path:
    """The pedestrian video, slowly, and that broker; ``commands`` are added to the section of that name."""
    video = {"id": "pets", "source": str(root / ".cache" / "vtest.avi"), "fps": 7, "max_fps": 2}
    mqtt = {"host": "127.0.0.1", "port": server.port, "reconnect_max_s": 1, "reconnect_spread_s": 0}
    mqtt |= change.pop("mqtt", {})
    commands = {"reply_prefixes": ["backend/answers/"], **change.pop("commands", {})}
    return write_config(root, folder, **{"mqtt": mqtt, "cameras": [video], "commands": commands, **change})


def wait_until_listening(sub: Subscriber) -> None:
    """An agent says that it is online after it has subscribed."""
    wait_for(lambda: sub.under("/status"), 60, "the agent's status")
