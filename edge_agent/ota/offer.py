"""What a repository says about its bundles: where they are, what is in them, for whom; the two sides agree on it here.

Target paths: ``<team>/bundles/<name>/<version>.tar`` and ``<team>/channels/<channel>.json``, each team a delegated role.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from edge_agent import __version__
from edge_agent.config_base import Slug
from edge_agent.errors import AgentTooOld, UpdateRefused, WrongHardware

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
MODEL, AGENT, CONFIG = "model", "agent", "config"
"""Kinds of bundles."""
AgentVersion = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,4}(\.[0-9]{1,4}){0,3}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Bundle(_Strict):
    """One version of a model, or of whatever is published, by its content."""

    name: Slug
    version: Slug
    sha256: Sha256

    @property
    def label(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


class Facts(BaseModel):
    """What is signed beside a bundle's length and hash (``custom`` in its target). Unknown keys are a newer publisher's."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    name: Slug
    version: Slug
    kind: Slug = MODEL
    min_agent: AgentVersion = "0"
    backends: tuple[Slug, ...] = Field((), max_length=16)
    """Any of them can run it; none named: not known."""
    hardware: tuple[Slug, ...] = Field((), max_length=16)
    """Any of them will do; none named: any hardware."""
    installed_bytes: int = Field(0, ge=0)
    """What it takes on the disk beside the bundle and the same again unpacked."""


class Channel(_Strict):
    """What a channel offers: the version of each name."""

    bundles: dict[Slug, Slug] = Field(max_length=1000)


@dataclass(frozen=True, slots=True)
class Box:
    """What a bundle must fit."""

    backends: frozenset[str]
    """That can run here; a TensorRT box has ``onnxruntime`` too, whose files it takes."""
    hardware: frozenset[str] = field(default_factory=lambda: frozenset({platform.machine()}))
    agent: str = __version__

    def check(self, facts: Facts) -> None:
        """Raises AgentTooOld, WrongHardware."""
        label = f"{facts.name}@{facts.version}"
        if _numbers(facts.min_agent) > _numbers(self.agent):
            raise AgentTooOld(
                f"{label} needs edge-agent {facts.min_agent}, this is {self.agent}: update the agent first"
            )
        if facts.backends and not self.backends & set(facts.backends):
            raise WrongHardware(
                f"{label} has files for {', '.join(facts.backends)}; this box has {', '.join(sorted(self.backends))}"
            )
        if facts.hardware and not self.hardware & set(facts.hardware):
            raise WrongHardware(
                f"{label} is for {', '.join(facts.hardware)}; this box is {', '.join(sorted(self.hardware))} (ota.hardware)"
            )


def bundle_path(team: str, name: str, version: str) -> str:
    """The target path of a bundle."""
    return f"{team}/bundles/{name}/{version}.tar"


def channel_path(team: str, channel: str) -> str:
    """The target path of a channel."""
    return f"{team}/channels/{channel}.json"


def team_paths(team: str) -> list[str]:
    """What a team's role may sign for, as TUF's path patterns: a ``*`` takes no slash."""
    return [bundle_path(team, "*", "*"), channel_path(team, "*")]


def check_name(facts: Facts, name: str, version: str, kind: str = MODEL) -> None:
    """Raises UpdateRefused where what is signed under a path is something else."""
    if facts.kind != kind:
        raise UpdateRefused(f"{name}@{version} is of the kind {facts.kind!r}, not {kind!r}")
    if (facts.name, facts.version) != (name, version):
        raise UpdateRefused(f"the repository has {facts.name}@{facts.version} in the place of {name}@{version}")


def _numbers(version: str) -> tuple[int, ...]:
    """``1.2`` and ``1.2.0`` are the same; what follows the numbers (rc1) does not count."""
    found = re.match(r"[0-9]+(\.[0-9]+)*", version)
    numbers = [int(part) for part in found[0].split(".")] if found else [0]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
