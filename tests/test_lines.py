"""Crossing a line: direction, dithering, ends, gaps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.usecases.lines import Line, goes

Point = tuple[float, float]
DOWN = [(0.5, 0.0), (0.5, 1.0)]
"""From top to bottom: who comes from the right of the picture is on its left."""


def walk(line: Line, *way: Point, clear: float = 0.05, ident: int = 1) -> list[int]:
    return [sign for point in way for _, sign in line.update([(ident, point, clear)])]


def test_forward_is_from_left_to_right_as_seen_along_the_line() -> None:
    # Looking down the picture, the left hand is at its right side.
    assert walk(Line(DOWN), (0.8, 0.5), (0.2, 0.5)) == [1]
    assert walk(Line(DOWN), (0.2, 0.5), (0.8, 0.5)) == [-1]
    assert walk(Line(DOWN[::-1]), (0.2, 0.5), (0.8, 0.5)) == [1]


@pytest.mark.parametrize(
    ("direction", "sign", "so"),
    [("any", 1, True), ("any", -1, True), ("forward", 1, True), ("forward", -1, False), ("backward", -1, True), ("any", 0, False)],
)  # fmt: skip
def test_directions(direction: str, sign: int, so: bool) -> None:
    assert goes(direction, sign) is so  # type: ignore[arg-type]


def test_counted_once_clear_of_the_line_and_not_before() -> None:
    assert walk(Line(DOWN), (0.4, 0.5), (0.52, 0.5), (0.53, 0.5)) == []
    assert walk(Line(DOWN), (0.4, 0.5), (0.52, 0.5), (0.53, 0.5), (0.6, 0.5)) == [-1]


def test_past_the_end_is_not_across() -> None:
    assert walk(Line(DOWN), (0.4, 1.2), (0.6, 1.2)) == []
    assert walk(Line(DOWN), (0.4, 0.5), (0.4, 1.2), (0.6, 1.2), (0.6, 0.5)) == []


def test_over_and_round_the_end_and_back_over_counts_twice_the_same_way() -> None:
    assert walk(Line(DOWN), (0.4, 0.5), (0.6, 0.5), (0.6, 1.2), (0.4, 1.2), (0.4, 0.5), (0.6, 0.5)) == [-1, -1]


@given(
    noise=st.lists(st.floats(-0.04, 0.04), min_size=1, max_size=200),
    ends=st.tuples(st.sampled_from([0.3, 0.7]), st.sampled_from([0.3, 0.7])),
)
def test_dithering_counts_once_or_not_at_all(noise: list[float], ends: tuple[float, float]) -> None:
    way = [(ends[0], 0.5), *((0.5 + step, 0.5) for step in noise), (ends[1], 0.5)]
    crossed = walk(Line(DOWN), *way)
    assert crossed == ([] if ends[0] == ends[1] else [-1 if ends[0] < ends[1] else 1])


@given(seed=st.integers(0, 10_000), fps=st.sampled_from([2, 5, 60]))
def test_any_way_comes_to_the_side_it_ends_on_at_any_rate(seed: int, fps: int) -> None:
    """Crossings forward less those backward are the difference of the sides, whatever happens between."""
    rng = np.random.default_rng(seed)
    turns = rng.uniform(0.0, 1.0, 6)
    x = np.interp(np.arange(6 * fps) / fps, np.arange(6), turns)
    x = x[np.abs(x - 0.5) > 1e-9]
    line = Line([(0.5, -1.0), (0.5, 0.4), (0.5, 2.0)])
    total = sum(walk(line, *((float(at), 0.4) for at in x), (1.5 if turns[-1] > 0.5 else -0.5, 0.4)))
    assert total == int(turns[0] > 0.5) - int(turns[-1] > 0.5)


def test_people_do_not_mix_and_who_is_forgotten_begins_anew() -> None:
    line = Line(DOWN)
    assert line.update([(1, (0.2, 0.5), 0.05), (2, (0.8, 0.5), 0.05)]) == []
    assert line.update([(2, (0.2, 0.5), 0.05), (1, (0.8, 0.5), 0.05)]) == [(2, 1), (1, -1)]
    line.keep([2])
    assert line.update([(1, (0.2, 0.5), 0.05), (2, (0.8, 0.5), 0.05)]) == [(2, -1)]


def test_unseen_while_crossing_is_seen_afterwards() -> None:
    line = Line(DOWN)
    line.update([(1, (0.2, 0.5), 0.05)])
    for _ in range(10):
        assert line.update([]) == []
    assert line.update([(1, (0.8, 0.5), 0.05)]) == [(1, -1)]
