"""Whether conditions can be true at all: by trying every combination of what they say.

Each thing a condition says is an atom that may be so or not: a zone, an object, a sensor's test. For one person
atoms exclude each other where they must: zones that do not overlap, having and lacking the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from edge_agent.config_sop import Condition, Procedure
from edge_agent.types import F64
from edge_agent.usecases.zones import Zones

Corners: TypeAlias = Sequence[tuple[float, float]]
Atom: TypeAlias = tuple[object, ...]
Zone: TypeAlias = tuple[str, str]
"""Its name in the procedure, and the anchor that stands in it."""
MAX_ATOMS = 12
"""A condition with more is taken for possible: it would be 2 to that power combinations."""
_PERSONAL = ("has", "lacks", "near", "within_m", "crosses", "direction", "faster_than_mps", "slower_than_mps", "code")


@dataclass(frozen=True, slots=True)
class Atoms:
    """How a procedure's conditions fall into atoms, and which pairs of zones exclude each other."""

    each_person: bool
    apart: frozenset[frozenset[Zone]] = field(default_factory=frozenset)


def names_of(
    procedure: Procedure,
    frame_zones: Mapping[str, Corners],
    floor_zones: Mapping[str, Corners],
    stand: Mapping[str, str],
) -> Atoms:
    """The atoms of a procedure on a camera with these zones; ``stand`` are the names that stand for the procedure's."""
    whole = [procedure.start, procedure.end, *(step.when for step in procedure.steps)]
    zones = {zone for condition in whole if condition is not None for zone in _zones(condition)}
    apart = set()
    for a, b in itertools.combinations(sorted(zones), 2):
        first, second = stand.get(a[0], a[0]), stand.get(b[0], b[0])
        for there in (frame_zones, floor_zones):
            if a[1] == b[1] and first in there and second in there and not overlap(there[first], there[second]):
                apart.add(frozenset((a, b)))
    return Atoms(procedure.scope == "person", frozenset(apart))


def ever(atoms: Atoms, condition: Condition, *, holds: bool = True, without: Condition | None = None) -> bool:
    """Whether there is a moment in which ``condition`` is so (``holds``) while ``without`` is not."""
    found = sorted({*_atoms(atoms, condition), *(_atoms(atoms, without) if without is not None else ())}, key=repr)
    if len(found) > MAX_ATOMS:
        return True
    for values in itertools.product((False, True), repeat=len(found)):
        world = dict(zip(found, values, strict=True))
        so = _possible(atoms, world) and _true(atoms, condition, world) == holds
        if so and (without is None or not _true(atoms, without, world)):
            return True
    return False


def overlap(a: Corners, b: Corners) -> bool:
    """Whether two polygons have a point in common: a corner of one in the other, or edges that cross."""
    first, second = np.array(a, np.float64), np.array(b, np.float64)
    if Zones({"a": a}).inside(second).any() or Zones({"b": b}).inside(first).any():
        return True
    return bool(_cross(first, second).any())


def _cross(a: F64, b: F64) -> np.ndarray:
    """(A,B) whether edges of two polygons cross; to touch is not enough."""

    def side(p: F64, q: F64, r: F64) -> F64:
        way = q - p
        found: F64 = way[:, None, 0] * (r[None, :, 1] - p[:, None, 1]) - way[:, None, 1] * (
            r[None, :, 0] - p[:, None, 0]
        )
        return found

    a2, b2 = np.roll(a, -1, axis=0), np.roll(b, -1, axis=0)
    crossed: np.ndarray = (side(a, a2, b) * side(a, a2, b2) < 0) & ((side(b, b2, a) * side(b, b2, a2)).T < 0)
    return crossed


# ---- conditions as formulas


def _zones(condition: Condition) -> Iterator[Zone]:
    if condition.zone is not None:
        yield condition.zone, condition.anchor
    for inner in [*(condition.all or []), *(condition.any or []), *(condition.none or [])]:
        yield from _zones(inner)


def _own(atoms: Atoms, condition: Condition) -> list[tuple[Atom, bool]]:
    """What the mapping itself says, without what it joins: atoms, and whether they must be so or not."""
    parts: list[tuple[Atom, bool]] = []
    personal = tuple((name, getattr(condition, name)) for name in ("zone", "anchor", *_PERSONAL))
    if condition.count is not None:
        parts.append((("count", condition.count, condition.at_least, condition.at_most, *personal), True))
    elif any(getattr(condition, name) is not None for name in ("zone", *_PERSONAL)):
        if not atoms.each_person:  # somebody, who need not be the same in another mapping
            parts.append((("somebody", *personal), True))
        else:
            parts += [(("zone", condition.zone, condition.anchor), True)] if condition.zone is not None else []
            parts += [(("has", condition.has), True)] if condition.has is not None else []
            parts += [(("has", condition.lacks), False)] if condition.lacks is not None else []
            rest = tuple(pair for pair in personal[4:] if pair[1] is not None)
            parts += [(rest, True)] if rest else []
    if condition.sensor is not None:
        parts.append((("sensor", condition.sensor, condition.equals, condition.above, condition.below), True))
    if condition.time is not None or condition.days is not None:
        parts.append((("time", condition.time, tuple(condition.days or ())), True))
    return parts


def _atoms(atoms: Atoms, condition: Condition) -> Iterator[Atom]:
    for atom, _ in _own(atoms, condition):
        yield atom
    for inner in [*(condition.all or []), *(condition.any or []), *(condition.none or [])]:
        yield from _atoms(atoms, inner)


def _true(atoms: Atoms, condition: Condition, world: Mapping[Atom, bool]) -> bool:
    return (
        all(world[atom] == wanted for atom, wanted in _own(atoms, condition))
        and all(_true(atoms, inner, world) for inner in condition.all or [])
        and (condition.any is None or any(_true(atoms, inner, world) for inner in condition.any))
        and not any(_true(atoms, inner, world) for inner in condition.none or [])
    )


def _possible(atoms: Atoms, world: Mapping[Atom, bool]) -> bool:
    inside = [(atom[1], atom[2]) for atom, so in world.items() if so and atom[0] == "zone"]
    return not any(frozenset(pair) in atoms.apart for pair in itertools.combinations(inside, 2))
