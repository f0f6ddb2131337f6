"""Lines that people cross, with direction; whoever dithers on one is counted once or not at all.

The way of a person is followed from point to point, and how often it crossed the line is summed up with its sign:
forward +1, backward -1. The sum counts once the person is clear of the line, so to and fro adds up to nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from edge_agent.config_sop import Direction

Point = tuple[float, float]
CLEAR, CLEAR_M = 0.15, 0.25
"""Clear of a line is who is farther from it than this part of the own height, on the floor than so many metres."""


@dataclass(slots=True)
class _Way:
    at: Point
    crossed: int = 0


class Line:
    """One line of two or more points (any unit of length, y down), and who is crossing it. Not thread-safe.

    Forward is from the left of the line to its right, as seen when looking from its first point to its last.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        self._pieces = [(*a, *b) for a, b in itertools.pairwise(points)]
        self._ways: dict[int, _Way] = {}

    def update(self, people: Iterable[tuple[int, Point, float]]) -> list[tuple[int, int]]:
        """Go on with (id, point, distance at which it is clear) of whoever is seen; who crossed now: (id, +1 or -1 ...)."""
        crossed = []
        for ident, at, clear in people:
            way = self._ways.get(ident)
            if way is None:
                self._ways[ident] = _Way(at)
                continue
            if at != way.at:
                for piece in self._pieces:
                    way.crossed += _crosses(piece, way.at, at)
                way.at = at
            if way.crossed and min(_distance(piece, at) for piece in self._pieces) > clear:
                crossed.append((ident, way.crossed))
                way.crossed = 0
        return crossed

    def settle(self, gone: Collection[int]) -> list[tuple[int, int]]:
        """Who of those that are not seen any more had crossed, though not got clear of it: a door hides who went through."""
        settled = []
        for ident in gone:
            way = self._ways.get(ident)
            if way is not None and way.crossed:
                settled.append((ident, way.crossed))
                way.crossed = 0
        return settled

    def keep(self, idents: Iterable[int]) -> None:
        """Forget everybody but these."""
        self._ways = {ident: self._ways[ident] for ident in idents if ident in self._ways}


def goes(direction: Direction, sign: int) -> bool:
    """Whether a crossing with this sign is in that direction."""
    return sign != 0 and (direction == "any" or (sign > 0) == (direction == "forward"))


def _crosses(piece: tuple[float, float, float, float], p: Point, q: Point) -> int:
    """+1 or -1 where the step from p to q crosses the piece. A point on the line is on its right: nothing counts twice."""
    x1, y1, x2, y2 = piece
    before, after = _side(x1, y1, x2, y2, p) >= 0, _side(x1, y1, x2, y2, q) >= 0
    if before == after or (_side(*p, *q, (x1, y1)) >= 0) == (_side(*p, *q, (x2, y2)) >= 0):
        return 0
    return 1 if after else -1


def _side(x1: float, y1: float, x2: float, y2: float, p: Point) -> float:
    """Greater than zero to the right of the way from the first point to the second (y down)."""
    return (x2 - x1) * (p[1] - y1) - (y2 - y1) * (p[0] - x1)


def _distance(piece: tuple[float, float, float, float], p: Point) -> float:
    x1, y1, x2, y2 = piece
    dx, dy = x2 - x1, y2 - y1
    length = dx * dx + dy * dy
    share = min(max(((p[0] - x1) * dx + (p[1] - y1) * dy) / length, 0.0), 1.0) if length else 0.0
    ax, ay = p[0] - x1 - share * dx, p[1] - y1 - share * dy
    return float((ax * ax + ay * ay) ** 0.5)
