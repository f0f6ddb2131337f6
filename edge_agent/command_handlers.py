"""What the commands do: their handlers, with the agent's parts in hand."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import Field, TypeAdapter
from typing_extensions import NotRequired, TypedDict

from edge_agent import __version__
from edge_agent.command_config import ConfigCommands
from edge_agent.commands.catalogue import (
    ConfigUpdateArgs,
    LogLevel,
    LogLevelArgs,
    ModelShadowArgs,
    ModelUpdateArgs,
    Pong,
    Restarted,
    Snapshot,
    SnapshotArgs,
)
from edge_agent.commands.control_socket import ControlSocket
from edge_agent.commands.desk import LATER, WORKER_DEADLINE_S, Desk, Handler, Later, Outcome, Record
from edge_agent.commands.envelope import Request
from edge_agent.commands.ledger import Address, Ledger
from edge_agent.commands.over_mqtt import Message, OverMqtt
from edge_agent.config_trial import Overlay
from edge_agent.config_updates import Agent as Told
from edge_agent.config_updates import ConfigFacts, ConfigUpdates
from edge_agent.detect.child import run_child
from edge_agent.errors import CommandCode, CommandError
from edge_agent.health.host import clock_synchronised
from edge_agent.health.status import AgentStatus
from edge_agent.types import Beat, rfc3339

MAX_JPEG = 85_000
"""Bytes: with a third more for base64 it fits into an answer."""
DIAGNOSTICS_S = 45.0
_STATUS: TypeAdapter[AgentStatus] = TypeAdapter(AgentStatus)


class CommandFacts(TypedDict):
    """A command with an effect came to its end."""

    command: Annotated[str, Field(description="its name")]
    id: Annotated[str, Field(description="its id")]
    ok: Annotated[bool, Field(description="whether it was done")]
    code: NotRequired[Annotated[CommandCode, Field(description="why it was not, for machines")]]
    message: NotRequired[Annotated[str, Field(description="why it was not, for people")]]


class Commanded(Told, Protocol):
    """The agent, as commands see it. All may be called from any thread, and none blocks for long."""

    device: str
    boot_id: str

    def snapshot(self, camera: str, max_width: int | None = None) -> bytes | None:
        """JPEG, None where there is no picture yet."""


class ModelHook(Protocol):
    """Updates of models. All begin the work, and return the state of the retained topic ``model``; may raise CommandError."""

    def update(self, model: str | None, *, activate: bool, again: bool) -> dict[str, Any]:
        """Fetch, test and, if wanted, activate ``NAME[@VERSION]``; None: what the channel offers of the model at work.

        ``again``: also one that was rolled back here before.
        """

    def rollback(self) -> dict[str, Any]:
        """Activate the model before."""

    def shadow(self, model: str | None, *, fraction: float, minutes: float) -> dict[str, Any]:
        """Let ``NAME@VERSION`` look at that fraction of the frames for so long; None: end that."""


def _clock_ok() -> bool:
    return clock_synchronised() is not False


class AgentCommands:
    """``post(topic, payload, correlation)`` sends an answer over MQTT; False where there is no connection.

    ``file`` is the operator's configuration; without one nothing can be changed in it. Everything but ``on_message`` and
    ``work`` is called by the main thread.
    """

    deadline_s = WORKER_DEADLINE_S

    def __init__(
        self,
        agent: Commanded,
        file: Path | None,
        post: Callable[[str, bytes, bytes | None], bool],
        models: ModelHook | None = None,
    ) -> None:
        self._agent, self._file, self._models = agent, file, models
        self._config = ConfigCommands(agent, file, self._tell_outcome)
        self.signed = ConfigUpdates(agent, file)
        """The signed part of the configuration; its ``work`` is another worker's."""
        self._ledger = Ledger(agent.config.state_dir / "commands.db", agent.boot_id, _clock_ok)
        self._level_until: float | None = None

        def to(address: Address, answer: bytes) -> bool:
            return post(address.topic, answer, address.correlation)

        self._desk = Desk(
            self._handlers(),
            self._ledger,
            post=to,
            resume=self._resume,
            on_record=self._tell_record,
            clock_ok=_clock_ok,
        )
        self._mqtt = OverMqtt(self._desk, agent.config.commands, f"edge/v1/{agent.config.site}/{agent.device}/", to)
        self._socket = ControlSocket(agent.config.state_dir, self._desk)
        self.topic = self._mqtt.topic
        """What to subscribe to."""

    def _handlers(self) -> dict[str, Handler]:
        return {
            "ping": self._ping,
            "status": self._status,
            "config.get": self._config.get,
            "diagnostics": self._diagnostics,
            "snapshot": self._snapshot,
            "log.level": self._log_level,
            "config.apply": self._config.apply,
            "config.update": self._config_update,
            "config.rollback": lambda _: {"config": self.signed.rollback()},
            "restart": self._restart,
            "model.update": self._model_update,
            "model.rollback": self._model_rollback,
            "model.shadow": self._model_shadow,
        }

    def start(self) -> None:
        """Once the state folder is ours, and before the broker is listened to."""
        self._desk.recover()
        self._config.start()
        self._socket.start()

    def on_message(self, message: Message) -> None:
        """A command from the broker; called by the sink's thread."""
        self._mqtt.on_message(message)

    def connected(self) -> None:
        """There is a new connection to the broker."""
        self._desk.tell()

    def work(self, beat: Beat) -> None:
        """The worker's thread."""
        self._desk.work(beat)

    def look(self) -> None:
        """Several times a second."""
        self._desk.look()
        if (ident := self._config.look()) and not isinstance(outcome := self._resume("config.apply", ident), Later):
            self._desk.settle("config.apply", ident, outcome)
        if self._level_until is not None and time.monotonic() > self._level_until:
            self._set_level(self._agent.config.logging.level, None)

    def died(self, reason: str) -> bool:
        """The agent must end; whether that is the fault of a configuration on trial, which was taken back."""
        self.signed.died()
        return self._config.died(reason)

    def stop(self, *, in_order: bool) -> None:
        """At the end. Safe to call unstarted."""
        self.signed.close(in_order=in_order)
        self._socket.stop()
        self._ledger.close()

    # ---- the commands, in the worker's thread

    def _ping(self, _: Request) -> Pong:
        agent, status = self._agent, self._agent.status()
        return Pong(
            time=rfc3339(time.time()),
            clock_ok=_clock_ok(),
            boot_id=agent.boot_id,
            version=__version__,
            uptime_s=status.uptime_s,
            readiness=status.readiness().status,
        )

    def _status(self, _: Request) -> dict[str, Any]:
        plain: dict[str, Any] = json.loads(_STATUS.dump_json(self._agent.status()))
        return plain

    def _snapshot(self, request: Request) -> Snapshot:
        args = request.args
        assert isinstance(args, SnapshotArgs)
        if not self._agent.config.privacy.images:
            raise CommandError("not_allowed", "pictures are switched off: privacy.images is false in the configuration")
        if self._agent.status().camera(args.camera) is None:
            known = ", ".join(camera.id for camera in self._agent.config.cameras)
            raise CommandError("not_available", f"no such camera; there are: {known}")
        jpeg = self._agent.snapshot(args.camera, args.width)
        if jpeg is None:
            raise CommandError("not_available", "this camera has delivered no picture yet")
        if len(jpeg) > MAX_JPEG:
            raise CommandError(
                "too_large", f"the picture has {len(jpeg)} bytes, {MAX_JPEG} are sent; ask for a smaller width"
            )
        return Snapshot(camera=args.camera, jpeg=base64.b64encode(jpeg).decode())

    def _diagnostics(self, _: Request) -> dict[str, Any]:
        file = None if self._file is None else str(self._file.absolute())
        found = run_child(
            "edge_agent.doctor.apart", {"config": file}, what="diagnostics", timeout_s=DIAGNOSTICS_S, niceness=10
        )
        assert found is not None
        return found

    def _log_level(self, request: Request) -> LogLevel:
        args = request.args
        assert isinstance(args, LogLevelArgs)
        self._set_level(args.level, None if args.minutes is None else time.monotonic() + 60 * args.minutes)
        return LogLevel(level=args.level)

    def _set_level(self, level: str, until: float | None) -> None:
        logging.getLogger().setLevel(level.upper())
        self._level_until = until

    def _restart(self, _: Request) -> Later:
        self._agent.restart()
        return LATER

    def _config_update(self, request: Request) -> dict[str, Any]:
        args = request.args
        assert isinstance(args, ConfigUpdateArgs)
        return {"config": self.signed.update(args.bundle, again=args.again)}

    def _model_update(self, request: Request) -> dict[str, Any]:
        args = request.args
        assert isinstance(args, ModelUpdateArgs)
        return {"model": self._updates().update(args.model, activate=args.activate, again=args.again)}

    def _model_rollback(self, _: Request) -> dict[str, Any]:
        return {"model": self._updates().rollback()}

    def _model_shadow(self, request: Request) -> dict[str, Any]:
        args = request.args
        assert isinstance(args, ModelShadowArgs)
        return {"model": self._updates().shadow(args.model, fraction=args.fraction, minutes=args.minutes)}

    def _updates(self) -> ModelHook:
        if self._models is None:
            raise CommandError("not_supported", "this agent has no updates of models")
        return self._models

    # ---- what becomes of them

    def _resume(self, name: str, ident: str) -> Outcome | CommandError | Later:
        if name == "restart":
            return Restarted(boot_id=self._agent.boot_id, version=__version__)
        if name == "config.apply" and (known := self._config.outcome(ident)) is not None:
            return known
        text = f"the agent ended while {name} was under way; whether it took effect is not known"
        return CommandError("interrupted", text)

    def _tell_record(self, record: Record) -> None:
        facts: CommandFacts = {"command": record.command, "id": record.id, "ok": record.code is None}
        if record.code is not None:
            facts["code"], facts["message"] = record.code, record.message
        self._agent.tell("command", facts)

    def _tell_outcome(self, overlay: Overlay) -> None:
        assert overlay.state in {"confirmed", "rolled_back"}
        facts: ConfigFacts = {
            "state": "confirmed" if overlay.state == "confirmed" else "rolled_back",
            "command": overlay.command,
            "config_hash": self._agent.config.digest(),
        }
        if overlay.reason:
            facts["reason"] = overlay.reason
        self._agent.tell("config", facts)
