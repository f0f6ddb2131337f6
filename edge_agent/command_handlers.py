"""What the commands do: their handlers, with the agent's parts in hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from pydantic import TypeAdapter

from edge_agent import __version__
from edge_agent.commands.catalogue import Pong
from edge_agent.commands.desk import LATER, WORKER_DEADLINE_S, Desk, Handler, Later, Outcome, Record
from edge_agent.commands.envelope import Request
from edge_agent.commands.ledger import Address, Ledger
from edge_agent.commands.over_mqtt import Message, OverMqtt
from edge_agent.config import Config
from edge_agent.errors import CommandError
from edge_agent.health.host import clock_synchronised
from edge_agent.health.status import AgentStatus
from edge_agent.types import Beat, rfc3339

_STATUS: TypeAdapter[AgentStatus] = TypeAdapter(AgentStatus)


class Commanded(Protocol):
    """The agent, as commands see it. All may be called from any thread, and none blocks for long."""

    config: Config
    device: str
    boot_id: str

    def status(self) -> AgentStatus:
        """The state of the moment."""

    def restart(self) -> None:
        """Stop in order, and start again as a new process."""

    def tell(self, what: str, data: dict[str, Any], utc: float) -> None:
        """An event about the box."""


def _clock_ok() -> bool:
    return clock_synchronised() is not False


class AgentCommands:
    """``post(topic, payload, correlation)`` sends an answer over MQTT; False where there is no connection."""

    deadline_s = WORKER_DEADLINE_S

    def __init__(self, agent: Commanded, post: Callable[[str, bytes, bytes | None], bool]) -> None:
        self._agent = agent
        self._ledger = Ledger(agent.config.state_dir / "commands.db", agent.boot_id, _clock_ok)

        def to(address: Address, answer: bytes) -> bool:
            return post(address.topic, answer, address.correlation)

        handlers: dict[str, Handler] = {"ping": self._ping, "status": self._status, "restart": self._restart}
        self._desk = Desk(
            handlers, self._ledger, post=to, resume=self._resume, on_record=self._record, clock_ok=_clock_ok
        )
        root = f"edge/v1/{agent.config.site}/{agent.device}/"
        self._mqtt = OverMqtt(self._desk, agent.config.commands, root, to)
        self.topic = self._mqtt.topic
        """What to subscribe to."""

    def start(self) -> None:
        """Before anything is asked, and once the state folder is ours."""
        self._desk.recover()

    def on_message(self, message: Message) -> None:
        """A command from the broker."""
        self._mqtt.on_message(message)

    def connected(self) -> None:
        """There is a new connection to the broker."""
        self._desk.tell()

    def work(self, beat: Beat) -> None:
        """The worker's thread."""
        self._desk.work(beat)

    def look(self) -> None:
        """Now and then, from the main thread."""
        self._desk.look()

    def stop(self) -> None:
        """At the end."""
        self._ledger.close()

    # ---- the commands, in the worker's thread

    def _ping(self, _: Request) -> Pong:
        agent = self._agent
        return Pong(
            time=rfc3339(time.time()),
            clock_ok=_clock_ok(),
            boot_id=agent.boot_id,
            version=__version__,
            uptime_s=agent.status().uptime_s,
        )

    def _status(self, _: Request) -> dict[str, Any]:
        plain: dict[str, Any] = _STATUS.dump_python(self._agent.status(), mode="json")
        return plain

    def _restart(self, _: Request) -> Later:
        self._agent.restart()
        return LATER

    def _resume(self, name: str, ident: str) -> Outcome | CommandError | Later:
        if name == "restart":
            return {"boot_id": self._agent.boot_id, "version": __version__}
        return CommandError(
            "interrupted", f"the agent ended while {name} was under way; whether it took effect is not known"
        )

    def _record(self, record: Record) -> None:
        data = {"command": record.command, "id": record.id, "ok": not record.code}
        if record.code:
            data |= {"code": record.code, "message": record.message}
        self._agent.tell("command", data, time.time())
