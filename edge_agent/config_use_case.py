"""What the sections of all use cases share: whether and where they run, and which labels the model must know.

A use case is one field of ``config.UseCasesConfig`` and one row of ``chains.USE_CASES``. One that is made of rules (a zone
here, a line there) derives its section from ``RuleSection`` and its rules from ``Rule``; names, cameras, zones and lines
of rules are then checked by ``config_rules`` without further code.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Generic, TypeVar

from pydantic import Field, StringConstraints

from edge_agent.config_base import Slug, Strict

Label = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class UseCaseSection(Strict):
    """A use case."""

    enabled: bool = Field(True, description="whether to look for it")

    def runs_on(self, camera: str) -> bool:
        """Whether it has something to do on this camera."""
        return True

    def wanted_labels(self) -> Iterator[tuple[str, str]]:
        """What the model must know: key path below this section, and label."""
        yield from ()


class Rule(Strict):
    """One rule of a use case; it is told by its name."""

    name: Slug = Field(description="in events and metrics; unique in its use case")
    cameras: list[Slug] | None = Field(None, min_length=1, description="default: all")
    label: Label = Field("person", description="label of the model that counts")

    def runs_on(self, camera: str) -> bool:
        """Whether it is about this camera."""
        return self.cameras is None or camera in self.cameras


R = TypeVar("R", bound=Rule)


class RuleSection(UseCaseSection, Generic[R]):
    """A use case made of rules."""

    rules: list[R] = Field(min_length=1, max_length=100, description="what is to be looked for, and where")
    max_events_per_minute: int = Field(
        60, ge=1, le=6000, description="a rate cap for each camera; what is held back is counted"
    )

    def runs_on(self, camera: str) -> bool:
        """Whether one of the rules is about this camera."""
        return any(rule.runs_on(camera) for rule in self.rules)

    def wanted_labels(self) -> Iterator[tuple[str, str]]:
        """Of each rule."""
        for i, rule in enumerate(self.rules):
            yield f"rules[{i}].label", rule.label
