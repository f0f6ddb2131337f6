from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from edge_agent.types import F64, Ground, Pairs
from edge_agent.usecases.ground import CameraGround
from edge_agent.usecases.smoothing import GroundFilters
from tests.ground_fixtures import SIZE, Pinhole, camera_config, tracks_of

CAMERA = Pinhole(focal=1000, height=6.0, tilt=0.45)
JITTER = 0.03


def jittered(boxes: F64, rng: np.random.Generator, sigma: float = JITTER) -> F64:
    height = boxes[:, 3:] - boxes[:, 1:2]
    across = rng.normal(0, sigma, (len(boxes), 1)) * height
    ends = rng.normal(0, sigma, (len(boxes), 2)) * height
    return boxes + np.column_stack([across, ends[:, :1], across, ends[:, 1:]])


def walk(fps: float, seconds: float, rng: np.random.Generator) -> Iterator[tuple[float, F64, F64]]:
    """Time, true place (1,2) and jittered box of somebody who crosses the view at 1.3 m/s."""
    for frame in range(int(seconds * fps)):
        t = frame / fps
        place = CAMERA.spot() + np.array([[-4 + 1.3 * t, 0.4 * t]])
        yield t, place, jittered(CAMERA.boxes(place), rng)


@pytest.mark.parametrize("fps", [2, 7, 25, 60])
def test_smooths_without_lag_at_any_frame_rate(fps: int) -> None:
    smooth, plain, along = [], [], []
    for seed in range(6):
        projector = CameraGround(camera_config(CAMERA))
        plane = projector.plane
        assert plane is not None
        for t, place, boxes in walk(fps, 6.0, np.random.default_rng(seed)):
            ground, _ = projector.update(tracks_of([1], boxes), t, SIZE)
            if t > 1.5:
                smooth.append(np.hypot(*(ground.xy - place)[0]))
                along.append((ground.xy - place)[0] @ np.array([1.3, 0.4]) / np.hypot(1.3, 0.4))
                foot = np.column_stack([(boxes[:, 0] + boxes[:, 2]) / 2, boxes[:, 3]])
                plain.append(np.hypot(*(plane.to_ground(foot) - place)[0]))
    assert np.mean(smooth) < {2: 0.9, 7: 0.75, 25: 0.65, 60: 0.6}[fps] * np.mean(plain)
    assert abs(np.mean(along)) < 0.06


def test_hidden_feet_fall_back_to_the_head() -> None:
    projector, rng = CameraGround(camera_config(CAMERA)), np.random.default_rng(3)
    errors, flags = {True: [], False: []}, {True: [], False: []}  # type: dict[bool, list[float]], dict[bool, list[bool]]
    for t, place, boxes in walk(7, 8.0, rng):
        hidden = 3 <= t < 5
        if hidden:
            boxes[:, 3] -= 0.35 * (boxes[:, 3] - boxes[:, 1])
        ground, _ = projector.update(tracks_of([1], boxes), t, SIZE)
        errors[hidden].append(float(np.hypot(*(ground.xy - place)[0])))
        flags[hidden].append(bool(ground.estimated[0]))
    assert np.mean(errors[True]) < 0.35
    assert max(errors[True]) < 0.8  # the foot point itself is off by more than two metres
    assert np.mean(flags[True]) > 0.9
    assert np.mean(flags[False]) < 0.05


def test_somebody_new_whose_legs_are_hidden_stands_where_a_person_would() -> None:
    projector = CameraGround(camera_config(CAMERA))
    place = CAMERA.spot()[None] + [1.0, 0.5]
    boxes = CAMERA.boxes(place, tall=1.72)
    boxes[:, 3] -= 0.5 * (boxes[:, 3] - boxes[:, 1])
    ground, _ = projector.update(tracks_of([1], boxes), 0.0, SIZE)
    assert ground.estimated.all()
    assert np.hypot(*(ground.xy - place)[0]) < 0.4


def test_box_cut_by_the_lower_edge_uses_the_head() -> None:
    near = replace(CAMERA, tilt=0.3)
    projector = CameraGround(camera_config(near))
    place = np.array([[0.3, 7.9]])
    boxes = near.boxes(place)
    assert boxes[0, 1] < SIZE[1] < boxes[0, 3]
    boxes[:, 3] = SIZE[1]
    ground, _ = projector.update(tracks_of([1], boxes), 0.0, SIZE)
    assert ground.estimated.tolist() == [True]
    assert np.hypot(*(ground.xy - place)[0]) < 0.3


