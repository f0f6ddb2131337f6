from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edge_agent.errors import ConfigError
from edge_agent.usecases.zones import Zones, anchors, foot_fractions

Point = tuple[float, float]


def winding(polygon: list[Point], point: Point) -> float:
    """Turns of the polygon around the point, by angles: another way to decide than the product's."""
    at = complex(*point)
    corners = [complex(*corner) - at for corner in polygon]
    turns = [np.angle(b / a) for a, b in zip(corners, [*corners[1:], corners[0]], strict=True)]
    return abs(sum(turns)) / (2 * np.pi)


def away_from_edges(polygon: list[Point], point: Point) -> bool:
    p = complex(*point)
    for a, b in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        start, way = complex(*a), complex(*b) - complex(*a)
        share = min(max(((p - start) * way.conjugate()).real / max(abs(way) ** 2, 1e-12), 0), 1)
        if abs(p - start - share * way) < 5e-3:
            return False
    return True


@st.composite
def stars(draw: st.DrawFn) -> list[Point]:
    """A simple polygon: corners at growing angles about a centre."""
    n = draw(st.integers(3, 9))
    radii = draw(st.lists(st.floats(0.1, 0.45), min_size=n, max_size=n))
    turn = draw(st.floats(0, 6.28))
    angles = turn + 2 * np.pi * np.arange(n) / n
    return [(0.5 + r * float(np.cos(a)), 0.5 + r * float(np.sin(a))) for r, a in zip(radii, angles, strict=True)]


points = st.tuples(st.floats(-0.3, 1.3), st.floats(-0.3, 1.3))


@given(polygons=st.lists(stars(), min_size=1, max_size=4), places=st.lists(points, min_size=1, max_size=20))
def test_agrees_with_the_winding_number(polygons: list[list[Point]], places: list[Point]) -> None:
    zones = Zones({f"z{i}": polygon for i, polygon in enumerate(polygons)})
    inside = zones.inside(np.array(places))
    for polygon, row in zip(polygons, inside, strict=True):
        for place, found in zip(places, row, strict=True):
            if away_from_edges(polygon, place):
                assert found == (winding(polygon, place) > 0.5)


@given(polygon=stars(), place=points)
def test_direction_and_first_corner_do_not_matter(polygon: list[Point], place: Point) -> None:
    assume(away_from_edges(polygon, place))
    variants = {"a": polygon, "b": polygon[::-1], "c": polygon[2:] + polygon[:2]}
    assert len(set(Zones(variants).inside(np.array([place]))[:, 0].tolist())) == 1


def test_neighbours_share_their_border_without_overlap_or_gap() -> None:
    zones = Zones(
        {"l": [(0.1, 0.1), (0.5, 0.1), (0.5, 0.9), (0.1, 0.9)], "r": [(0.5, 0.1), (0.9, 0.1), (0.9, 0.9), (0.5, 0.9)]}
    )
    line = np.column_stack([np.full(50, 0.5), np.linspace(0.15, 0.85, 50)])
    assert (zones.inside(line).sum(axis=0) == 1).all()


def test_feet_outside_are_outside_and_feet_on_the_frames_border_are_in_a_zone_that_reaches_it() -> None:
    zones = Zones({"lower": [(0, 0.5), (1, 0.5), (1, 1), (0, 1)]})
    boxes = np.array(
        [
            [10, 60, 30, 100],  # ends on the frame's lower border
            [10, 10, 30, 49],  # reaches over nothing
            [10, 40, 30, 140],  # feet far below the frame, the box covers the zone
            [-30, 60, -10, 80],
        ],
        np.float32,
    )
    assert zones.inside(foot_fractions(boxes, (100, 100))).tolist() == [[True, False, False, False]]


@given(polygon=stars(), place=points)
def test_the_distance_is_that_to_the_nearest_edge_and_none_inside(polygon: list[Point], place: Point) -> None:
    scale = np.array([[2.0, 3.0]])
    found = Zones({"z": polygon}).distances(np.array([place]), scale)[0, 0]
    shares = np.linspace(0, 1, 400)[:, None]
    corners = np.array(polygon) * scale
    edges = [a + shares * (b - a) for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True)]
    near = min(float(np.hypot(*(edge - np.array(place) * scale).T).min()) for edge in edges)
    if not away_from_edges(polygon, place):
        assert found <= near + 1e-9
    else:
        assert found == (0.0 if winding(polygon, place) > 0.5 else pytest.approx(near, abs=0.01))


def test_metres_have_no_border_and_what_is_nowhere_is_in_no_zone() -> None:
    floor = Zones({"yard": [(0, 0), (4, 0), (4, 4), (0, 4)]}, framed=False)
    assert floor.inside(np.array([[-5e-4, 2.0], [5e-4, 2.0], [np.nan, np.nan]]))[0].tolist() == [False, True, False]


def test_feet_centre_and_head() -> None:
    boxes = np.array([[10, 20, 30, 60]], np.float32)
    for anchor, place in (("feet", (0.2, 0.6)), ("centre", (0.2, 0.4)), ("head", (0.2, 0.2))):
        assert anchors(boxes, (100, 100), anchor)[0].tolist() == pytest.approx(place)  # type: ignore[arg-type]


def test_no_zones_and_no_people() -> None:
    assert Zones({}).inside(np.zeros((3, 2))).shape == (0, 3)
    assert Zones({"a": [(0, 0), (1, 0), (1, 1)]}).inside(np.empty((0, 2))).shape == (1, 0)


@pytest.mark.parametrize(
    ("polygon", "words"),
    [
        ([(0, 0), (1, 1), (1, 0), (0, 1)], "cameras.c.zones.z: edges 1 and 3 cross"),
        ([(0.1, 0.1), (0.5, 0.5), (0.9, 0.9)], "no area"),
        ([(0.1, 0.1), (0.5, 0.5)], "2 corners"),
    ],
)
def test_wrong_polygons_are_refused(polygon: list[Point], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Zones({"fine": [(0, 0), (1, 0), (1, 1)], "z": polygon}, "cameras.c.zones")
