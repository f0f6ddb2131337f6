"""Every command: what it takes, what it answers, whether it changes something, how long it may take.

The envelope is the same for all: ``{"id", "expires", "args"}`` in, ``{"id", "command", "ok", "result" | "error"}`` out.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, create_model
from typing_extensions import NotRequired, TypedDict

from edge_agent.config_base import Slug, Strict
from edge_agent.config_commands import CommandName
from edge_agent.errors import CommandCode

Ident = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,64}$")]
ModelName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9][A-Za-z0-9._-]*)?$", max_length=127)
]

ModelLabel = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*@[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=127)
]


class NoArgs(Strict):
    """Takes nothing."""


class SnapshotArgs(Strict):
    """Of which camera."""

    camera: Slug = Field(description="camera id")
    width: int = Field(640, ge=64, le=1920, description="pixels; a wider picture is made smaller")


class LogLevelArgs(Strict):
    """How much is logged."""

    level: Literal["debug", "info", "warning", "error"] = Field(description="the least severe line that is written")
    minutes: float | None = Field(
        None, gt=0, le=10_080, description="after so long the configured level holds again; default: until the restart"
    )


class ConfigApplyArgs(Strict):
    """A change of the configuration."""

    config: dict[str, Any] = Field(
        description="JSON Merge Patch (RFC 7396) over the configuration; `cameras` is a mapping by camera id here"
    )
    replace: bool = Field(
        False, description="the patch takes the place of all earlier ones; {} gives the operator's file back"
    )


class ConfigUpdateArgs(Strict):
    """Which signed part of the configuration."""

    bundle: ModelName | None = Field(None, description="NAME or NAME@VERSION; default: NAME as ota.config says")
    again: bool = Field(False, description="also if it was rolled back on this box before")


class ModelUpdateArgs(Strict):
    """Which model."""

    model: ModelName | None = Field(
        None, description="NAME or NAME@VERSION; default: what the channel offers of the model at work"
    )
    activate: bool = Field(True, description="let it take over once it has passed its self-test")
    again: bool = Field(False, description="also if it was rolled back on this box before")


class ModelShadowArgs(Strict):
    """Which model, and how much of what there is to see."""

    model: ModelLabel | None = Field(description="NAME@VERSION; null: end the one that is in shadow")
    fraction: float = Field(0.1, gt=0, le=1, description="share of the frames that it looks at")
    minutes: float = Field(60.0, gt=0, le=10_080, description="for so long")


class Result(BaseModel):
    """Base of what a command answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Pong(Result):
    """Alive."""

    time: str = Field(description="RFC 3339 UTC, by the clock of the box")
    clock_ok: bool = Field(description="false: that clock is not synchronised")
    boot_id: str = Field(description="changes with every start of the agent")
    version: str
    uptime_s: float
    readiness: Literal["ok", "degraded", "failing"] = Field(description="as `GET /readyz`")


class Snapshot(Result):
    """The last picture."""

    camera: str
    jpeg: str = Field(description="base64")


class ConfigShown(Result):
    """The configuration at work, without credentials; ``cameras`` is a mapping by camera id."""

    config: dict[str, Any]
    config_hash: str
    overlay: dict[str, Any] = Field(description="what was changed from afar, a patch over the operator's file")
    state: Literal["none", "trial", "confirmed", "rolled_back"] = Field(description="of the last change from afar")
    reason: str = Field(description="why it was rolled back, else empty")


class ConfigApplied(Result):
    """The change holds."""

    state: Literal["unchanged", "confirmed"]
    restarted: bool = Field(description="false: it was taken over by the agent as it ran")
    config_hash: str


class Restarted(Result):
    """The agent is back."""

    boot_id: str
    version: str


class LogLevel(Result):
    """What holds now."""

    level: str


class DoctorFinding(Result):
    """One check of the doctor."""

    area: str
    name: str
    state: Literal["ok", "warn", "fail", "skip"]
    found: str
    fix: str = Field(description="how to mend it; empty where there is nothing to mend")