def test_somebody_who_fills_the_frame_is_flagged_and_uncertain() -> None:
    projector = CameraGround(camera_config(replace(CAMERA, tilt=0.3)))
    boxes = np.array([[400, 0, 700, SIZE[1]], [200, 300, 230, 400]], np.float64)
    ground, _ = projector.update(tracks_of([1, 2], boxes), 0.0, SIZE)
    assert ground.estimated.tolist() == [True, False]
    assert np.trace(ground.cov[0]) > 1


def test_heights_say_nothing_about_other_objects() -> None:
    projector = CameraGround(camera_config(CAMERA), label="person")
    place = CAMERA.spot()[None]
    boxes = CAMERA.boxes(place, tall=0.6)  # a suitcase
    tracks = replace(tracks_of([1], boxes), labels=("suitcase", "person"))
    ground, _ = projector.update(tracks, 0.0, SIZE)
    assert not ground.estimated.any()
    assert np.hypot(*(ground.xy - place)[0]) < 0.01


def test_an_unseen_person_walks_on_and_grows_uncertain() -> None:
    projector, rng = CameraGround(camera_config(CAMERA)), np.random.default_rng(1)
    spread: list[float] = []
    last = np.zeros((1, 2))
    for t, place, boxes in walk(10, 4.0, rng):
        unseen, last = t > 3.0, place
        ground, _ = projector.update(tracks_of([1], boxes * 0 if unseen else boxes, [unseen]), t, SIZE)
        if unseen:
            spread.append(float(np.trace(ground.cov[0])))
    assert np.all(np.diff(spread) > 0)
    assert np.hypot(*(ground.xy - last)[0]) < 0.6


def both(ids: list[int], places: F64, t: float, projector: CameraGround) -> tuple[Ground, Pairs]:
    return projector.update(tracks_of(ids, CAMERA.boxes(places)), t, SIZE)


def test_reports_every_pair_nearer_than_five_metres() -> None:
    places = CAMERA.spot() + np.random.default_rng(5).uniform(-4, 4, (12, 2))
    ids = list(range(3, 27, 2))
    ground, pairs = both(ids, places, 0.0, CameraGround(camera_config(CAMERA, person_height_m=1.7)))
    told = {(a, b): d for a, b, d in zip(pairs.a.tolist(), pairs.b.tolist(), pairs.distance_m.tolist(), strict=True)}
    true = {
        (ids[i], ids[j]): float(np.hypot(*(places[i] - places[j])))
        for i in range(12)
        for j in range(i + 1, 12)
        if np.hypot(*(places[i] - places[j])) < 5
    }
    assert told.keys() == true.keys()
    assert all(told[key] == pytest.approx(true[key], abs=0.02) for key in true)
    assert (pairs.sigma_m > 0).all()
    assert ground.calibrated


def test_sigma_tells_the_truth_about_the_error() -> None:
    places = CAMERA.spot() + np.array([[-1.0, 0.0], [0.6, 0.0], [-0.5, 2.0], [1.0, 4.0]])
    ratios = []
    for seed in range(60):
        projector, rng = CameraGround(camera_config(CAMERA)), np.random.default_rng(seed)
        habit = jittered(CAMERA.boxes(places), rng, 0.02)  # errors that last, and those of each frame
        for frame in range(14):
            tracks = tracks_of([1, 2, 3, 4], jittered(habit, rng, 0.035))
            _, pairs = projector.update(tracks, frame / 7, SIZE)
        true = np.hypot(*(places[pairs.b - 1] - places[pairs.a - 1]).T)
        ratios += ((pairs.distance_m - true) / pairs.sigma_m).tolist()
    assert 0.6 < np.std(ratios) < 1.3
    assert abs(np.mean(ratios)) < 0.35


