"""The tracker's promises: identity, time, classes, and what must not become a person."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.config import TrackConfig
from edge_agent.track import MultiObjectTracker
from edge_agent.track.kalman import BoxFilters, to_axes, to_boxes
from edge_agent.types import Detections, Tracks

LABELS = ("person", "car")
Box = tuple[float, float, float, float]
CONFIG = TrackConfig(high_score=0.5, low_score=0.2, max_lost_s=2.0, max_predicted_s=0.6)


def seen(*boxes: Box, scores: list[float] | None = None, classes: list[int] | None = None) -> Detections:
    n = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(n, 4),
        np.array([0.9] * n if scores is None else scores, np.float32),
        np.array([0] * n if classes is None else classes, np.int32),
        LABELS,
    )


def person(x: float, y: float = 300.0, height: float = 100.0) -> Box:
    """Standing with the feet's centre at (x, y)."""
    return (x - 0.2 * height, y - height, x + 0.2 * height, y)


def walk(tracker: MultiObjectTracker, times: list[float], speed: float, start: float = 100.0) -> list[Tracks]:
    return [tracker.update(seen(person(start + speed * t)), t) for t in times]


def ids(tracks: list[Tracks]) -> set[int]:
    return {int(i) for frame in tracks for i in frame.ids}


@pytest.mark.parametrize("fps", [2, 7, 30, 60])
def test_the_same_walk_is_one_person_at_every_frame_rate(fps: int) -> None:
    times = [i / fps for i in range(6 * fps)]
    out = walk(MultiObjectTracker(CONFIG), times, speed=80.0)
    assert ids(out) == {1}
    assert all(len(frame) == 1 for frame in out[2:])
    assert to_axes(out[-1].boxes)[0, 0] == pytest.approx(100 + 80 * times[-1], abs=5)


@pytest.mark.parametrize("fps", [7, 30])
def test_a_second_hidden_keeps_the_id_and_is_reported_as_predicted_for_the_configured_time(fps: int) -> None:
    tracker = MultiObjectTracker(CONFIG)
    unseen_for: list[float] = []
    out = []
    for i in range(5 * fps):
        t = i / fps
        hidden = 2.0 < t < 3.2
        out.append(tracker.update(seen() if hidden else seen(person(100 + 60 * t)), t))
        if hidden and len(out[-1]):
            assert out[-1].predicted.all()
            assert to_axes(out[-1].boxes)[0, 0] == pytest.approx(100 + 60 * t, abs=12)
            unseen_for.append(t - 2.0)
        elif not hidden:
            assert not out[-1].predicted.any()
    assert ids(out) == {1}
    assert 0.6 - 1.01 / fps <= max(unseen_for) <= 0.6 + 1e-9


def test_a_track_unseen_for_longer_than_max_lost_does_not_come_back() -> None:
    tracker = MultiObjectTracker(CONFIG)
    times = [i / 10 for i in range(20)]
    walk(tracker, times, speed=0.0)
    later = walk(tracker, [t + 4.5 for t in times], speed=0.0)
    assert ids(later) == {2}


def test_a_single_false_box_is_nobody_and_faint_boxes_begin_nothing() -> None:
    tracker = MultiObjectTracker(CONFIG)
    out = [tracker.update(seen(person(300)) if i == 3 else seen(), i / 10) for i in range(10)]
    out += [tracker.update(seen(person(300), scores=[0.45]), 1 + i / 10) for i in range(10)]
    assert ids(out) == set()


def test_faint_boxes_keep_a_person_but_not_for_ever() -> None:
    tracker = MultiObjectTracker(CONFIG)
    walk(tracker, [i / 10 for i in range(10)], speed=0.0)
    out = [tracker.update(seen(person(100), scores=[0.25]), 1 + i / 10) for i in range(60)]
    assert ids(out) == {1}
    assert all(len(frame) == 1 and not frame.predicted.any() for frame in out[:20])
    assert len(out[-1]) == 0


