"""What must hold between the rules of use cases that tell of groups only: nothing may be worked out from two of them together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

from edge_agent.config_aggregates import AggregateRule
from edge_agent.config_tree import Corner, Finding, KeyPath, as_list, get, mapping
from edge_agent.config_use_case_rules import chosen, places
from edge_agent.usecases.sop_check import Names
from edge_agent.usecases.sop_logic import overlap

_NOTHING = 1e-6
_LABEL = AggregateRule.model_fields["label"].default


def aggregate_findings(use_cases: Any, cameras: list[tuple[int, dict[str, Any]]]) -> Iterator[Finding]:
    """Every broken rule. ``use_cases`` is what the file says in that section, ``cameras`` its cameras."""
    for name in ("attributes", "attention"):
        rules = as_list(get(get(use_cases, name), "rules"))
        yield from _same_people(("use_cases", name, "rules"), rules, cameras)
        if name == "attributes":
            for index, rule in enumerate(rules):
                yield from _asked(("use_cases", name, "rules", index), mapping(rule))


def _same_people(path: KeyPath, rules: list[Any], cameras: list[tuple[int, dict[str, Any]]]) -> Iterator[Finding]:
    """Refuse two rules that see the same people: the difference of their counts is about those whom only one of them sees."""
    for (i, first), (k, second) in combinations(enumerate(rules), 2):
        if (get(first, "label") or _LABEL) != (get(second, "label") or _LABEL):
            continue
        there = [camera for camera in chosen(first, cameras) if camera in chosen(second, cameras)]
        shared = [camera for camera in there if _meet(get(first, "zone"), get(second, "zone"), places(camera))]
        if shared:
            where = (*path, k, *(("zone",) if get(second, "zone") is not None else ()))
            text = f"sees people whom rules[{i}] sees too, on camera {shared[0].get('id', '?')}"
            yield where, f"{text}: the difference of the two would be about few; take zones that are apart"


def _meet(a: Any, b: Any, camera: Names) -> bool:
    if a is None or b is None or a == b:
        return True
    for zones in (camera.frame_zones, camera.floor_zones):
        if a in zones and b in zones:
            return overlap(_inward(zones[a]), _inward(zones[b]))
    known = [*camera.frame_zones, *camera.floor_zones]
    return a in known and b in known  # the one in fractions and the other in metres: who can tell


def _inward(corners: Sequence[Corner]) -> list[Corner]:
    """The corners moved inward by next to nothing, so that zones which only touch do not meet."""
    x, y = (sum(values) / len(corners) for values in zip(*corners, strict=True))
    return [(a + _NOTHING * (x - a), b + _NOTHING * (y - b)) for a, b in corners]


def _asked(path: KeyPath, rule: dict[str, Any]) -> Iterator[Finding]:
    """One label for one attribute, so that none is a part of another."""
    if not rule.get("has") and not rule.get("near"):
        yield path, "asks for nothing: name attributes in has or near, such as has: {bag: [handbag, backpack]}"
    if "within_m" in rule and not rule.get("near"):
        yield (*path, "within_m"), "given without near, which it belongs to"
    owners: dict[str, str] = {}
    for kind in ("has", "near"):
        for name, labels in mapping(rule.get(kind)).items():
            if kind == "near" and name in mapping(rule.get("has")):
                yield (*path, kind, name), f"given {name!r}, which is already a name in has; names must differ"
            for index, label in enumerate(as_list(labels)):
                if isinstance(label, str) and owners.setdefault(label, name) != name:
                    text = f"given {label!r}, which {owners[label]} has already: the difference of the two would be about few"
                    yield (*path, kind, name, index), text