def test_frames_of_another_size_change_nothing() -> None:
    places = CAMERA.spot() + np.array([[0.0, 0.0], [1.5, 0.5]])
    boxes = CAMERA.boxes(places)
    full = CameraGround(camera_config(CAMERA)).update(tracks_of([1, 2], boxes), 0.0, SIZE)
    half = CameraGround(camera_config(CAMERA)).update(tracks_of([1, 2], boxes / 2), 0.0, (SIZE[0] // 2, SIZE[1] // 2))
    assert np.allclose(full[0].xy, half[0].xy, atol=1e-4)
    assert np.allclose(full[1].sigma_m, half[1].sigma_m, rtol=1e-3)


def test_above_the_horizon_there_is_neither_position_nor_pair() -> None:
    camera = replace(CAMERA, tilt=0.2)
    projector = CameraGround(camera_config(camera))
    boxes = np.array([[600, 10, 620, 60], [630, 10, 650, 60]], np.float64)
    for t in (0.0, 0.1):
        ground, pairs = projector.update(tracks_of([1, 2], boxes), t, SIZE)
        assert np.isnan(ground.xy).all()
        assert len(pairs) == 0


def test_who_goes_beyond_the_horizon_does_not_walk_on_for_ever() -> None:
    camera = replace(CAMERA, tilt=0.2)
    projector = CameraGround(camera_config(camera))
    for frame in range(20):
        boxes = camera.boxes(camera.spot()[None] + [[0.0, 0.1 * frame]])
        projector.update(tracks_of([1], boxes), frame / 10, SIZE)
    known = []
    for frame in range(20, 100):
        ground, _ = projector.update(tracks_of([1], np.array([[600.0, 10, 620, 60]])), frame / 10, SIZE)
        known.append(not np.isnan(ground.xy).any())
    assert known[0]
    assert not any(known[52:])


def test_measured_boxes_are_preferred_to_filtered_ones() -> None:
    place = CAMERA.spot()[None]
    boxes = CAMERA.boxes(place)
    tracks = replace(tracks_of([1], boxes - 40), measured=boxes.astype(np.float32))
    ground, _ = CameraGround(camera_config(CAMERA)).update(tracks, 0.0, SIZE)
    assert np.hypot(*(ground.xy - place)[0]) < 0.02


def test_a_box_the_detector_doubts_moves_nobody() -> None:
    moved = {}
    for score in (0.6, 0.2):
        projector = CameraGround(camera_config(CAMERA))
        boxes = CAMERA.boxes(CAMERA.spot()[None])
        for frame in range(20):
            ground, _ = projector.update(tracks_of([1], boxes), frame / 7, SIZE)
        before = ground.xy
        shifted = replace(tracks_of([1], boxes + 8), scores=np.array([score], np.float32))
        ground, _ = projector.update(shifted, 20 / 7, SIZE)
        moved[score] = float(np.hypot(*(ground.xy - before)[0]))
    assert moved[0.2] < 0.4 * moved[0.6]


def test_dead_tracks_are_forgotten() -> None:
    projector = CameraGround(camera_config(CAMERA))
    places = CAMERA.spot()[None] + [[0.0, 0.0], [2.0, 0.0]]
    for number in range(200):
        both([2 * number + 1, 2 * number + 2], places, number * 0.5, projector)
    assert projector.remembered <= 24


def test_empty_frames() -> None:
    for projector in (CameraGround(camera_config(CAMERA)), CameraGround(camera_config(None))):
        ground, pairs = projector.update(tracks_of([], np.empty((0, 4))), 0.0, SIZE)
        assert ground.xy.shape == (0, 2)
        assert len(pairs) == 0


def test_without_calibration_distances_are_estimates() -> None:
    camera = Pinhole(focal=1.7 * float(np.hypot(*SIZE)) / 2, height=2.2, tilt=0.08)
    projector = CameraGround(camera_config(None))
    places = np.array([[-0.8, 9.0], [0.7, 9.0], [0.0, 13.0]])
    ground, pairs = projector.update(tracks_of([1, 2, 3], camera.boxes(places)), 0.0, SIZE)
    assert not ground.calibrated
    true = np.hypot(*(places[pairs.b - 1] - places[pairs.a - 1]).T)
    assert np.abs(pairs.distance_m / true - 1).max() < 0.1
    assert len(pairs) == 3


def test_filters_stay_sound_for_hours() -> None:
    filters, rng = GroundFilters(), np.random.default_rng(0)
    spread = np.diag([0.01, 0.4]) + 0.05 * np.ones((2, 2))
    filters.append(np.arange(3), 0.0, np.zeros((3, 2)), np.tile(spread, (3, 1, 1)), tall=1.7, tall_var=0.01)
    rows = np.arange(3)
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    for frame in range(1, 10_000):
        filters.predict(rows, frame / 7)
        cov = np.array([spread, turn @ spread @ turn.T, 0.01 * spread])
        filters.update(rows, rng.normal(0, 0.3, (3, 2)), cov)
    assert (np.linalg.eigvalsh(filters.cov) > 0).all()
    assert np.abs(filters.cov - filters.cov.transpose(0, 2, 1)).max() < 1e-12
    assert np.abs(filters.state[:, 2:]).max() < 2
