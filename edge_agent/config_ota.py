"""The ``ota`` section."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, field_validator, model_validator

from edge_agent.config_base import Slug, Strict, TlsConfig


def _address(value: str, schemes: tuple[str, ...]) -> str:
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"no address: {error}") from error
    if parts.username is not None:
        raise ValueError("a name or password does not belong into an address in this file")
    wrong = parts.query or parts.fragment or not value.isascii() or not value.isprintable() or " " in value
    if (
        parts.scheme not in schemes
        or wrong
        or (parts.scheme != "file" and not host)
        or (parts.scheme == "file" and host)
    ):
        raise ValueError(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}, blanks as %20")
    return value


def minutes_of_window(window: str) -> tuple[int, int]:
    """``HH:MM-HH:MM`` as minutes of the day. Raises ValueError."""
    found = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", window, re.ASCII)
    if found is None or found[1] + found[2] == found[3] + found[4]:
        raise ValueError(f"given {window!r}: a window is HH:MM-HH:MM, for example 02:00-04:30")
    begin_h, begin_m, end_h, end_m = map(int, found.groups())
    return 60 * begin_h + begin_m, 60 * end_h + end_m


class ProbationConfig(Strict):
    """What a model that has taken over must show before it is kept. Bounds are relative to the model before it."""

    frames: int = Field(300, ge=1, le=1_000_000, description="it must serve so many live frames")
    minutes: float = Field(10.0, gt=0, le=1440, description="and frames must have come for so long")
    deadline_minutes: float = Field(
        120.0, gt=0, le=10_080, description="where too few frames came until then, its self-test alone decides"
    )
    max_failed: float = Field(
        0.05, ge=0, le=1, description="share of frames on which it may fail beyond what the model before did"
    )
    max_slowdown: float = Field(
        2.0, ge=1, le=100, description="how many times as long a frame may take, or as few of them be processed"
    )
    compare: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of the frames that the model before looks at too, for comparison; 0 lets go of it at once",
    )
    min_agreement: float = Field(
        0.3, ge=0, le=1, description="F1 of the boxes of both, on the same frames, below which it is taken back"
    )
    max_growth_mb: int = Field(200, ge=16, le=1_000_000, description="memory it may need beyond that at the switch")


class OtaConfig(Strict):
    """Signed updates of models, configuration and the agent. Without a repository there are none."""

    repository: Annotated[str, StringConstraints(min_length=1, max_length=1000)] | None = Field(
        None, description="where the repository is served: https://, http:// or, for a USB stick, file:///"
    )
    root_file: Path | None = Field(None, description="the repository's root.json, by which everything is judged")
    team: Slug = Field("models", description="whose models: a role of the repository")
    channel: Slug = Field("stable", description="which of its channels decides what is offered")
    release_team: Slug = Field("agent", description="whose releases of the agent: a role of the repository")
    release: Slug | None = Field(
        None, description="name of the agent's releases for this box; default: edge-agent-MACHINE-pyX.Y"
    )
    config: Slug | None = Field(
        None, description="name of the signed part of this box's configuration; default: none is asked for"
    )
    config_team: Slug = Field("config", description="whose: a role of the repository")
    hardware: list[Slug] = Field(
        default_factory=list,
        max_length=16,
        description="further names of this hardware, as bundles name what they are for",
    )
    tls: TlsConfig | None = Field(
        None, description="authorities and our certificate; default: those of this machine, none"
    )
    token_file: Path | None = Field(
        None, description="a file holding a bearer token, with https only; or set EDGE_AGENT_OTA_TOKEN"
    )
    proxy: str | None = Field(None, max_length=1000, description="http://HOST:PORT; default: as the environment says")
    max_kb_s: int | None = Field(
        None, ge=16, le=1_000_000, description="load at most so many kB a second; default: all there is"
    )
    keep_free_mb: int = Field(
        200, ge=0, le=1_000_000, description="no update where less than this would be left on the disk"
    )
    max_inference_ms: float | None = Field(
        None,
        gt=0,
        le=60_000,
        description="refuse a model that takes longer for one picture on this box; default: never",
    )
    max_memory_mb: int | None = Field(
        None, ge=256, le=1_000_000, description="refuse one that needs more address space (CPU only); default: 4096"
    )
    clock: Literal["synchronised", "battery"] = Field(
        "synchronised",
        description="what this box knows the time by: the network, or a battery clock that somebody set (no network)",
    )

    poll_hours: float | None = Field(
        None, ge=0.1, le=8760, description="look for an update by itself so often; default: only when told to"
    )
    window: Annotated[str, StringConstraints(max_length=40)] | None = Field(
        None,
        description="HH:MM-HH:MM of the box's local time, in which it asks by itself and lets take over what it found; default: any time",
    )
    probation: ProbationConfig = Field(
        default_factory=ProbationConfig, description="what a model that has taken over must show"
    )

    @field_validator("window")
    @classmethod
    def _window(cls, value: str | None) -> str | None:
        if value is not None:
            minutes_of_window(value)
        return value

    @field_validator("repository")
    @classmethod
    def _repository(cls, value: str | None) -> str | None:
        return value if value is None else _address(value, ("https", "http", "file"))

    @field_validator("proxy")
    @classmethod
    def _proxy(cls, value: str | None) -> str | None:
        return value if value is None else _address(value, ("http", "https"))

    @model_validator(mode="after")
    def _together(self) -> OtaConfig:
        if self.repository is not None and self.root_file is None:
            raise ValueError("`repository` needs `root_file`: without it nothing that comes from there can be trusted")
        if self.token_file is not None and self.repository is not None and not self.repository.startswith("https:"):
            raise ValueError(
                "`token_file` needs an https repository: the token would go over the network for all to read"
            )
        return self
