"""Commands over MQTT: ``commands/<name>`` below the device's root, and where their answers may go."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from edge_agent.commands.desk import Asked, Desk
from edge_agent.commands.envelope import failed
from edge_agent.commands.ledger import Address
from edge_agent.config_commands import CommandsConfig
from edge_agent.errors import CommandError

log = logging.getLogger(__name__)

BURST, PER_S = 20, 2.0
"""So many commands at once, and so many a second on average: whoever sends more cannot keep the box busy."""
_OURS = ("status", "heartbeat", "events", "metrics", "telemetry", "model")
"""What the agent itself publishes below its root: no answer may pass for it."""
_MAX_TOPIC = 512
_QUIET_S = 60.0


class Message(Protocol):
    """What came from the broker; see ``sinks.mqtt_inbound.Inbound``."""

    @property
    def topic(self) -> str:
        """Where it came."""

    @property
    def payload(self) -> bytes:
        """What it says."""

    @property
    def response_topic(self) -> str | None:
        """Where an answer is wanted."""

    @property
    def correlation(self) -> bytes | None:
        """What to send back with it."""

    @property
    def expiry_s(self) -> int | None:
        """What is left of its life."""


class Allowance:
    """``burst`` at once, ``per_s`` on average. One thread."""

    def __init__(self, burst: int, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst, self._per_s, self._clock = burst, per_s, clock
        self._left, self._at = float(burst), clock()

    def take(self) -> bool:
        """Whether one more is within it."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class OverMqtt:
    """``on_message`` is called by the sink's thread, and only takes or refuses. ``root`` is the device's, with a slash at its end."""

    def __init__(
        self,
        desk: Desk,
        config: CommandsConfig,
        root: str,
        post: Callable[[Address, bytes], bool],
    ) -> None:
        self._desk, self._config, self._root, self._post = desk, config, root, post
        self.topic = f"{root}commands/+"
        self._commands, self._refusals = Allowance(BURST, PER_S), Allowance(BURST, PER_S)
        self._told = -_QUIET_S

    def on_message(self, message: Message) -> None:
        """One command."""
        name = message.topic.removeprefix(f"{self._root}commands/")
        to = address(message, self._root, self._config.reply_prefixes)
        if self._commands.take():
            self._desk.ask(Asked(name, message.payload, "mqtt", to, self._config.allow, message.expiry_s))
            return
        if time.monotonic() - self._told >= _QUIET_S:
            self._told = time.monotonic()
            log.warning("commands come faster than %g a second: what is over that is refused", PER_S)
        if self._refusals.take():  # beyond that, silence: answers are work too
            text = f"more than {BURST} commands at once, or {PER_S:g} a second"
            self._post(to, failed(name[:64], None, CommandError("rate_limited", text)))


def address(message: Message, root: str, prefixes: Sequence[str]) -> Address:
    """Where the answer goes: to the response topic where that is allowed, else to ``commands/<name>/reply``."""
    wanted, correlation = message.response_topic, message.correlation
    if wanted is not None and _allowed(wanted, root, prefixes):
        return Address(wanted, correlation)
    name = message.topic.removeprefix(f"{root}commands/")
    # Anybody's text must not become a topic of ours.
    place = name if re.fullmatch(r"[a-z][a-z._-]{0,40}", name) else "unknown"
    note = (
        "" if wanted is None else "the response topic is not one that this box may answer to (commands.reply_prefixes)"
    )
    return Address(f"{root}commands/{place}/reply", correlation, note)


def _allowed(topic: str, root: str, prefixes: Sequence[str]) -> bool:
    if len(topic.encode()) > _MAX_TOPIC or re.search(r"[+#\x00-\x1f]", topic):
        return False
    if topic.startswith(root):
        levels = topic.removeprefix(root).split("/")
        return levels[0] not in _OURS and (levels[0] != "commands" or len(levels) > 2)
    return topic.startswith(tuple(prefixes))
