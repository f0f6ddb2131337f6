"""The use cases of zones and lines in the configuration: occupancy, line_count, intrusion, loitering."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edge_agent.config_base import Slug, Strict
from edge_agent.config_sop import Anchor, Day, Hours
from edge_agent.config_use_case import Rule, RuleSection

Hold = Annotated[float, Field(gt=0, le=3600)]
Ages = Annotated[list[Annotated[float, Field(gt=0)]], Field(max_length=100)]
_ZONE = "only who stands in this zone of the camera, given in fractions or under `ground` in metres"


class ZoneRule(Rule):
    """What happens in a zone."""

    zone: Slug | None = Field(None, description=f"{_ZONE}; default: everywhere")
    anchor: Anchor = Field("feet", description="the point of the box that counts")
    update_at_s: Ages = Field(default=[60.0, 300.0], description="ages at which what lasts is told again")
    leave_duration_s: Hold = Field(3.0, description="it is over after so long without it")


class Door(Strict):
    """A line over which people come and go."""

    line: Slug = Field(description="line of the camera")
    inward: Literal["forward", "backward"] = Field(
        "forward", description="forward: from the left of the line to its right, seen from its first point"
    )


class OccupancyRule(ZoneRule):
    """How many are in a zone; or, with doors, in a room that the camera does not see, by those who come and go."""

    doors: list[Door] = Field(
        default_factory=list, max_length=20, description="count who comes and goes here, instead of who is in view"
    )
    start_count: int = Field(0, ge=0, le=1_000_000, description="with doors: how many are inside at the start")
    capacity: int | None = Field(None, ge=0, le=1_000_000, description="more are too many; default: none are")
    min_duration_s: Hold = Field(3.0, description="too many are told after so long")


class LineRule(Rule):
    """Who crosses a line."""

    line: Slug = Field(description="line of the camera, given in fractions or under `ground` in metres")
    anchor: Anchor = Field("feet", description="the point of the box that counts")
    forward: Slug = Field("forward", description="what to call it from the line's left to its right")
    backward: Slug = Field("backward", description="what to call it from right to left")
    events: bool = Field(True, description="false: crossings are only counted, by minute")


class IntrusionRule(ZoneRule):
    """Somebody is where nobody may be."""

    zone: Slug = Field(description=_ZONE)
    time: Hours | None = Field(None, description="HH:MM-HH:MM by the box's clock, also over midnight; default: always")
    days: list[Day] | None = Field(None, min_length=1, max_length=7, description="mon, tue, ..., sun; default: all")
    min_duration_s: Hold = Field(1.0, description="told after so long in the zone")


class LoiteringRule(ZoneRule):
    """Somebody stays for too long."""

    dwell_s: float = Field(60.0, gt=0, le=86_400, description="longer than this is too long")
    time: Hours | None = Field(None, description="HH:MM-HH:MM by the box's clock, also over midnight; default: always")
    days: list[Day] | None = Field(None, min_length=1, max_length=7, description="mon, tue, ..., sun; default: all")


class OccupancyConfig(RuleSection[OccupancyRule]):
    """How many are there, and whether that is too many."""


class LineCountConfig(RuleSection[LineRule]):
    """Who crosses lines, by direction."""


class IntrusionConfig(RuleSection[IntrusionRule]):
    """Whether somebody is where, or when, nobody may be."""


class LoiteringConfig(RuleSection[LoiteringRule]):
    """Whether somebody stays for too long."""
