"""Conditions of the configuration, compiled: what a scene says about them, in Kleene's three values.

All parts of one mapping are about the same person (``scope: person``: that of the run; ``station``: whoever satisfies
all of them), with ``count`` about so many things of a label. ``all``, ``any`` and ``none`` join what they hold.

What cannot be seen is UNKNOWN: a person who is hidden, an object that was there a moment ago or is covered by a
person, a zone that people stand in front of (for objects in it), a sensor without a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from edge_agent.config_sop import Condition
from edge_agent.usecases.evidence import FALSE, GRACE_S, TOLERANCE_S, TRUE, UNKNOWN, Truth
from edge_agent.usecases.overlap import gaps_m, has, share_covered
from edge_agent.usecases.scene import AROUND_S, Place, Scene, Truths
from edge_agent.usecases.schedule import Schedule

Names: TypeAlias = Mapping[str, str]
Answer: TypeAlias = "Truths | np.int8"
"""For each thing of the scene as the person in question, or one for all."""
NEAR_M = 1.0
_HIDING_SHARE = 0.5
"""Where people cover so much of a zone, an object in it may be hidden."""
_GRID = 32


class Test:
    """One compiled condition. Not thread-safe, asked once for each frame, in frame order.

    ``names`` says which zone, line or sensor stands for a name (that of the procedure where it is not in there);
    ``somebody``: about whoever satisfies it (a station), else about each person.
    """

    def __init__(self, condition: Condition, place: Place, names: Names, *, somebody: bool) -> None:
        self._is, self._place, self._somebody = condition, place, somebody
        code = place.memory.code
        self._zone = names.get(condition.zone or "", condition.zone)
        self._line = names.get(condition.crosses or "", condition.crosses)
        self._sensor = names.get(condition.sensor or "", condition.sensor)
        self._things = {
            name: code(label) for name in ("has", "lacks", "near", "count") if (label := getattr(condition, name))
        }
        self._schedule = Schedule(condition.time, condition.days) if condition.time or condition.days else None
        self._about_things = any(
            getattr(condition, name) is not None
            for name in ("zone", "has", "lacks", "near", "crosses", "faster_than_mps", "slower_than_mps", "count")
        ) or (condition.code is not None and not somebody)
        joined = {name: getattr(condition, name) or [] for name in ("all", "any", "none")}
        self._joined = {
            name: [Test(inner, place, names, somebody=somebody) for inner in inners] for name, inners in joined.items()
        }
        self._held: dict[int, tuple[float, float]] = {}
        self._seen_on: dict[int, dict[int, float]] = {}
        if self._line is not None:
            place.watch(self._line, condition.anchor)
        self._grid = _grid(place, self._zone) if "count" in self._things else None

    def ask(self, scene: Scene, *, held: bool = True) -> Answer:
        """What the scene says. ``held`` False leaves ``for_s`` to whoever asks."""
        answers: list[Answer] = []
        if self._about_things:
            answers.append(self._of_things(scene))
        elif self._is.code is not None:  # at a station where nobody need be seen, only what they show
            answers.append(np.int8(TRUE if self._place.codes.now(self._is.code) else FALSE))
        if self._sensor is not None:
            answers.append(self._of_sensor(scene))
        if self._schedule is not None:
            answers.append(np.int8(TRUE if scene.utc in self._schedule else FALSE))
        answers += [test.ask(scene) for test in self._joined["all"]]
        answers += [np.int8(TRUE) - test.ask(scene) for test in self._joined["none"]]
        if some := [test.ask(scene) for test in self._joined["any"]]:
            answers.append(_join(np.maximum, some))
        answer = _join(np.minimum, answers)
        return self._for_so_long(answer, scene) if held and self._is.for_s else answer

    # ---- about people and objects

    def _of_things(self, scene: Scene) -> Answer:
        things, condition = scene.things, self._is
        of = scene.persons if "count" not in self._things else things.labels == self._things["count"]
        if self._zone is not None:
            found: Truths = scene.in_zone(self._zone, condition.anchor) * of
        else:
            found = np.where(things.left, FALSE, np.where(scene.hidden, UNKNOWN, TRUE)).astype(np.int8) * of
        if self._somebody or "count" in self._things:
            found = found * (things.unseen_s <= AROUND_S)
        if "count" not in self._things and not found.any():
            return np.int8(FALSE) if self._somebody else found
        for name in ("has", "lacks"):
            if name in self._things:
                worn = self._worn(scene, getattr(condition, name), self._things[name])
                np.minimum(found, worn if name == "has" else TRUE - worn, out=found)
        if "near" in self._things:
            np.minimum(found, self._near(scene), out=found)
        if self._line is not None:
            crossed = np.isin(
                things.ids, self._place.crossed(self._line, condition.anchor, condition.direction or "any")
            )
            np.minimum(found, np.where(crossed, TRUE, FALSE).astype(np.int8), out=found)
        if condition.code is not None:
            np.minimum(found, self._place.codes.by(condition.code, things.ids), out=found)
        if condition.faster_than_mps is not None or condition.slower_than_mps is not None:
            np.minimum(found, self._moving(scene), out=found)
        if "count" in self._things:
            return self._counted(found, scene)
        return found.max(initial=np.int8(FALSE)) if self._somebody else found

    def _worn(self, scene: Scene, name: str, label: int) -> Truths:
        """(N,) for persons: whether they have an object on them, or a classifier says so; unknown of whoever is hidden."""
        worn = np.full(len(scene.persons), UNKNOWN, np.int8)
        people = np.flatnonzero(scene.persons & ~scene.hidden)
        votes = self._place.votes
        if name in votes.judges:
            worn[people] = [votes.about(ident, name) for ident in scene.things.ids[people].tolist()]
            return worn
        objects = np.flatnonzero(scene.things.labels == label)
        worn[people] = has(scene.things.boxes[people], scene.things.boxes[objects], ~scene.hidden[objects])
        self._carried_on(worn, people.tolist(), label, scene)
        return worn

    def _carried_on(self, worn: Truths, people: Sequence[int], label: int, scene: Scene) -> None:
        """Who was just seen with it may have it still, wherever they went: a detector misses more than it invents."""
        seen, ids, t = self._seen_on.setdefault(label, {}), scene.things.ids, scene.t
        for newcomer, known in scene.things.renamed:
            if newcomer in seen:
                seen[known] = max(seen.pop(newcomer), seen.get(known, 0.0))
        for row in people:
            ident = int(ids[row])
            if worn[row] == TRUE:
                seen[ident] = t
            elif ident in seen:
                if t - seen[ident] > GRACE_S:
                    del seen[ident]
                else:
                    worn[row] = UNKNOWN
        if len(seen) > len(ids) + 8:
            there = set(ids.tolist())
            self._seen_on[label] = {ident: at for ident, at in seen.items() if ident in there}

    def _near(self, scene: Scene) -> Truths:
        """(N,) whether another thing of the label is near: people by metres on the floor, objects by the picture."""
        things, limit = scene.things, self._is.within_m or NEAR_M
        found = np.full(len(things.ids), FALSE, np.int8)
        others = np.flatnonzero((things.labels == self._things["near"]) & ~things.left)
        if not len(others):
            return found
        bodies = scene.heights[scene.persons]
        heights = np.where(scene.persons, scene.heights, bodies.mean() if len(bodies) else np.nan)
        apart = gaps_m(things.boxes, things.boxes[others], self._place.person_height_m / heights)
        on_floor = np.linalg.norm(things.xy[:, None] - things.xy[others], axis=2)
        both = scene.persons[:, None] & scene.persons[others] & ~np.isnan(on_floor)
        near = np.where(both, on_floor, apart) <= limit
        near[others, np.arange(len(others))] = False
        found[near.any(axis=1)] = UNKNOWN
        near[:, scene.hidden[others]] = False
        found[near.any(axis=1) & ~scene.hidden] = TRUE
        return found

    def _moving(self, scene: Scene) -> Truths:
        speed, condition = scene.things.speed_mps, self._is
        fits = np.ones(len(speed), bool)
        if condition.faster_than_mps is not None:
            fits &= speed > condition.faster_than_mps
        if condition.slower_than_mps is not None:
            fits &= speed < condition.slower_than_mps
        return np.where(np.isnan(speed) | scene.hidden, UNKNOWN, np.where(fits, TRUE, FALSE)).astype(np.int8)

    def _counted(self, found: Truths, scene: Scene) -> np.int8:
        sure, most = int(np.count_nonzero(found == TRUE)), int(np.count_nonzero(found))
        condition = self._is
        if self._grid is not None and self._things["count"] != 0:
            people = scene.things.boxes[scene.persons & ~scene.hidden] / np.tile(scene.size, 2)
            if share_covered(self._grid, people) >= _HIDING_SHARE:
                most += 1
        least = condition.at_least if condition.at_least is not None else int(condition.at_most is None)
        enough = TRUE if sure >= least else UNKNOWN if most >= least else FALSE
        if condition.at_most is None:
            return np.int8(enough)
        few = TRUE if most <= condition.at_most else UNKNOWN if sure <= condition.at_most else FALSE
        return np.int8(min(enough, few))

    # ---- about the rest

    def _of_sensor(self, scene: Scene) -> np.int8:
        value, condition = scene.sensors.get(self._sensor or ""), self._is
        if value is None:
            return np.int8(UNKNOWN)
        fits = condition.equals is None or value == condition.equals
        for limit, sign in ((condition.above, 1), (condition.below, -1)):
            if limit is not None:
                if isinstance(value, str):
                    return np.int8(UNKNOWN)
                fits &= (float(value) - limit) * sign > 0
        return np.int8(TRUE if fits else FALSE)

    def _for_so_long(self, answer: Answer, scene: Scene) -> Answer:
        """TRUE only where it has been so for ``for_s``, over gaps; for each thing, or once where it is one for all."""
        whole = np.ndim(answer) == 0
        keys = [0] if whole else scene.things.ids.tolist()
        values = [int(answer)] if whole else np.asarray(answer).tolist()
        told = [self._hold(key, value, scene.t) for key, value in zip(keys, values, strict=True)]
        if len(self._held) > 2 * len(keys) + 8:
            self._held = {key: self._held[key] for key in keys if key in self._held}
        return np.int8(told[0]) if whole else np.array(told, np.int8)

    def _hold(self, key: int, value: Truth, t: float) -> Truth:
        since, last = self._held.get(key, (t, t))
        if value == TRUE:
            since = since if t - last <= GRACE_S else t
            self._held[key] = since, t
            return TRUE if t - since >= (self._is.for_s or 0.0) - TOLERANCE_S else FALSE
        if value == FALSE and t - last > GRACE_S:
            self._held.pop(key, None)
        return value


def _join(how: np.ufunc, answers: list[Answer]) -> Answer:
    joined = answers[0]
    for answer in answers[1:]:
        joined = how(joined, answer)
    return joined


def _grid(place: Place, zone: str | None) -> np.ndarray | None:
    """(M,2) points spread over a zone of the frame, in fractions; None for another zone."""
    if zone is None or zone not in place.frame_zones.names:
        return None
    spread = (np.arange(_GRID) + 0.5) / _GRID
    points = np.stack(np.meshgrid(spread, spread), axis=-1).reshape(-1, 2)
    inside = points[place.frame_zones.inside(points)[place.frame_zones.names.index(zone)]]
    return inside if len(inside) else None
