"""Standard operating procedures in the configuration: steps, what shows that each was done, and their order.

A condition is a mapping, all of whose parts must hold at once and for the same thing: the person of the run, or with
``scope: station`` some person, or with ``count`` so many things of a label. What the parts mean is in
``usecases/conditions.py``, what becomes of steps in ``usecases/sop_run.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints

from edge_agent.config_base import Slug, Strict
from edge_agent.config_codes import CodeAsked
from edge_agent.config_use_case import Label, UseCaseSection

Seconds = Annotated[float, Field(ge=0, le=86_400)]
Hours = Annotated[str, StringConstraints(pattern=r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$")]
"""A window of the day."""
Day: TypeAlias = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Anchor: TypeAlias = Literal["feet", "centre", "head"]
Direction: TypeAlias = Literal["forward", "backward", "any"]
DEFAULT_FOR_S = 1.0
"""How long a condition of a step or trigger holds before it counts, where it does not say ``for_s``."""


class Condition(Strict):
    """All of its parts must hold at once, for the same person or thing."""

    zone: Slug | None = Field(None, description="stands in this zone of the camera")
    anchor: Anchor = Field("feet", description="the point of the box that counts for zones and lines")
    has: Label | None = Field(None, description="wears or holds one: an object of this label on the person's box")
    lacks: Label | None = Field(None, description="is seen without one")
    near: Label | None = Field(None, description="is near somebody or something else of this label")
    within_m: float | None = Field(None, gt=0, le=100, description="how near; default: 1")
    crosses: Slug | None = Field(None, description="just crossed this line of the camera")
    direction: Direction | None = Field(
        None, description="forward: from the left of the line to its right, seen from its first point; default: any"
    )
    faster_than_mps: float | None = Field(None, ge=0, le=100, description="moves faster, metres per second")
    slower_than_mps: float | None = Field(None, gt=0, le=100, description="moves slower, metres per second")
    code: CodeAsked | None = Field(
        None, description="shows this code: any, token, token:PURPOSE, a group of codes.names, or a code's own name"
    )
    count: Label | None = Field(None, description="not about the person: how many of this label satisfy the rest")
    at_least: int | None = Field(None, ge=1, le=1000, description="of `count`; default: 1, without at_most")
    at_most: int | None = Field(None, ge=0, le=1000, description="of `count`; default: any number")
    sensor: Slug | None = Field(None, description="the last value of this sensor")
    equals: bool | float | str | None = Field(None, description="the sensor's value is this")
    above: float | None = Field(None, description="the sensor's value is greater")
    below: float | None = Field(None, description="the sensor's value is less")
    time: Hours | None = Field(
        None,
        description="HH:MM-HH:MM by the box's clock, also over midnight; the first minute counts, the last does not",
    )
    days: list[Day] | None = Field(None, min_length=1, max_length=7, description="of the week: mon, tue, ..., sun")
    all: list[Condition] | None = Field(None, min_length=1, max_length=20, description="each of these holds")
    any: list[Condition] | None = Field(None, min_length=1, max_length=20, description="at least one of these holds")
    none: list[Condition] | None = Field(None, min_length=1, max_length=20, description="not one of these holds")
    for_s: Seconds | None = Field(
        None, description="... and has held for so long; default: 1 in steps, start and end, else 0"
    )


class Step(Strict):
    """One step of a procedure."""

    step: Slug = Field(description="its name; unique in the procedure")
    when: Condition = Field(description="what shows that it is being done")
    confidence: float = Field(
        0.2, ge=0, le=1, description="least share of the frames in which the evidence was there while it was done"
    )
    after: list[Slug] | None = Field(
        None, max_length=50, description="steps that must be done before; default: the one above; []: none"
    )
    optional: bool = Field(False, description="may be left out")
    repeatable: bool = Field(False, description="may be done again")
    min_s: Seconds | None = Field(None, description="done for less is too fast; default: when.for_s")
    max_s: Seconds | None = Field(None, description="done for more is too slow; default: any time")
    wait_s: Seconds | None = Field(
        None, description="begun earlier after the steps before it (or the start) is too fast; default: 0"
    )
    within_s: Seconds | None = Field(
        None, description="begun later after the steps before it (or the start) is too slow; default: any time"
    )


class Procedure(Strict):
    """One procedure, followed for each person or each station by itself."""

    name: Slug = Field(description="in events; unique")
    cameras: list[Slug] | None = Field(None, min_length=1, description="default: all")
    scope: Literal["person", "station"] = Field(
        "person", description="who does it: one person all of it, or whoever is at the station"
    )
    stations: dict[Slug, dict[Slug, Slug]] = Field(
        default_factory=dict,
        max_length=32,
        description="places it is done at in parallel: for each the zones, lines and sensors that stand for those named here",
    )
    label: Label = Field("person", description="label of the model that is a person")
    requires_labels: list[Label] = Field(
        min_length=1, max_length=100, description="labels the model must know; no other may be used here"
    )
    start: Condition | None = Field(None, description="begins a run; default: the evidence of any step")
    end: Condition | None = Field(
        None, description="ends it; default: all is done, or nothing more comes after the last step"
    )
    idle_s: float = Field(
        60.0, gt=0, le=86_400, description="a run is abandoned when no step went on for so long; shorter is a pause"
    )
    steps: list[Step] = Field(min_length=1, max_length=50, description="in their order")


class SopConfig(UseCaseSection):
    """Standard operating procedures."""

    enabled: bool = Field(True, description="whether to follow them")
    procedures: list[Procedure] = Field(min_length=1, max_length=50, description="what is to be followed")

    def runs_on(self, camera: str) -> bool:
        """Whether one is followed there."""
        return any(procedure.cameras is None or camera in procedure.cameras for procedure in self.procedures)

    def wanted_labels(self) -> Iterator[tuple[str, str]]:
        """What the procedures say they need."""
        for i, procedure in enumerate(self.procedures):
            for k, label in enumerate(procedure.requires_labels):
                yield f"procedures[{i}].requires_labels[{k}]", label
