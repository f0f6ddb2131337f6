"""What is wrong with a procedure, said before it runs: names that nothing has, orders and evidence that cannot be."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from edge_agent.config_sop import Condition, Procedure, Step
from edge_agent.usecases.sop_logic import ever, names_of
from edge_agent.usecases.sop_plan import for_s, predecessors, reach

Path: TypeAlias = tuple[str | int, ...]
Fault: TypeAlias = tuple[Path, str]
"""Where in the procedure, and what."""
_OWNERS = {
    "within_m": "near",
    "direction": "crosses",
    "at_least": "count",
    "at_most": "count",
    "equals": "sensor",
    "above": "sensor",
    "below": "sensor",
}


@dataclass(frozen=True, slots=True)
class Names:
    """What one camera has: zones with their corners, by the unit of these, and lines."""

    camera: str
    frame_zones: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    floor_zones: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    lines: Collection[str] = ()


def faults(procedure: Procedure, cameras: Sequence[Names], sensors: Collection[str] | None = None) -> Iterator[Fault]:
    """Every fault, ``cameras`` being those it runs on; ``sensors`` None: it is not known which there are."""
    yield from _order(procedure.steps)
    for i, step in enumerate(procedure.steps):
        yield from _times(("steps", i), step, procedure.idle_s)
    if procedure.label not in procedure.requires_labels:
        text = f"does not hold {procedure.label!r}, the label of persons here"
        yield ("requires_labels",), text
    conditions = list(_conditions(procedure))
    for path, condition in conditions:
        for place, inner in _all_of(path, condition):
            yield from _form(place, inner)
            yield from _labels(place, inner, procedure)
    unknown = list(_places(procedure, conditions, cameras, sensors))
    yield from unknown
    if not unknown:
        yield from _evidence(procedure, cameras)


def condition_faults(path: Path, condition: Condition, cameras: Sequence[Names]) -> Iterator[Fault]:
    """What is wrong with a condition that stands by itself, on each of ``cameras``."""
    for place, inner in _all_of(path, condition):
        yield from _form(place, inner)
        for name, kind in (("zone", "zone"), ("crosses", "line")):
            if (given := getattr(inner, name)) is not None:
                yield from _known((*place, name), kind, given, cameras, None)


def _conditions(procedure: Procedure) -> Iterator[tuple[Path, Condition]]:
    if procedure.start is not None:
        yield ("start",), procedure.start
    if procedure.end is not None:
        yield ("end",), procedure.end
    for i, step in enumerate(procedure.steps):
        yield ("steps", i, "when"), step.when


def _all_of(path: Path, condition: Condition) -> Iterator[tuple[Path, Condition]]:
    """A condition and all that it holds."""
    yield path, condition
    for name in ("all", "any", "none"):
        for i, inner in enumerate(getattr(condition, name) or []):
            yield from _all_of((*path, name, i), inner)


# ---- order and time


def _order(steps: Sequence[Step]) -> Iterator[Fault]:
    names = [step.step for step in steps]
    for i, name in enumerate(names):
        if name in names[:i]:
            yield ("steps", i, "step"), f"given {name!r}, which is already the name of step {names.index(name) + 1}"
    broken = len(set(names)) < len(names)
    for i, step in enumerate(steps):
        for k, name in enumerate(step.after or []):
            if name not in names:
                broken = True
                yield (
                    ("steps", i, "after", k),
                    f"given {name!r}, no such step; there are: {', '.join(names)}{_near(name, names)}",
                )
    if broken:
        return
    before = [[names.index(name) for name in group] for group in predecessors(steps)]
    circle: set[int] = set()
    for i in range(len(steps)):
        if i in reach(i, before) and i not in circle:
            round_trip = {j for j in reach(i, before) if i in reach(j, before)}
            circle |= round_trip
            who = " and ".join(names[j] for j in sorted(round_trip))
            text = (
                f"contradictory order: {who} each come before the other"
                if len(round_trip) > 1
                else "comes after itself"
            )
            yield ("steps", i, "after"), f"{text}; a step that comes first needs `after: []`"
    if all(step.optional for step in steps):
        yield ("steps",), "every step is optional, so that nothing could ever be missed; at least one must not be"


def _times(path: Path, step: Step, idle_s: float) -> Iterator[Fault]:
    need = max(for_s(step.when), step.min_s or 0.0)
    if step.max_s is not None and need > step.max_s:
        what = "min_s" if step.min_s is not None and step.min_s >= for_s(step.when) else "when.for_s"
        yield (
            (*path, "max_s"),
            f"is {step.max_s:g}, less than {what}, {need:g}: the step would always be too fast or too slow",
        )
    if step.wait_s is not None and step.within_s is not None and step.wait_s > step.within_s:
        yield (*path, "within_s"), f"is {step.within_s:g}, less than wait_s, {step.wait_s:g}: no moment would be right"
    for name, limit in (("wait_s", step.wait_s), ("within_s", step.within_s)):
        if limit is not None and limit >= idle_s:
            yield (*path, name), f"is {limit:g}, but the run is abandoned before, after idle_s, {idle_s:g}: unreachable"


# ---- one condition


def _form(path: Path, condition: Condition) -> Iterator[Fault]:
    given = condition.model_fields_set - {"for_s", "anchor"}
    if not given:
        yield path, "says nothing: a condition needs at least one of zone, has, code, count, sensor, all, any, ..."
    for name, owner in _OWNERS.items():
        if getattr(condition, name) is not None and getattr(condition, owner) is None:
            yield (*path, name), f"given without {owner}, which it belongs to"
    tests = (condition.equals, condition.above, condition.below)
    if condition.sensor is not None and tests == (None, None, None):
        yield (*path, "sensor"), "given without equals, above or below: what should its value be?"
    if condition.equals is not None and (condition.above, condition.below) != (None, None):
        yield (*path, "equals"), "given with above or below; one of them is enough"
    for low, high in (("at_least", "at_most"), ("above", "below"), ("faster_than_mps", "slower_than_mps")):
        least, most = getattr(condition, low), getattr(condition, high)
        if least is not None and most is not None and (least > most if low == "at_least" else least >= most):
            yield (*path, high), f"is {most:g}, but {low} is {least:g}: can never be true"
    if condition.code is not None and "none" in path:
        yield (*path, "code"), "given within `none`, but a code that was not read may have been shown all the same"
    if condition.has is not None and condition.has == condition.lacks:
        yield (*path, "lacks"), f"given {condition.lacks!r}, which is also in has: can never be true"


def _labels(path: Path, condition: Condition, procedure: Procedure) -> Iterator[Fault]:
    for name in ("has", "lacks", "near", "count"):
        label = getattr(condition, name)
        if label is not None and label not in procedure.requires_labels:
            known = ", ".join(procedure.requires_labels)
            text = f"given {label!r}, which is not in requires_labels: {known}"
            yield (*path, name), text + _near(label, procedure.requires_labels)


# ---- zones, lines, sensors


def _places(
    procedure: Procedure,
    conditions: Sequence[tuple[Path, Condition]],
    cameras: Sequence[Names],
    sensors: Collection[str] | None,
) -> Iterator[Fault]:
    used: set[str] = set()
    for path, outer in conditions:
        for place, condition in _all_of(path, outer):
            for name, kind in (("zone", "zone"), ("crosses", "line"), ("sensor", "sensor")):
                given = getattr(condition, name)
                if given is None:
                    continue
                used.add(given)
                without = [station for station, stand in procedure.stations.items() if given not in stand]
                if not procedure.stations or without:
                    yield from _known((*place, name), kind, given, cameras, sensors)
    for station, stand in procedure.stations.items():
        for name, given in stand.items():
            place = ("stations", station, name)
            if name not in used:
                yield place, f"no condition of this procedure names {name!r}{_near(name, sorted(used))}"
            elif all(given not in _all_names(camera) for camera in cameras) and given not in (sensors or ()):
                yield from _known(place, "zone, line or sensor", given, cameras, sensors)


def _known(
    path: Path, kind: str, given: str, cameras: Sequence[Names], sensors: Collection[str] | None
) -> Iterator[Fault]:
    if kind == "sensor":
        if sensors is not None and given not in sensors:
            there = f"there are: {', '.join(sensors)}" if sensors else "there are none in `sensors:`"
            yield path, f"given {given!r}, no such sensor; {there}{_near(given, sensors)}"
        return
    for camera in cameras:
        names = {
            "zone": [*camera.frame_zones, *camera.floor_zones],
            "line": list(camera.lines),
        }.get(kind, _all_names(camera))
        if given not in names:
            there = f"{kind}s there are: {', '.join(names)}" if names else f"it has no {kind}s"
            yield path, f"given {given!r}, which camera {camera.camera} does not have; {there}{_near(given, names)}"
            return


def _all_names(camera: Names) -> list[str]:
    return [*camera.frame_zones, *camera.floor_zones, *camera.lines]


# ---- evidence that cannot be


def _evidence(procedure: Procedure, cameras: Sequence[Names]) -> Iterator[Fault]:
    """Conditions that contradict themselves, hold always, or hold only when the run is over."""
    if not cameras:
        return
    stand = next(iter(procedure.stations.values()), {})
    atoms = names_of(procedure, cameras[0].frame_zones, cameras[0].floor_zones, stand)
    for path, condition in _conditions(procedure):
        if not ever(atoms, condition):
            yield (
                path,
                "can never be true: its parts contradict each other" + (": unreachable" if path[0] == "steps" else ""),
            )
        elif not ever(atoms, condition, holds=False):
            yield path, "is always true, and so shows nothing"
        elif path[0] == "steps" and procedure.end is not None and not ever(atoms, condition, without=procedure.end):
            yield path, "holds only where `end` holds too: unreachable, the run would be over"


def _near(given: str, allowed: Collection[str]) -> str:
    close = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
