"""Tells Home Assistant what there is, and takes it back where that is switched off."""

from __future__ import annotations

import json
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from edge_agent.config import Config
from edge_agent.durable import write_file
from edge_agent.sinks.home_assistant import BIRTH_TOPIC, components, discovery_topic, document
from edge_agent.sinks.mqtt_inbound import Inbound, Listener

log = logging.getLogger(__name__)

_FILE = "home-assistant.json"
_MAX_GONE = 200
_HANGS_UP = 3
"""Connections in a row that ended before the broker answered: as AWS IoT Core refuses what a policy forbids."""
_QUIET_S = 3600.0
_MAX_OLD = 16


class Publish(Protocol):
    """Sends a retained message, whole topic; False while there is no connection.

    ``done`` is called by another thread with the reason of a refusal, "" where the broker took it.
    """

    def __call__(self, topic: str, payload: bytes, done: Callable[[str], None]) -> bool:
        """Send it."""


class HomeAssistant:
    """``connected`` and ``look`` are called by the main thread. ``beat`` asks for a heartbeat now.

    What was told is remembered in the state folder: the broker keeps it, and only who knows it can take it back.
    """

    def __init__(self, config: Config, device: str, version: str, publish: Publish, beat: Callable[[], None]) -> None:
        self._config, self._device, self._version, self._publish, self._beat = config, device, version, publish, beat
        self._file = config.state_dir / _FILE
        self._topic = discovery_topic(config, device)
        self._old: list[str] = []
        """Topics to be emptied."""
        self._platforms: dict[str, str] = {}
        """By component, of what is told."""
        self._payload = b""
        self._changed: Config | None = None
        self._again_at: float | None = None
        self._answers: deque[tuple[str, str]] = deque()
        self._told = ""
        self._unanswered = 0
        self._quiet_until = 0.0

    @property
    def listeners(self) -> list[Listener]:
        """What to subscribe to."""
        return [Listener(BIRTH_TOPIC, self._on_birth, qos=0)] if self._topic else []

    def start(self) -> None:
        """Once the state folder is ours."""
        topic, before, old = _remembered(self._file)
        self._old = [each for each in [*old, topic] if each not in ("", self._topic)][-_MAX_OLD:]
        if self._topic:
            self._payload = self._make(before if topic == self._topic else {})
        if self._topic or self._old:
            self._remember()

    def _make(self, before: dict[str, str]) -> bytes:
        now = components(self._config, self._device)
        gone = [(name, platform) for name, platform in before.items() if name not in now]
        told = document(self._config, self._device, self._version, dict(gone[-_MAX_GONE:]))
        self._platforms = {name: each["platform"] for name, each in told["components"].items()}
        return json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()

    def changed(self, config: Config) -> None:
        """Another configuration holds, which differs only in what needs no restart. From any thread."""
        self._changed = config

    def connected(self) -> None:
        """There is a new connection: what the broker kept may be gone."""
        if time.monotonic() < self._quiet_until or not (self._topic or self._old):
            return
        self._take_answers()
        if self._unanswered >= _HANGS_UP:  # events must not wait for this
            self._unanswered, self._quiet_until = 0, time.monotonic() + _QUIET_S
            log.warning("home assistant: the broker hangs up on what is told at %s; next try in an hour", self._topic)
            return
        self._unanswered += 1
        for old in self._old:
            self._publish(old, b"", lambda refused, old=old: self._answers.append((old, refused)))  # type: ignore[misc]
        if self._topic:
            self._publish(self._topic, self._payload, lambda refused: self._answers.append((self._topic, refused)))

    def look(self) -> None:
        """Several times a second."""
        if (config := self._changed) is not None:
            self._changed, self._config = None, config
            self.start()
            self.connected()
        if self._again_at is not None and time.monotonic() >= self._again_at:
            self._again_at = None
            self.connected()
            self._beat()
        self._take_answers()

    def _take_answers(self) -> None:
        while self._answers:
            topic, refused = self._answers.popleft()
            self._unanswered = 0
            if refused and refused != self._told:
                log.warning("home assistant: the broker does not take %s: %s", topic, refused)
                self._told = refused
            elif not refused and topic in self._old:
                self._old.remove(topic)
                log.info("home assistant: took back what was told at %s", topic)
                self._remember()

    def _on_birth(self, message: Inbound) -> None:
        """Home Assistant has come: it knows nothing of what is not retained. Called by the sink's thread."""
        if message.payload == b"online" and not message.retained:
            spread_s = min(self._config.mqtt.reconnect_spread_s, 10.0)
            self._again_at = time.monotonic() + random.uniform(0.0, spread_s)

    def _remember(self) -> None:
        try:
            if not self._topic and not self._old:
                self._file.unlink(missing_ok=True)
                return
            known = {"topic": self._topic, "components": self._platforms, "old": self._old}
            write_file(self._file, json.dumps(known).encode())
        except OSError as error:
            log.warning("home assistant: %s: %s", self._file, error.strerror)


def _remembered(file: Path) -> tuple[str, dict[str, str], list[str]]:
    """(topic, platform of each component, topics to be emptied) of what was told last."""
    try:
        known: Any = json.loads(file.read_bytes())
        topic, platforms, old = known["topic"], known["components"], known["old"]
        if isinstance(topic, str) and all(isinstance(text, str) for text in [*platforms, *platforms.values(), *old]):
            return topic, dict(platforms), list(old)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        log.warning("home assistant: %s cannot be read: %s", file, error)
    return "", {}, []