def test_classes_do_not_exchange_boxes() -> None:
    tracker = MultiObjectTracker(CONFIG)
    box = person(200)
    out = [tracker.update(seen(box, box, classes=[0, 1]), i / 10) for i in range(10)]
    assert ids(out) == {1, 2}
    kinds = {int(i): int(c) for frame in out for i, c in zip(frame.ids, frame.classes, strict=True)}
    assert sorted(kinds.values()) == [0, 1]
    turned = [tracker.update(seen(box, classes=[1]), 1 + i / 10) for i in range(3)]
    person_id = next(i for i, c in kinds.items() if c == 0)
    assert all(frame.predicted[list(frame.ids).index(person_id)] for frame in turned)


def test_another_model_that_numbers_its_labels_otherwise_goes_on_with_the_same_tracks() -> None:
    tracker = MultiObjectTracker(CONFIG)
    boxes = [person(100), person(400)]
    for i in range(5):
        before = tracker.update(seen(*boxes, classes=[0, 1]), i / 10)
    both = replace(seen(*boxes, classes=[2, 1]), labels=("bag", "car", "person"))
    after = tracker.update(both, 0.5)
    assert after.ids.tolist() == before.ids.tolist()
    assert [after.labels[c] for c in after.classes] == ["person", "car"]
    alone = tracker.update(replace(seen(boxes[0]), labels=("person",)), 0.6)
    assert alone.ids.tolist() == before.ids[:1].tolist(), "what it does not know is gone"


def test_a_double_box_does_not_become_a_second_person() -> None:
    tracker = MultiObjectTracker(CONFIG)
    out = []
    for i in range(40):
        x = 100 + 8.0 * i
        body, upper = person(x), (x - 20, 200.0, x + 20, 255.0)
        doubled = 10 <= i < 22
        out.append(tracker.update(seen(body, upper, scores=[0.9, 0.7]) if doubled else seen(body), i / 10))
    assert ids(out) == {1}


def test_two_people_crossing_stay_two() -> None:
    tracker = MultiObjectTracker(CONFIG)
    out = [tracker.update(seen(person(100 + 8.0 * i, 300), person(420 - 8.0 * i, 306)), i / 10) for i in range(40)]
    assert ids(out) == {1, 2}
    last = dict(zip(out[-1].ids.tolist(), to_axes(out[-1].boxes)[:, 0].tolist(), strict=True))
    first = dict(zip(out[2].ids.tolist(), to_axes(out[2].boxes)[:, 0].tolist(), strict=True))
    assert [first[i] < 260 for i in (1, 2)] == [last[i] > 260 for i in (1, 2)]


def test_legs_hidden_for_a_while_do_not_change_the_id() -> None:
    tracker = MultiObjectTracker(CONFIG)
    out = []
    for i in range(40):
        x1, y1, x2, y2 = person(100 + 6.0 * i)
        cut = 15 <= i < 25
        out.append(tracker.update(seen((x1, y1, x2, y2 - 40 if cut else y2), scores=[0.55 if cut else 0.9]), i / 10))
    assert ids(out) == {1}
    assert all(len(frame) == 1 for frame in out[2:])


def test_irregular_intervals_and_a_repeated_time() -> None:
    rng = np.random.default_rng(5)
    times = np.cumsum(rng.choice([0.0, 0.015, 0.03, 0.15, 0.4, 0.7], 80)).tolist()
    out = walk(MultiObjectTracker(CONFIG), times, speed=70.0)
    assert ids(out) == {1}
    assert np.isfinite(out[-1].boxes).all()


def test_an_unmatched_track_is_predicted_even_if_no_time_has_passed() -> None:
    tracker = MultiObjectTracker(CONFIG)
    walk(tracker, [0.0, 0.1, 0.2], speed=0.0)
    again = tracker.update(seen(), 0.2)
    assert again.ids.tolist() == [1]
    assert again.predicted.tolist() == [True]


def test_time_going_back_is_the_same_time() -> None:
    tracker = MultiObjectTracker(CONFIG)
    walk(tracker, [5.0, 5.1, 5.2], speed=0.0)
    assert tracker.update(seen(person(100)), 1.0).ids.tolist() == [1]
    assert tracker.update(seen(person(100)), 5.3).ids.tolist() == [1]


