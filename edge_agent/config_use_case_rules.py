"""What must hold between the values of use cases: their cameras, zones and lines are there, names differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from edge_agent.config import SocialDistancingConfig
from edge_agent.config_classifiers import ClassifierConfig
from edge_agent.config_sop import Procedure
from edge_agent.config_tree import Finding, KeyPath, as_list, closest, corners, get, mapping, pair
from edge_agent.usecases.sop_check import Names, faults


def classifier_findings(classifiers: Any, cameras: list[tuple[int, dict[str, Any]]]) -> Iterator[Finding]:
    """The same of the section ``classifiers``."""
    for index, one in enumerate(as_list(classifiers)):
        path: KeyPath = ("classifiers", index)
        yield from named_cameras(path, one, cameras)
        given = pair(one, ClassifierConfig, ("no_below", "yes_above"))
        if given and given[1] >= given[2]:
            yield (*path, given[0]), f"no_below is {given[1]:g}, which must be below yes_above, {given[2]:g}"


def use_case_findings(use_cases: Any, cameras: list[tuple[int, dict[str, Any]]]) -> Iterator[Finding]:
    """Every broken rule. ``use_cases`` is what the file says in that section, ``cameras`` its cameras with their places."""
    path: KeyPath = ("use_cases", "social_distancing")
    use_case = get(use_cases, "social_distancing")
    yield from _leave(path, use_case)
    yield from named_cameras(path, use_case, cameras)
    yield from named_zone(path, use_case, cameras)
    yield from _procedures(get(use_cases, "sop"), cameras)
    for name, section in mapping(use_cases).items():
        yield from _rules(("use_cases", name, "rules"), as_list(get(section, "rules")), cameras)


def _leave(path: KeyPath, section: Any) -> Iterator[Finding]:
    given = pair(section, SocialDistancingConfig, ("leave_distance_m", "distance_m"))
    if given and given[1] < given[2]:
        yield (*path, given[0]), f"leave_distance_m is {given[1]:g}, which must not be below distance_m, {given[2]:g}"


def named_cameras(path: KeyPath, use_case: Any, cameras: list[tuple[int, dict[str, Any]]]) -> Iterator[Finding]:
    """Refuse cameras that are not there."""
    known = list(dict.fromkeys(camera["id"] for _, camera in cameras if isinstance(camera.get("id"), str)))
    for index, name in enumerate(as_list(get(use_case, "cameras"))):
        if isinstance(name, str) and name not in known:
            yield (
                (*path, "cameras", index),
                f"given {name!r}, no such camera; there are: {', '.join(known)}{closest(name, known)}",
            )


def named_zone(
    path: KeyPath, use_case: Any, cameras: list[tuple[int, dict[str, Any]]], *, floor: bool = False
) -> Iterator[Finding]:
    """Refuse a zone that one of its cameras does not have; ``floor``: zones in metres serve as well."""
    here = chosen(use_case, cameras)
    have = [(camera, [*mapping(camera.get("zones")), *_on_floor(camera, "zones", floor=floor)]) for camera in here]
    yield from _place((*path, "zone"), "zone", get(use_case, "zone"), have)


def _line(
    path: KeyPath, key: str, use_case: Any, rule: Any, cameras: list[tuple[int, dict[str, Any]]]
) -> Iterator[Finding]:
    here = chosen(rule, cameras)
    have = [(camera, [*mapping(camera.get("lines")), *_on_floor(camera, "lines")]) for camera in here]
    yield from _place((*path, key), "line", get(use_case, key), have)


def _on_floor(camera: dict[str, Any], key: str, *, floor: bool = True) -> list[str]:
    return list(mapping(mapping(camera.get("ground")).get(key))) if floor else []


def _place(path: KeyPath, what: str, given: Any, have: list[tuple[dict[str, Any], list[str]]]) -> Iterator[Finding]:
    """Refuse a zone or line that one of the cameras does not have."""
    if not isinstance(given, str):
        return
    without = [str(camera.get("id", "?")) for camera, names in have if given not in names]
    if without:
        names = sorted({str(name) for _, there in have for name in there})
        there_are = f"{what}s there are: {', '.join(names)}{closest(given, names)}" if names else f"it has no {what}s"
        yield path, f"given {given!r}, which camera {', '.join(without)} does not have; {there_are}"


def chosen(use_case: Any, cameras: list[tuple[int, dict[str, Any]]]) -> list[dict[str, Any]]:
    """The cameras it runs on."""
    chosen = get(use_case, "cameras")
    return [camera for _, camera in cameras if not isinstance(chosen, list) or camera.get("id") in chosen]


def _procedures(section: Any, cameras: list[tuple[int, dict[str, Any]]]) -> Iterator[Finding]:
    """Those that are right by their types; the others are told by these."""
    names: list[str] = []
    for index, procedure in enumerate(as_list(get(section, "procedures"))):
        path: KeyPath = ("use_cases", "sop", "procedures", index)
        yield from named_cameras(path, procedure, cameras)
        try:
            typed = Procedure.model_validate_json(json.dumps(procedure), strict=True)
        except ValidationError:
            continue
        if typed.name in names:
            text = f"given {typed.name!r}, which is already the name of procedures[{names.index(typed.name)}]"
            yield (*path, "name"), f"{text}; names must differ"
        names.append(typed.name)
        for place, text in faults(typed, [places(camera) for camera in chosen(procedure, cameras)]):
            yield (*path, *place), text


def places(camera: dict[str, Any]) -> Names:
    """The zones and lines of a camera, as far as they are right."""
    ground = mapping(camera.get("ground"))
    zones, floor = (
        {name: polygon for name, value in mapping(given).items() if (polygon := corners(value))}
        for given in (camera.get("zones"), ground.get("zones"))
    )
    lines = [*mapping(camera.get("lines")), *mapping(ground.get("lines"))]
    return Names(str(camera.get("id", "?")), zones, floor, lines)


def _rules(path: KeyPath, rules: list[Any], cameras: list[tuple[int, dict[str, Any]]]) -> Iterator[Finding]:
    """Of a use case that is made of rules, see ``config_use_case``."""
    names: list[str] = []
    for index, rule in enumerate(rules):
        here: KeyPath = (*path, index)
        name = get(rule, "name")
        if isinstance(name, str) and name in names:
            yield (
                (*here, "name"),
                f"given {name!r}, which is already the name of rules[{names.index(name)}]; names must differ",
            )
        names.append(str(name))
        yield from named_cameras(here, rule, cameras)
        yield from named_zone(here, rule, cameras, floor=True)
        yield from _line(here, "line", rule, rule, cameras)
        doors = as_list(get(rule, "doors"))
        for number, door in enumerate(doors):
            yield from _line((*here, "doors", number), "line", door, rule, cameras)
        if doors and get(rule, "zone") is not None:
            yield (*here, "zone"), "given beside doors; people are counted either in a zone or by the doors"
        if get(rule, "start_count") and not doors:
            yield (*here, "start_count"), "given without doors, which it is the start of the balance of"
        if get(rule, "forward") is not None and get(rule, "forward") == get(rule, "backward"):
            yield (
                (*here, "backward"),
                f"given {get(rule, 'backward')!r}, which forward is called too; names must differ",
            )
