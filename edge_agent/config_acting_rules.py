"""What must hold between codes, actuators and the use cases that ask for them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from edge_agent.config_acting import CONDITIONS
from edge_agent.config_codes import CODE_NAME
from edge_agent.config_sop import Condition
from edge_agent.config_tree import Finding, KeyPath, as_list, closest, get, mapping, mappings, unique_ids
from edge_agent.config_use_case_rules import chosen, named_cameras, named_zone, places
from edge_agent.usecases.sop_check import condition_faults


def acting_findings(data: Any, cameras: list[tuple[int, dict[str, Any]]], own: str) -> Iterator[Finding]:
    """Every broken rule. ``own``: topics of this box begin so."""
    yield from _codes(get(data, "codes"), cameras)
    yield from _asked_codes(data)
    yield from _devices(get(data, "actuators"), own)
    devices = {str(get(device, "id")): device for _, device in mappings(get(get(data, "actuators"), "devices"))}
    for name in ("touchless", "dispenser"):
        section = get(get(data, "use_cases"), name)
        for index, rule in enumerate(as_list(get(section, "rules"))):
            path: KeyPath = ("use_cases", name, "rules", index)
            yield from _conditions(path, rule, cameras)
            yield from _orders(path, rule, devices)


def _codes(section: Any, cameras: list[tuple[int, dict[str, Any]]]) -> Iterator[Finding]:
    yield from named_cameras(("codes",), section, cameras)
    yield from named_zone(("codes",), section, cameras)
    if mapping(section).get("qr") is False and not mapping(section).get("markers"):
        yield ("codes", "qr"), "is false, and no markers are named: nothing would be read"
    for name in mapping(get(section, "names")):
        if name in ("any", "token"):
            yield ("codes", "names", name), f"{name!r} has a meaning of its own in conditions; take another name"


def _asked_codes(data: Any) -> Iterator[Finding]:
    section = get(data, "codes")
    reads = "codes" in mapping(data) and mapping(section).get("enabled") is not False
    names, keyed = mapping(get(section, "names")), bool(as_list(get(section, "key_files")))
    for path, asked in _asked(get(data, "use_cases"), ("use_cases",)):
        if not reads:
            yield path, f"given {asked!r}, but no codes are read: add a section `codes:`, see docs/codes.md"
        elif asked.partition(":")[0] == "token":
            if not keyed:
                yield path, f"given {asked!r}, but there is no key to believe tokens by: name codes.key_files"
        elif asked != "any" and asked not in names and not re.fullmatch(CODE_NAME, asked):
            known = ["any", "token", *names]
            text = f"given {asked!r}, no such group in codes.names, and no code's own name"
            yield path, f"{text}; there are: {', '.join(known)}{closest(asked, known)}"
    for name in ("touchless", "dispenser", "guest"):
        for index, rule in enumerate(as_list(get(get(get(data, "use_cases"), name), "rules"))):
            needs = name == "guest" or get(rule, "token") is not None
            if needs and not (reads and keyed):
                where: KeyPath = ("use_cases", name, "rules", index, *(("token",) if get(rule, "token") else ()))
                yield where, "needs tokens, which need codes.key_files: see docs/codes.md"


def _asked(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Every code that a condition asks for."""
    inner = value.items() if isinstance(value, dict) else enumerate(as_list(value))
    for key, below in inner:
        if key == "code" and isinstance(below, str):
            yield (*path, key), below
        else:
            yield from _asked(below, (*path, key))


def _devices(section: Any, own: str) -> Iterator[Finding]:
    allowed = [prefix for prefix in as_list(get(section, "allow")) if isinstance(prefix, str)]
    for index, prefix in enumerate(allowed):
        if own.startswith(prefix) or prefix.startswith(own):
            yield ("actuators", "allow", index), f"given {prefix!r}, which covers what this box itself publishes"
    devices = mappings(get(section, "devices"))
    yield from ((("actuators", *path), text) for path, text in unique_ids("devices", devices))
    for index, device in devices:
        path: KeyPath = ("actuators", "devices", index)
        topic, safe, actions = device.get("topic"), device.get("safe"), list(mapping(device.get("actions")))
        if isinstance(topic, str) and not any(topic.startswith(prefix) for prefix in allowed):
            yield (*path, "topic"), f"given {topic!r}, which actuators.allow does not cover: {', '.join(allowed)}"
        if isinstance(safe, str) and actions and safe not in actions:
            yield (
                (*path, "safe"),
                f"given {safe!r}, no such action; there are: {', '.join(actions)}{closest(safe, actions)}",
            )
        if isinstance(topic, str) and topic == get(device.get("ack"), "topic"):
            yield (*path, "ack", "topic"), "is the topic of the commands: the device would seem to answer at once"


def _conditions(path: KeyPath, rule: Any, cameras: list[tuple[int, dict[str, Any]]]) -> Iterator[Finding]:
    for key in CONDITIONS:
        given = get(rule, key)
        if given is None:
            continue
        try:
            condition = Condition.model_validate_json(json.dumps(given), strict=True)
        except ValidationError:
            continue
        there = [places(camera) for camera in chosen(rule, cameras)]
        yield from (((*path, *place), text) for place, text in condition_faults((key,), condition, there))


def _orders(path: KeyPath, rule: Any, devices: dict[str, Any]) -> Iterator[Finding]:
    name, action = get(rule, "actuator"), get(rule, "action")
    if not isinstance(name, str):
        return
    if name not in devices:
        there = (
            f"there are: {', '.join(devices)}{closest(name, list(devices))}" if devices else "there is no `actuators:`"
        )
        yield (*path, "actuator"), f"given {name!r}, no such device; {there}"
        return
    actions = list(mapping(get(devices[name], "actions")))
    if isinstance(action, str) and action not in actions:
        yield (*path, "action"), f"given {action!r}, which {name} cannot do; it can: {', '.join(actions)}"
    elif action == get(devices[name], "safe"):
        yield (*path, "action"), f"is the safe action of {name}: there would be nothing to come back from"
