"""Use cases about zones and lines: how many are there, who is where nobody should be, who stays, who crosses."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edge_agent.config_base import Slug, Strict
from edge_agent.config_sop import Anchor, Day, Hours, Label, Seconds


class _Case(Strict):
    enabled: bool = Field(True, description="whether to look for it")
    cameras: list[Slug] | None = Field(None, description="default: all")
    label: Label = Field("person", description="label of the model that counts")
    anchor: Anchor = Field("feet", description="the point of the box that counts")


class _ZoneCase(_Case):
    zones: list[Slug] | None = Field(None, min_length=1, max_length=100, description="default: all of the camera")
    enter_s: Seconds = Field(0.5, description="somebody is in a zone after so long in it ...")
    leave_s: Seconds = Field(1.0, description="... and out of it after so long outside")


class OccupancyConfig(_ZoneCase):
    """How many people are in each zone."""

    capacity: dict[Slug, Annotated[int, Field(ge=0, le=10_000)]] = Field(
        default_factory=dict, description="most people for a zone, by its name; more are told"
    )


class IntrusionConfig(_ZoneCase):
    """People where, or when, nobody should be."""

    time: Hours | None = Field(None, description="HH:MM-HH:MM by the box's clock, also over midnight; default: always")
    days: list[Day] | None = Field(None, min_length=1, max_length=7, description="mon, tue, ..., sun; default: all")


class LoiteringConfig(_ZoneCase):
    """People who stay for long."""

    after_s: float = Field(60.0, gt=0, le=86_400, description="whoever stays in a zone for longer loiters")


class LineCountConfig(_Case):
    """People who cross lines, by direction."""

    lines: list[Slug] | None = Field(None, min_length=1, max_length=100, description="default: all of the camera")
