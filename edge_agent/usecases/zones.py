"""Named polygons in fractions of the frame or in metres of the floor, and who stands in them.

The anchor of a person is the foot point, the bottom centre of the box, unless another is chosen; and it counts exactly
where it is: nothing is clipped to the zone or the frame first, so feet outside are outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edge_agent.config_sop import Anchor
from edge_agent.errors import ConfigError
from edge_agent.types import F32, F64, Bools

_BORDER = 1e-3
"""A corner on the frame's border is meant to reach it: boxes that end there end on the border itself, to a fraction of a pixel."""


class Zones:
    """The zones of one camera; immutable. Raises ConfigError for polygons that cross themselves or have no area.

    ``framed``: in fractions of the frame, whose border belongs to a zone that reaches it; else in metres.
    """

    def __init__(
        self, zones: Mapping[str, Sequence[tuple[float, float]]], where: str = "zones", *, framed: bool = True
    ) -> None:
        self.names = tuple(zones)
        problems = []
        begins, ends, starts = [np.empty((0, 2))], [np.empty((0, 2))], [0]
        for name, corners in zones.items():
            polygon = np.array(corners, np.float64).reshape(-1, 2)
            if fault := _fault(polygon):
                problems.append(f"{where}.{name}: {fault}")
            if framed:
                polygon = np.where(polygon <= 0, polygon - _BORDER, np.where(polygon >= 1, polygon + _BORDER, polygon))
            begins.append(polygon)
            ends.append(np.roll(polygon, -1, axis=0))
            starts.append(starts[-1] + len(polygon))
        if problems:
            raise ConfigError(problems)
        # Columns (E,1), for E edges.
        self._x1, self._y1, self._x2, self._y2 = np.split(np.hstack([np.vstack(begins), np.vstack(ends)]), 4, axis=1)
        level = self._y1 == self._y2  # never crossed, whatever its slope is called
        self._slope = (self._x2 - self._x1) / np.where(level, 1.0, self._y2 - self._y1)
        self._starts = np.array(starts[:-1], np.intp)

    def inside(self, points: F64) -> Bools:
        """(Z,N): whether each of (N,2) points lies in each zone, in the order of ``names``; one that is NaN does not.

        Even-odd rule; the left and upper edges belong to a zone, the right and lower ones do not (W. R. Franklin, PNPOLY).
        """
        if not self.names or not len(points):
            return np.zeros((len(self.names), len(points)), bool)
        x, y = points[:, 0], points[:, 1]
        spans = (self._y1 <= y) != (self._y2 <= y)
        crosses = spans & (x < self._x1 + self._slope * (y - self._y1))
        inside: Bools = np.add.reduceat(crosses, self._starts, axis=0, dtype=np.int64) % 2 == 1
        return inside

    def distances(self, points: F64, scale: F64) -> F64:
        """(Z,N): how far each of (N,2) points is from each zone, 0 inside; ``scale`` (N,2) turns both axes into the unit."""
        if not self.names or not len(points):
            return np.zeros((len(self.names), len(points)))
        x, y = points[:, 0] * scale[:, 0], points[:, 1] * scale[:, 1]
        x1, y1 = self._x1 * scale[:, 0], self._y1 * scale[:, 1]
        along_x, along_y = self._x2 * scale[:, 0] - x1, self._y2 * scale[:, 1] - y1
        length = along_x**2 + along_y**2
        share = ((x - x1) * along_x + (y - y1) * along_y) / np.where(length > 0, length, 1)
        share = np.clip(share, 0, 1)
        apart = np.hypot(x - x1 - share * along_x, y - y1 - share * along_y)
        nearest: F64 = np.minimum.reduceat(apart, self._starts, axis=0)
        return np.where(self.inside(points), 0.0, nearest)


def anchors(boxes: F32 | F64, size: tuple[int, int], anchor: Anchor) -> F64:
    """(N,2) feet (lower centre), centres or heads (upper centre) of (N,4) boxes as fractions of a frame of ``size``."""
    points = foot_fractions(boxes, size)
    if anchor != "feet":
        points[:, 1] = (boxes[:, 1] if anchor == "head" else (boxes[:, 1] + boxes[:, 3]) / 2) / size[1]
    return points


def foot_fractions(boxes: F32 | F64, size: tuple[int, int]) -> F64:
    """(N,2) foot points of (N,4) boxes as fractions of a frame of ``size`` (width, height)."""
    foot = np.empty((len(boxes), 2))
    foot[:, 0] = (boxes[:, 0] + boxes[:, 2]) / (2 * size[0])
    foot[:, 1] = boxes[:, 3] / size[1]
    return foot


def _fault(polygon: F64) -> str | None:
    n = len(polygon)
    if n < 3:
        return f"has {n} corners, at least 3 are needed"
    a, b = polygon, np.roll(polygon, -1, axis=0)
    d = b - a
    # side[i, j]: on which side of edge i the corner j is
    side = d[:, None, 0] * (a[None, :, 1] - a[:, None, 1]) - d[:, None, 1] * (a[None, :, 0] - a[:, None, 0])
    parts = side * np.roll(side, -1, axis=1) < 0
    crossing = np.argwhere(np.triu(parts & parts.T, 1))
    if len(crossing):
        i, j = crossing[0]
        return f"edges {i + 1} and {j + 1} cross; list the corners in order around the zone"
    if abs(np.sum(a[:, 0] * b[:, 1] - b[:, 0] * a[:, 1])) < 1e-9:
        return "has no area"
    return None
