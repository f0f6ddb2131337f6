"""One moment of a camera as conditions look at it: who and what is there, in which zones, and over which lines.

Zones and lines may be given in fractions of the frame or in metres of the floor; a name stands for either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_agent.config import CameraConfig
from edge_agent.config_sop import Anchor, Direction
from edge_agent.types import F64, Bools, Observation
from edge_agent.usecases.evidence import FALSE, TRUE, UNKNOWN
from edge_agent.usecases.lines import CLEAR, CLEAR_M, Line, goes
from edge_agent.usecases.things import Memory, Things
from edge_agent.usecases.zones import Zones, anchors

Truths: TypeAlias = NDArray[np.int8]
"""(N,) ``Truth`` for each thing."""
SensorValue: TypeAlias = float | str | bool
CROSSED_S = 2.0
"""For how long somebody has *just* crossed a line."""
_WALK_MPS, _SLACK_M = 1.5, 0.3
"""Whoever is unseen may have come so far."""


class Place:
    """The zones and lines of one camera, and what is remembered of its things. Not thread-safe, fed in frame order.

    Raises ConfigError for a zone that is no polygon.
    """

    def __init__(self, camera: CameraConfig, person: str = "person") -> None:
        ground = camera.ground
        self.frame_zones = Zones(camera.zones, f"cameras.{camera.id}.zones")
        self.floor_zones = Zones(ground.zones if ground else {}, f"cameras.{camera.id}.ground.zones", framed=False)
        self.person_height_m = camera.person_height_m
        self.memory = Memory(person)
        self._frame_lines, self._floor_lines = camera.lines, ground.lines if ground else {}
        self._lines: dict[tuple[str, Anchor], Line] = {}
        self._crossed: dict[tuple[str, Anchor], dict[int, tuple[int, float]]] = {}

    def watch(self, line: str, anchor: Anchor) -> None:
        """Follow who crosses this line. KeyError where the camera has none of that name."""
        floor = [(x, -y) for x, y in self._floor_lines.get(line, [])]  # as on a plan, where y goes up
        self._lines.setdefault((line, anchor), Line(floor or self._frame_lines[line]))
        self._crossed.setdefault((line, anchor), {})

    def look(self, seen: Observation, sensors: Mapping[str, SensorValue]) -> Scene:
        """The scene of the next frame."""
        scene = Scene(self, self.memory.update(seen), seen, sensors)
        for (name, anchor), line in self._lines.items():
            crossed = self._crossed[name, anchor]
            self._crossed[name, anchor] = crossed = {i: c for i, c in crossed.items() if seen.t - c[1] <= CROSSED_S}
            crossed.update({ident: (sign, seen.t) for ident, sign in self._cross(line, name, anchor, scene)})
        return scene

    def crossed(self, line: str, anchor: Anchor, direction: Direction) -> list[int]:
        """Ids of the things that have just crossed a line that is watched."""
        return [ident for ident, (sign, _) in self._crossed[line, anchor].items() if goes(direction, sign)]

    def _cross(self, line: Line, name: str, anchor: Anchor, scene: Scene) -> list[tuple[int, int]]:
        things = scene.things
        here = things.unseen_s == 0
        if name in self._floor_lines:
            here &= ~np.isnan(things.xy[:, 0])
            at, clear = things.xy * (1, -1), np.full(len(here), CLEAR_M)
        else:
            at, clear = scene.points(anchor), CLEAR * scene.heights / scene.size[1]
        line.keep(things.ids.tolist())
        points = [(x, y) for x, y in at[here].tolist()]
        return line.update(zip(things.ids[here].tolist(), points, clear[here].tolist(), strict=True))


class Scene:
    """What is asked of a moment is worked out once. ``utc`` is POSIX seconds, ``size`` (width, height) of the frame."""

    def __init__(self, place: Place, things: Things, seen: Observation, sensors: Mapping[str, SensorValue]) -> None:
        self.place, self.things, self.sensors = place, things, sensors
        self.t, self.utc, self.size = seen.t, seen.utc, seen.size
        self.heights: F64 = np.maximum(things.boxes[:, 3] - things.boxes[:, 1], 1.0)
        self.hidden: Bools = things.unseen_s > 0
        self.persons: Bools = things.labels == 0
        self._points: dict[Anchor, F64] = {}
        self._inside: dict[Anchor, Bools] = {}
        self._floor: Bools | None = None

    def points(self, anchor: Anchor) -> F64:
        """(N,2) anchor points in fractions of the frame."""
        if anchor not in self._points:
            self._points[anchor] = anchors(self.things.boxes, self.size, anchor)
        return self._points[anchor]

    def in_zone(self, zone: str, anchor: Anchor) -> Truths:
        """Who is in a zone. Somebody hidden may be, where the way there is not too far; an object stays where it was."""
        place, things = self.place, self.things
        if zone in place.floor_zones.names:
            if self._floor is None:
                self._floor = place.floor_zones.inside(things.xy)
            inside = self._floor[place.floor_zones.names.index(zone)]
        else:
            if anchor not in self._inside:
                self._inside[anchor] = place.frame_zones.inside(self.points(anchor))
            inside = self._inside[anchor][place.frame_zones.names.index(zone)]
        found = np.where(inside, TRUE, FALSE).astype(np.int8)
        if self.hidden.any():
            rows = np.flatnonzero(self.hidden)
            reach = np.where(self.persons[rows], _SLACK_M + _WALK_MPS * things.unseen_s[rows], 0.0)
            near = self._distances(zone, anchor, rows) <= reach
            found[rows] = np.where(near & ~things.left[rows], UNKNOWN, FALSE)
        return found

    def _distances(self, zone: str, anchor: Anchor, rows: NDArray[np.intp]) -> F64:
        """Metres from a zone; in the frame by body heights, which is only roughly right across the picture."""
        place = self.place
        if zone in place.floor_zones.names:
            zones, points, scale = place.floor_zones, self.things.xy[rows], np.ones((len(rows), 2))
        else:
            zones, points = place.frame_zones, self.points(anchor)[rows]
            scale = place.person_height_m / self.heights[rows, None] * np.array(self.size)
        far: F64 = zones.distances(points, scale)[zones.names.index(zone)]
        return np.nan_to_num(far)
