"""Who is who over a tracker's gaps and slips, and who is hidden or gone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.usecases.things import HIDDEN_S, LEFT_S, Memory, Things
from tests.scene_fixtures import NOWHERE, Person, Thing, observe

Scene = Callable[[float], list[Person]]


def play(scene: Scene, seconds: float, fps: float = 10, memory: Memory | None = None) -> tuple[Memory, Things]:
    """The last frame of a scene."""
    memory = memory or Memory()
    things = None
    for k in range(round(seconds * fps)):
        things = memory.update(observe(k / fps, scene(k / fps)))
    assert things is not None
    return memory, things


def at(t: float, x: float = 0.3, speed: float = 0.05) -> tuple[float, float]:
    """Somebody who walks to the right, about a body height in a second."""
    return x + speed * t, 0.7


@pytest.mark.parametrize("fps", [2, 5, 30])
def test_a_new_track_where_somebody_just_was_is_the_same(fps: int) -> None:
    _, things = play(lambda t: [(1 if t < 5 else 2, at(t, 0.2))], 10, fps)
    assert things.ids.tolist() == [1]
    assert things.tracks.tolist() == [2]


@pytest.mark.parametrize("fps", [5, 15])
@pytest.mark.parametrize("told_after_s", [0.0, 0.4, 0.8])
def test_who_walks_in_is_not_taken_for_somebody_hidden(fps: int, told_after_s: float) -> None:
    """A tracker tells of a newcomer only when it is sure, some steps inside of the picture."""

    def scene(t: float) -> list[Person]:
        hidden = [(1, (0.45, 0.7))] if t < 5 else []
        walks_in = 12 + told_after_s <= t
        return [*hidden, *([(2, (1.0 - 0.1 * (t - 12), 0.8))] if walks_in else [])]

    _, things = play(scene, 15, fps)
    assert set(zip(things.ids.tolist(), things.tracks.tolist(), strict=True)) == {(1, 1), (2, 2)}


def test_who_comes_out_of_hiding_inside_of_the_picture_goes_on() -> None:
    def scene(t: float) -> list[Person]:
        return [(1, at(t, 0.2))] if t < 5 else [(2, (0.5 - 0.1 * (t - 12), 0.7))] if t >= 12 else []

    _, things = play(scene, 15, 10)
    assert things.ids.tolist() == [1]


@pytest.mark.parametrize("fps", [5, 30])
@pytest.mark.parametrize("apart", [0.06, 0.2, 0.5])
def test_two_tracks_that_exchange_their_people_are_put_right(fps: int, apart: float) -> None:
    def scene(t: float) -> list[Person]:
        a, b = (0.2, 0.7), (0.2 + apart, 0.7)
        return [(1, a), (2, b)] if t < 5 else [(1, b), (2, a)]

    _, things = play(scene, 10, fps)
    feet = dict(zip(things.ids.tolist(), ((things.boxes[:, 0] + things.boxes[:, 2]) / 2).tolist(), strict=True))
    assert feet[1] == pytest.approx(0.2 * 1600)
    assert feet[2] == pytest.approx((0.2 + apart) * 1600)


def test_somebody_hidden_who_comes_out_nearby_is_the_same_and_far_away_another() -> None:
    near = play(lambda t: [] if 4 <= t < 10 else [(1 if t < 4 else 2, at(0, 0.3 if t < 4 else 0.5))], 14)[1]
    assert near.ids.tolist() == [1]
    far = play(lambda t: [] if 4 <= t < 6 else [(1 if t < 4 else 2, at(0, 0.1 if t < 4 else 0.8))], 10)[1]
    assert far.ids.tolist() == [1, 2]
    assert (far.unseen_s > 0).tolist() == [True, False]


def test_whoever_walks_in_is_not_taken_for_somebody_hidden() -> None:
    def scene(t: float) -> list[Person]:
        return [(1, (0.1, 0.7))] if t < 4 else [] if t < 7 else [(2, (0.02 + 0.02 * (t - 7), 0.7))]

    assert play(scene, 11)[1].ids.tolist() == [1, 2]


def test_a_false_box_beside_somebody_hidden_does_not_become_them() -> None:
    def scene(t: float) -> list[Person]:
        ghost = [(9, (0.36, 0.72))] if 5.0 <= t < 5.4 else []
        return ([(1, (0.3, 0.7))] if t < 4 else []) + ghost + ([(2, (0.3, 0.7))] if t >= 7 else [])

    things = play(scene, 9)[1]
    assert things.ids.tolist() == [1]


def test_a_track_that_is_exchanged_with_that_of_a_false_box_is_put_right() -> None:
    def scene(t: float) -> list[Person]:
        if t < 5:
            return [(1, (0.7, 0.7))]
        return [(2, (0.7, 0.7))] + ([(1, (0.3, 0.6))] if t < 5.3 else [])

    things = play(scene, 9)[1]
    assert things.ids.tolist() == [1]
    assert things.tracks.tolist() == [2]


@pytest.mark.parametrize("fps", [2, 15])
def test_who_walks_out_has_left_and_who_vanishes_within_is_hidden(fps: int) -> None:
    def scene(t: float) -> list[Person]:
        return ([(1, (0.3 - 0.06 * t, 0.7))] if t < 5 else []) + ([(2, (0.6, 0.7))] if t < 5 else [])

    memory, things = play(scene, 7, fps)
    assert dict(zip(things.ids.tolist(), things.left.tolist(), strict=True)) == {1: True, 2: False}
    for t in np.arange(7, 5 + HIDDEN_S + 2, 1 / fps):
        things = memory.update(observe(float(t)))
        gone = t - 5
        assert (1 in things.ids.tolist()) == (gone <= LEFT_S - 1 / fps) or abs(gone - LEFT_S) <= 1.5 / fps
    assert things.ids.tolist() == []


def test_who_was_hardly_seen_is_soon_forgotten() -> None:
    assert play(lambda t: [(1, NOWHERE)] if t < 1 else [], 4)[1].ids.tolist() == []


def test_an_object_is_remembered_for_a_moment_or_while_somebody_covers_it() -> None:
    box: Thing = (7, "box", (0.5, 0.5))
    before = (2, (0.5, 0.6))  # their box reaches over the object

    def watch(covered: bool) -> list[int]:
        memory = Memory()
        box_code = memory.code("box")
        for k in range(120):
            t = k / 10
            people = [before] if covered and t >= 4 else []
            things = memory.update(observe(t, people, [box] if t < 4 else []))
        return [int(ident) for ident in things.ids[things.labels == box_code]]

    assert len(watch(covered=True)) == 1
    assert watch(covered=False) == []


def test_a_prediction_is_no_sight() -> None:
    memory = Memory()
    for k in range(40):
        things = memory.update(observe(k / 10, [(1, at(k / 10))], predicted=[1] if k >= 30 else []))
    assert things.unseen_s.tolist() == [pytest.approx(1.0)]


@pytest.mark.parametrize("fps", [2, 10, 60])
def test_speed_in_metres_a_second(fps: int) -> None:
    # A body height is 200 pixels and 1.7 m, so that this is 0.05 × 1600 × 1.7 / 200 = 0.68 m/s.
    assert play(lambda t: [(1, at(t, 0.1))], 8, fps)[1].speed_mps.tolist() == [pytest.approx(0.68, rel=0.02)]
    assert np.isnan(play(lambda t: [(1, at(t, 0.1))], 1 / fps, fps)[1].speed_mps).all()


@given(seed=st.integers(0, 5_000), fps=st.sampled_from([5, 15]))
def test_people_apart_keep_their_identities_whatever_the_tracker_calls_them(seed: int, fps: int) -> None:
    """Every second somebody gets a new id or two exchange theirs; a tenth of the boxes is missing."""
    rng = np.random.default_rng(seed)
    lanes = {name: 0.4 + 0.2 * k for k, name in enumerate((1, 2, 3))}
    names = {1: 1, 2: 2, 3: 3}
    memory, fresh = Memory(), 10
    for k in range(12 * fps):
        t = k / fps
        if k and k % fps == 0:
            a, b = rng.choice([1, 2, 3], 2, replace=False).tolist()
            if rng.random() < 0.5:
                names[a], names[b] = names[b], names[a]
            else:
                names[a], fresh = fresh, fresh + 1
        people = [(names[who], (0.2 + 0.04 * t, y)) for who, y in lanes.items() if k == 0 or rng.random() > 0.1]
        things = memory.update(observe(t, people))
    lane = dict(zip(things.ids.tolist(), (things.boxes[:, 3] / 900).tolist(), strict=True))
    assert {ident: lane.get(ident, y) for ident, y in lanes.items()} == pytest.approx(lanes)
