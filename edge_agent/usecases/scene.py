"""One moment of a camera as conditions look at it: who and what is there, in which zones, and over which lines.

Zones and lines may be given in fractions of the frame or in metres of the floor; a name stands for either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_agent.config import CameraConfig
from edge_agent.config_classifiers import ClassifierConfig
from edge_agent.config_sop import Anchor, Direction
from edge_agent.types import F64, Bools, Observation
from edge_agent.types import SensorValue as Reading
from edge_agent.usecases.codes_shown import CodesShown
from edge_agent.usecases.evidence import BLIND_S, FALSE, GRACE_S, TRUE, UNKNOWN
from edge_agent.usecases.lines import CLEAR, CLEAR_M, Line, goes
from edge_agent.usecases.things import Memory, Things
from edge_agent.usecases.votes import Votes
from edge_agent.usecases.zones import Zones, anchors

Truths: TypeAlias = NDArray[np.int8]
"""(N,) ``Truth`` for each thing."""
SensorValue: TypeAlias = float | str | bool
CROSSED_S = 2.0
"""For how long somebody has *just* crossed a line."""
AROUND_S = 15.0
"""Somebody hidden for longer may well have gone by a way that nobody sees, so that they stand in nobody's place."""
_WALK_MPS, _SLACK_M = 1.5, 0.3
"""Whoever is unseen may have come so far."""


class Place:
    """The zones and lines of one camera, and what is remembered of its things. Not thread-safe, fed in frame order.

    Raises ConfigError for a zone that is no polygon.
    """

    def __init__(
        self, camera: CameraConfig, person: str = "person", judges: Mapping[str, ClassifierConfig] | None = None
    ) -> None:
        ground = camera.ground
        self.frame_zones = Zones(camera.zones, f"cameras.{camera.id}.zones")
        self.floor_zones = Zones(ground.zones if ground else {}, f"cameras.{camera.id}.ground.zones", framed=False)
        self.person_height_m = camera.person_height_m
        self.memory = Memory(person)
        self.votes = Votes(judges or {})
        self._frame_lines, self._floor_lines = camera.lines, ground.lines if ground else {}
        self._lines: dict[tuple[str, Anchor], Line] = {}
        self._crossed: dict[tuple[str, Anchor], dict[int, tuple[int, float]]] = {}
        self.codes = CodesShown()
        self._now: dict[tuple[str, Anchor], list[tuple[int, int]]] = {}
        self._looked: tuple[Observation, Scene] | None = None

    def watch(self, line: str, anchor: Anchor) -> None:
        """Follow who crosses this line. KeyError where the camera has none of that name."""
        floor = [(x, -y) for x, y in self._floor_lines.get(line, [])]  # as on a plan, where y goes up
        self._lines.setdefault((line, anchor), Line(floor or self._frame_lines[line]))
        self._crossed.setdefault((line, anchor), {})

    def look(self, seen: Observation) -> Scene:
        """The scene of the next frame; whoever asks again for the same frame gets the same."""
        if self._looked is not None and self._looked[0] is seen:
            return self._looked[1]
        scene = Scene(self, self.memory.update(seen), seen, _good(seen.sensors))
        if self.votes.judges:
            self._vote(scene, seen)
        self.codes.rename(scene.things.renamed)
        here = scene.persons & ~scene.hidden
        self.codes.update(seen.codes, scene.things.ids[here], scene.things.boxes[here], seen.t)
        for (name, anchor), line in self._lines.items():
            crossed = self._crossed[name, anchor]
            self._crossed[name, anchor] = crossed = {i: c for i, c in crossed.items() if seen.t - c[1] <= CROSSED_S}
            self._now[name, anchor] = now = self._cross(line, name, anchor, scene)
            crossed.update({ident: (sign, seen.t) for ident, sign in now})
        self._looked = seen, scene
        return scene

    def crossed(self, line: str, anchor: Anchor, direction: Direction) -> list[int]:
        """Ids of the things that have just crossed a line that is watched."""
        return [ident for ident, (sign, _) in self._crossed[line, anchor].items() if goes(direction, sign)]

    def crossings(self, line: str, anchor: Anchor) -> list[tuple[int, int]]:
        """Who crossed a line that is watched in this very frame: id; above zero for forward, below for backward."""
        return self._now.get((line, anchor), [])

    def _vote(self, scene: Scene, seen: Observation) -> None:
        things = scene.things
        self.votes.rename(things.renamed)
        self.votes.update(seen.attributes, things.ids[~scene.hidden], things.boxes[~scene.hidden], seen.t)
        self.votes.keep(things.ids.tolist())

    def _cross(self, line: Line, name: str, anchor: Anchor, scene: Scene) -> list[tuple[int, int]]:
        things = scene.things
        here = things.unseen_s == 0
        if name in self._floor_lines:
            here &= ~np.isnan(things.xy[:, 0])
            at, clear = things.xy * (1, -1), np.full(len(here), CLEAR_M)
        else:
            at, clear = scene.points(anchor), CLEAR * scene.heights / scene.size[1]
        # Who was out of sight for longer may have come another way, or be somebody else.
        line.keep(things.ids[things.unseen_s <= BLIND_S].tolist())
        points = [(x, y) for x, y in at[here].tolist()]
        crossed = line.update(zip(things.ids[here].tolist(), points, clear[here].tolist(), strict=True))
        gone = (things.left | (things.unseen_s >= GRACE_S)) & ~things.new
        return crossed + line.settle(things.ids[gone].tolist())


