"""Second models in the configuration: what is judged on crops of what the detector found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from edge_agent.config_base import Slug, Strict
from edge_agent.config_sop import Anchor
from edge_agent.config_use_case import Label, RuleSection
from edge_agent.config_zones import Hold, ZoneRule


class ClassifierConfig(Strict):
    """A model of family classifier, shown the crops of tracks every now and then; its scores are votes."""

    model: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9][A-Za-z0-9._-]*)?$",
        description="NAME or NAME@VERSION of family classifier; its labels are known to `has` and `lacks`",
    )
    cameras: list[Slug] | None = Field(None, min_length=1, description="default: all")
    backend: Literal["onnxruntime", "tflite", "openvino"] = Field("onnxruntime", description="what runs it")
    every_s: float = Field(0.5, ge=0, le=60, description="seconds between two looks at one track")
    max_crops: int = Field(4, ge=1, le=64, description="looks in one frame, those that waited longest first")
    min_crop_px: int = Field(48, ge=4, le=4096, description="a smaller crop is not looked at: unknown")
    no_below: float = Field(0.3, ge=0, le=1, description="a score up to this votes no")
    yes_above: float = Field(0.7, ge=0, le=1, description="a score from this on votes yes; between them nobody votes")
    votes: int = Field(
        3, ge=1, le=100, description="so many votes, three quarters of them alike, are needed to be sure"
    )
    memory_s: float = Field(5.0, gt=0, le=3600, description="a vote is forgotten after so long")


class PpeRule(ZoneRule):
    """Who is in a zone without what has to be worn there."""

    zone: Slug | None = Field(None, description="where it has to be worn; default: everywhere")
    anchor: Anchor = Field("feet", description="the point of the box that counts")
    wears: list[Label] = Field(
        min_length=1, max_length=10, description="labels of a classifier or of the detector, each has to be worn"
    )
    min_duration_s: Hold = Field(3.0, description="seen without it for so long before it is told")


class PpeConfig(RuleSection[PpeRule]):
    """Whether protective equipment is worn where it has to be."""

    def wanted_labels(self) -> Iterator[tuple[str, str]]:
        """Of each rule, and what has to be worn."""
        yield from super().wanted_labels()
        for i, rule in enumerate(self.rules):
            for k, label in enumerate(rule.wears):
                yield f"rules[{i}].wears[{k}]", label