class Diagnostics(Result):
    """What ``edge-agent doctor --json`` prints."""

    ok: bool = Field(description="nothing failed")
    checks: list[DoctorFinding]
    took_s: float


@dataclass(frozen=True, slots=True)
class Command:
    """``effect``: it changes something, so it needs an id, is written down before it is done, and is done once.

    ``result`` is the type of what it answers; None where that belongs to a layer above: ``contract.commands`` names it.
    """

    name: CommandName
    about: str
    args: type[Strict]
    result: Any
    effect: bool = False
    deadline_s: float = 10.0


_ALL = (
    Command("ping", "whether the agent is there", NoArgs, Pong),
    Command("status", "everything the agent knows about itself", NoArgs, None),
    Command("config.get", "the configuration at work, without credentials", NoArgs, ConfigShown),
    Command("diagnostics", "look the box over, as `edge-agent doctor` does", NoArgs, Diagnostics, deadline_s=60.0),
    Command("snapshot", "the last picture of a camera, where privacy allows it", SnapshotArgs, Snapshot),
    Command("log.level", "log more or less for a while", LogLevelArgs, LogLevel, effect=True),
    Command("config.apply", "change the configuration", ConfigApplyArgs, ConfigApplied, effect=True, deadline_s=30.0),
    Command(
        "config.update",
        "begin to fetch a signed part of the configuration and to put it in force; the topic config tells how it goes",
        ConfigUpdateArgs,
        None,
        effect=True,
        deadline_s=30.0,
    ),
    Command("config.rollback", "back to the signed configuration before", NoArgs, None, effect=True, deadline_s=30.0),
    Command("restart", "stop in order and start again", NoArgs, Restarted, effect=True),
    Command(
        "model.update",
        "begin to fetch and activate a model; the topic model tells how it goes",
        ModelUpdateArgs,
        None,
        effect=True,
        deadline_s=30.0,
    ),
    Command("model.rollback", "back to the model before", NoArgs, None, effect=True, deadline_s=30.0),
    Command(
        "model.shadow",
        "let a model look at a share of the frames beside the one at work; the topic model tells how it does",
        ModelShadowArgs,
        None,
        effect=True,
        deadline_s=30.0,
    ),
)
COMMANDS: dict[str, Command] = {command.name: command for command in _ALL}


class Ask(BaseModel):
    """A command as it comes; see ``ask_model`` for what is different from one to the other."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    id: Ident | None = None
    expires: AwareDatetime | None = Field(None, description="RFC 3339; not done after this time; default: never")
    args: Any


@functools.cache
def ask_model(command: Command) -> type[Ask]:
    """The model of what comes: the id is needed where there is an effect, the arguments where one of them is."""
    needed = any(field.is_required() for field in command.args.model_fields.values())
    about = Field(... if command.effect else None, description="unique for ever; an effect happens once for it")
    return create_model(
        "".join(part.capitalize() for part in command.name.split(".")) + "Request",
        __doc__=command.about,
        __base__=Ask,
        id=(Ident if command.effect else Ident | None, about),
        args=(command.args, ... if needed else command.args()),
    )


class CommandFault(TypedDict):
    """Why there is no result."""

    code: Annotated[CommandCode, Field(description="for machines")]
    message: Annotated[str, Field(description="for people")]


class CommandAnswer(TypedDict):
    """What became of a command: a result or a fault."""

    id: NotRequired[Annotated[str, Field(description="that of the command")]]
    command: Annotated[str, Field(description="its name")]
    ok: Annotated[bool, Field(description="whether there is a result")]
    result: NotRequired[Annotated[dict[str, Any], Field(description="edge-agent schema commands says what of which")]]
    error: NotRequired[Annotated[CommandFault, Field(description="why there is none")]]
    note: NotRequired[Annotated[str, Field(description="why the answer came to this topic")]]
