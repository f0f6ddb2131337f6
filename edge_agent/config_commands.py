"""The ``commands`` section: who may have what done over MQTT."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints

from edge_agent.config_base import Strict

CommandName: TypeAlias = Literal[
    "ping",
    "status",
    "config.get",
    "diagnostics",
    "snapshot",
    "log.level",
    "config.apply",
    "config.update",
    "config.rollback",
    "restart",
    "model.update",
    "model.rollback",
    "model.shadow",
]
TopicPrefix = Annotated[str, StringConstraints(pattern=r"^[^$+#/\x00-\x1f][^+#\x00-\x1f]*/$", max_length=200)]


class CommandsConfig(Strict):
    """Commands over MQTT. At the control socket, which is for this user and root alone, every command is allowed."""

    enabled: bool = Field(True, description="whether to take commands from the broker")
    allow: list[CommandName] = Field(
        default=["ping", "status", "config.get", "diagnostics"],
        max_length=20,
        description="commands that the broker's clients may give; who of them, the broker's access rules say",
    )
    reply_prefixes: list[TopicPrefix] = Field(
        default_factory=list,
        max_length=16,
        description="answers may also go to topics that begin so, for example backend/answers/",
    )
    trial_s: float = Field(
        60.0, ge=5, le=3600, description="a changed configuration that is not as ready after so long is taken back"
    )