def _good(sensors: Mapping[str, Reading | SensorValue]) -> Mapping[str, SensorValue]:
    """The values that can be relied on."""
    good: dict[str, SensorValue] = {}
    for name, reading in sensors.items():
        if not isinstance(reading, Reading):
            good[name] = reading
        elif reading.value is not None and reading.quality == "good":
            good[name] = reading.value
    return good


class Places:
    """The places of one camera, by the label of persons; use cases share them, so that each frame is looked at once.

    ``judges``: by attribute that a classifier knows, how its scores are taken.
    """

    def __init__(self, camera: CameraConfig, judges: Mapping[str, ClassifierConfig] | None = None) -> None:
        self._camera, self._judges = camera, judges
        self._of: dict[str, Place] = {}

    def of(self, label: str) -> Place:
        """The place in which things of this label are the persons. Raises ConfigError as ``Place``."""
        if label not in self._of:
            self._of[label] = Place(self._camera, label, self._judges)
        return self._of[label]


class Scene:
    """What is asked of a moment is worked out once. ``utc`` is POSIX seconds, ``size`` (width, height) of the frame."""

    def __init__(self, place: Place, things: Things, seen: Observation, sensors: Mapping[str, SensorValue]) -> None:
        self.place, self.things, self.sensors = place, things, sensors
        self.t, self.utc, self.size = seen.t, seen.utc, seen.size
        self.heights: F64 = np.maximum(things.boxes[:, 3] - things.boxes[:, 1], 1.0)
        self.hidden: Bools = things.unseen_s > 0
        self.persons: Bools = things.labels == 0
        self._points: dict[Anchor, F64] = {}
        self._zones: dict[Anchor | None, Truths] = {}

    @property
    def now(self) -> tuple[float, float]:
        """Seconds on the camera's clock, and UTC."""
        return self.t, self.utc

    def points(self, anchor: Anchor) -> F64:
        """(N,2) anchor points in fractions of the frame."""
        if anchor not in self._points:
            self._points[anchor] = anchors(self.things.boxes, self.size, anchor)
        return self._points[anchor]

    def in_zone(self, zone: str, anchor: Anchor) -> Truths:
        """Who is in a zone. Somebody hidden may be, where the way there is not too far; an object stays where it was."""
        place = self.place
        floor = zone in place.floor_zones.names
        key, zones = (None, place.floor_zones) if floor else (anchor, place.frame_zones)
        if key not in self._zones:
            points = self.things.xy if floor else self.points(anchor)
            self._zones[key] = self._judge(zones, points, None if floor else np.array(self.size))
        row: Truths = self._zones[key][zones.names.index(zone)]
        return row

    def _judge(self, zones: Zones, points: F64, size: NDArray[np.int64] | None) -> Truths:
        """(Z,N). ``size`` None: points are metres; else fractions, whose metres go by the height of the person's box."""
        found: Truths = zones.inside(points).astype(np.int8) * np.int8(TRUE)
        if self.hidden.any():
            things = self.things
            found[:, self.hidden] //= TRUE  # UNKNOWN in it, FALSE outside
            rows = (self.persons & (things.unseen_s > GRACE_S)).nonzero()[0]
            if len(rows):
                scale = np.ones((len(rows), 2))
                scale = scale if size is None else self.place.person_height_m / self.heights[rows, None] * size
                reach = _SLACK_M + _WALK_MPS * things.unseen_s[rows]
                near = np.nan_to_num(zones.distances(points[rows], scale)) <= reach
                found[:, rows] = np.where(near, np.int8(UNKNOWN), np.int8(FALSE))
            found[:, things.left] = FALSE
        return found
