"""What each command takes and what it answers, as messages: the other way of the contract."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from edge_agent.commands.catalogue import COMMANDS, Command, CommandAnswer, ask_model
from edge_agent.config_updates import ConfigState
from edge_agent.contract.message import Message
from edge_agent.device_facts import ModelState
from edge_agent.health.status import AgentStatus


class ModelResult(TypedDict):
    """What was asked for of the model has come to so far."""

    model: Annotated[ModelState, Field(description="as in the retained topic `model`")]


class ConfigResult(TypedDict):
    """What an update of the signed configuration has come to so far."""

    config: Annotated[ConfigState, Field(description="as in the retained topic `config`")]


_FROM_ABOVE: dict[str, Any] = {
    "status": AgentStatus,
    "model.update": ModelResult,
    "model.rollback": ModelResult,
    "model.shadow": ModelResult,
    "config.update": ConfigResult,
    "config.rollback": ConfigResult,
}
_DONE = {"properties": {"ok": {"const": True}}, "required": ["result"]}
_FAILED = {"properties": {"ok": {"const": False}}, "required": ["error"]}


def _request(command: Command) -> Message:
    return Message(f"{command.name}.request", ask_model(command))


def _answer(command: Command) -> Message:
    return Message(
        f"{command.name}.answer",
        CommandAnswer,
        command.result or _FROM_ABOVE[command.name],
        {"command": command.name},
        data_field="result",
        also={"anyOf": [_DONE, _FAILED]},
    )


REQUESTS = {command.name: _request(command) for command in COMMANDS.values()}
ANSWERS = {command.name: _answer(command) for command in COMMANDS.values()}
REFUSAL = Message("refusal", CommandAnswer, also=_FAILED)
"""The answer to what is no command."""
