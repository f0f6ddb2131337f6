"""The use cases that tell of groups only, never of a person: attributes, attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from edge_agent.config_base import Slug
from edge_agent.config_sop import Anchor, Condition
from edge_agent.config_use_case import Label, Rule, RuleSection

SMALLEST_GROUP = 10
"""No rule may tell of fewer people."""
Labels = Annotated[list[Label], Field(min_length=1, max_length=10)]
Interval = Annotated[float, Field(ge=60, le=86_400)]


class AggregateRule(Rule):
    """What is counted of the people in a zone."""

    zone: Slug | None = Field(None, description="zone of the camera, in fractions or in metres; default: everywhere")
    anchor: Anchor = Field("feet", description="the point of the box that counts")


class AttributesRule(AggregateRule):
    """How many of those who were in a zone had something with them."""

    has: dict[Slug, Labels] = Field(
        default_factory=dict,
        max_length=20,
        description="by a name of yours, labels of the detector or a classifier of which one is on the person: bag: [handbag, backpack]",
    )
    near: dict[Slug, Labels] = Field(
        default_factory=dict, max_length=20, description="... of which one is near the person: trolley: [trolley]"
    )
    within_m: float = Field(1.0, gt=0, le=100, description="how near that is")
    interval_s: Interval = Field(900.0, description="counts are told at multiples of it, by UTC")
    min_people: int = Field(
        20, ge=SMALLEST_GROUP, le=1_000_000, description="fewer are not told but counted with the next interval"
    )

    def conditions(self) -> dict[str, Condition]:
        """What shows each attribute, by its name."""
        on = {name: [Condition(has=label) for label in labels] for name, labels in self.has.items()}
        beside = {
            name: [Condition(near=label, within_m=self.within_m) for label in labels]
            for name, labels in self.near.items()
        }
        return {name: Condition(any=some) for name, some in (on | beside).items()}


class AttentionRule(AggregateRule):
    """What share of the people in a zone face a direction."""

    facing: Labels = Field(description="labels of a classifier of which one says that somebody faces it")
    interval_s: Interval = Field(600.0, description="a share is told at multiples of it, by UTC, at most")
    min_people: int = Field(
        SMALLEST_GROUP, ge=SMALLEST_GROUP, le=100_000, description="time with fewer who can be judged does not count"
    )
    min_counted_s: float = Field(120.0, ge=60, le=86_400, description="a share of less time is not told")


class AttributesConfig(RuleSection[AttributesRule]):
    """What groups of people have with them; of no group that is small, and of nobody twice."""

    def wanted_labels(self) -> Iterator[tuple[str, str]]:
        """Of each rule, and what is asked for."""
        yield from super().wanted_labels()
        for i, rule in enumerate(self.rules):
            for kind, asked in (("has", rule.has), ("near", rule.near)):
                for name, labels in asked.items():
                    yield from ((f"rules[{i}].{kind}.{name}[{k}]", label) for k, label in enumerate(labels))


class AttentionConfig(RuleSection[AttentionRule]):
    """What share of a group faces a direction. Off unless it says `enabled: true`: read docs/aggregates.md first."""

    enabled: bool = Field(False, description="whether to look for it; docs/aggregates.md says what the law has to say")

    def wanted_labels(self) -> Iterator[tuple[str, str]]:
        """Of each rule, and what is asked for."""
        yield from super().wanted_labels()
        for i, rule in enumerate(self.rules):
            yield from ((f"rules[{i}].facing[{k}]", label) for k, label in enumerate(rule.facing))