def test_nothing_at_all() -> None:
    tracker = MultiObjectTracker(CONFIG)
    for i in range(5):
        out = tracker.update(seen(), i / 5)
        assert len(out) == 0
        assert out.boxes.shape == (0, 4)
        assert out.labels == LABELS


def test_three_hundred_people() -> None:
    tracker = MultiObjectTracker(CONFIG)
    grid = [person(60.0 * (i % 20), 120.0 * (i // 20), 80) for i in range(300)]
    for i in range(5):
        out = tracker.update(seen(*[(x1 + 3 * i, y1, x2 + 3 * i, y2) for x1, y1, x2, y2 in grid]), i / 10)
    assert out.ids.tolist() == list(range(1, 301))


def test_what_is_returned_is_the_callers() -> None:
    tracker = MultiObjectTracker(CONFIG)
    out = walk(tracker, [0.0, 0.1, 0.2], speed=0.0)[-1]
    box = out.boxes.copy()
    out.boxes[:] = -1
    out.ids[:] = 99
    out.scores[:] = 0
    again = tracker.update(seen(person(100)), 0.3)
    assert again.ids.tolist() == [1]
    assert np.allclose(again.boxes, box, atol=2)


boxes = st.tuples(
    st.floats(0, 600, width=32), st.floats(0, 400, width=32), st.floats(5, 200, width=32), st.floats(5, 200, width=32)
).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
frames = st.lists(
    st.tuples(st.lists(st.tuples(boxes, st.floats(0, 1, width=32), st.integers(0, 1)), max_size=12), st.floats(0, 3)),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(frames)
def test_whatever_comes_rows_are_ordered_ids_are_unique_and_never_return(
    script: list[tuple[list[tuple[Box, float, int]], float]],
) -> None:
    tracker = MultiObjectTracker(CONFIG)
    last: dict[int, float] = {}
    kinds: dict[int, int] = {}
    t = 0.0
    for found, dt in script:
        t += dt
        out = tracker.update(
            seen(*[b for b, _, _ in found], scores=[s for _, s, _ in found], classes=[c for _, _, c in found]), t
        )
        assert (np.diff(out.ids) > 0).all()
        assert np.isfinite(out.boxes).all()
        assert (out.boxes[:, 2:] > out.boxes[:, :2]).all()
        assert (~out.predicted).sum() <= len(found)
        assert all(i > max(last, default=0) for i in set(out.ids.tolist()) - set(last))
        for i, kind in zip(out.ids.tolist(), out.classes.tolist(), strict=True):
            assert kinds.setdefault(i, kind) == kind
            assert t - last.get(i, t) <= CONFIG.max_lost_s + dt + 1e-9
            last[i] = t


@settings(max_examples=100, deadline=None)
@given(st.floats(0.001, 2), st.integers(2, 40), boxes)
def test_many_short_predictions_are_one_long_one(total: float, parts: int, box: Box) -> None:
    whole, pieces = BoxFilters(), BoxFilters()
    for filters in (whole, pieces):
        filters.append(to_axes(np.array([box])))
        # The height stands still: noise scales with it, and is taken as constant within a step.
        filters.velocity[0, :2] = 30, -10
    whole.predict(total)
    for _ in range(parts):
        pieces.predict(total / parts)
    assert np.allclose(whole.mean, pieces.mean, rtol=1e-6, atol=1e-6)
    assert np.allclose(whole.var, pieces.var, rtol=1e-6, atol=1e-6)


@given(boxes)
def test_axes_and_boxes_are_two_ways_to_say_the_same(box: Box) -> None:
    array = np.array([box])
    assert np.allclose(to_boxes(to_axes(array)), array, atol=1e-4)


def test_uncertainty_grows_while_unseen_and_shrinks_when_seen() -> None:
    filters = BoxFilters()
    measured = to_axes(np.array([person(100)]))
    filters.append(measured)
    before = filters.var[0].copy()
    filters.predict(0.5)
    unseen = filters.var[0].copy()
    filters.update(np.array([0]), measured, np.ones((1, 1)))
    assert (unseen > before).all()
    assert (filters.var[0] < unseen).all()
    assert math.isclose(filters.mean[0, 0], 100.0, abs_tol=1e-6)
