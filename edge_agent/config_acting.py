"""The use cases that do something: touchless, dispenser; and guest, which tells who wants to be known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, StringConstraints

from edge_agent.config_base import Slug
from edge_agent.config_sop import Condition
from edge_agent.config_use_case import Rule, RuleSection

Purpose = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,30}$")]
CONDITIONS = ("when", "only_if", "clear", "taken")
"""The keys of rules that are conditions."""


def labels_of(path: str, condition: Condition) -> Iterator[tuple[str, str]]:
    """The labels that a condition asks for, each with its key path."""
    for name in ("has", "lacks", "near", "count"):
        if (label := getattr(condition, name)) is not None:
            yield f"{path}.{name}", label
    for name in ("all", "any", "none"):
        for i, inner in enumerate(getattr(condition, name) or []):
            yield from labels_of(f"{path}.{name}[{i}]", inner)


class ActionRule(Rule):
    """When something is so, a device does something."""

    when: Condition = Field(description="what asks for it, about anybody: {zone: panel, for_s: 2}, {code: drivers}")
    actuator: Slug = Field(description="device of section `actuators`")
    action: Slug = Field(description="what it does; its `safe` action follows")
    cool_down_s: float = Field(5.0, ge=0, le=86_400, description="after it is over nothing is done for so long")


class TouchlessRule(ActionRule):
    """A door, a lamp, a lift, without a touch."""

    token: Purpose | None = Field(
        None, description="only for a valid token of this purpose, which is used up; default: for anybody"
    )
    only_if: Condition | None = Field(
        None, description="interlock: must be surely so, and stay so while it lasts; what cannot be seen is not"
    )
    hold_s: float = Field(5.0, gt=0, le=3600, description="so long after it was done, the safe action follows")


class DispenserRule(ActionRule):
    """A key, a parcel, a tool is handed out against a token."""

    token: Purpose = Field(description="purpose of the token that is needed, and used up")
    clear: Condition = Field(description="must be surely so before it opens: {count: person, zone: arm, at_most: 0}")
    clear_within_s: float = Field(15.0, gt=0, le=3600, description="where it is not clear by then, nothing is opened")
    taken: Condition = Field(description="shows that it was taken: {count: key, zone: tray, at_most: 0, for_s: 1}")
    take_within_s: float = Field(30.0, gt=0, le=3600, description="where it was not taken by then, it closes again")


class ActionSection(RuleSection[ActionRule]):
    """Use cases whose rules hold conditions."""

    def wanted_labels(self) -> Iterator[tuple[str, str]]:
        """Of each rule and its conditions."""
        yield from super().wanted_labels()
        for i, rule in enumerate(self.rules):
            for name in CONDITIONS:
                if (condition := getattr(rule, name, None)) is not None:
                    yield from labels_of(f"rules[{i}].{name}", condition)


class TouchlessConfig(ActionSection):
    """Devices that are commanded without a touch."""

    rules: list[TouchlessRule] = Field(min_length=1, max_length=100, description="what asks for what")  # type: ignore[assignment]


class DispenserConfig(ActionSection):
    """Things that are handed out against tokens."""

    rules: list[DispenserRule] = Field(min_length=1, max_length=100, description="the dispensers")  # type: ignore[assignment]


class GuestRule(Rule):
    """Who shows a token for it wants to be known."""

    token: Purpose = Field("guest", description="purpose of the tokens")
    again_after_s: float = Field(3600.0, gt=0, le=604_800, description="the same token is told again after so long")


class GuestConfig(RuleSection[GuestRule]):
    """Guests who show who they are."""
