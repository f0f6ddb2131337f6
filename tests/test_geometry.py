from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.config import GroundConfig
from edge_agent.errors import ConfigError
from edge_agent.types import F64
from edge_agent.usecases.calibrate import fit_ground
from edge_agent.usecases.geometry import distort, undistort
from tests.ground_fixtures import CORNERS, GRID, SIZE, Pinhole, calibration

cameras = st.builds(
    Pinhole,
    focal=st.floats(700, 2500),
    height=st.floats(2.5, 15),
    tilt=st.floats(0.25, 1.2),
    pan=st.floats(-3.1, 3.1),
    roll=st.floats(-0.1, 0.1),
    k1=st.floats(-0.15, 0.1),
)
offsets = st.lists(st.tuples(st.floats(-1, 1), st.floats(-0.8, 1)), min_size=1, max_size=20).map(np.array)


@settings(max_examples=40, deadline=None)
@given(camera=cameras, where=offsets)
def test_recovers_the_floor_and_heights_of_any_camera(camera: Pinhole, where: F64) -> None:
    metres = camera.around(GRID)
    plane = fit_ground(calibration(camera.floor(metres), metres, lens={"k1": camera.k1}))
    places = camera.around(where)
    pixels = camera.floor(places)
    tolerance = 1e-6 * camera.height
    assert np.abs(plane.to_ground(pixels) - places).max() < tolerance
    assert np.abs(plane.to_pixel(places) - pixels).max() < 1e-4

    heads = camera.see(np.column_stack([places, np.full(len(places), 1.8)]))
    if camera.tilt < 1.0:  # looking almost straight down, the picture does not tell the focal length
        # Far outside the picture the lens model folds, and a head there is known to nobody.
        shown = ((heads >= 0) & (heads <= SIZE)).all(axis=1)
        assert np.abs(plane.head_pixel(places, np.full(len(places), 1.8)) - heads)[shown].max(initial=0) < 0.05
        below = plane.foot_below(plane.lens(heads), np.full(len(places), 1.8))
        assert np.abs(below - plane.lens(pixels))[shown].max(initial=0) < 1e-3


@settings(max_examples=40, deadline=None)
@given(camera=cameras, where=offsets)
def test_jacobian_is_the_derivative(camera: Pinhole, where: F64) -> None:
    metres = camera.around(GRID)
    plane = fit_ground(calibration(camera.floor(metres), metres, lens={"k1": camera.k1, "k2": 0.01}, max_error_m=10))
    pixels = camera.floor(camera.around(where))
    _, jacobian = plane.project(pixels)
    step = 1e-3
    for axis in (0, 1):
        move = np.eye(2)[axis] * step
        numeric = (plane.to_ground(pixels + move) - plane.to_ground(pixels - move)) / (2 * step)
        assert np.abs(jacobian[:, :, axis] - numeric).max() < 1e-4 * max(1.0, float(np.abs(numeric).max()))


@given(
    k1=st.floats(-0.3, 0.3),
    k2=st.floats(-0.05, 0.05),
    points=st.lists(st.tuples(st.floats(-0.7, 0.7), st.floats(-0.7, 0.7)), min_size=1, max_size=20).map(np.array),
)
def test_undistort_inverts_distort(k1: float, k2: float, points: F64) -> None:
    bent = distort(points, k1, k2)
    here = ~np.isnan(bent[:, 0])
    assert np.abs(undistort(bent[here], k1, k2) - points[here]).max(initial=0) < 1e-6


@pytest.mark.parametrize(("k1", "k2"), [(-0.3, 0.0), (-1.0, -1.0), (0.3, -0.05), (1.0, -1.0), (-1.0, 0.3), (1.0, 1.0)])
def test_undistort_reaches_to_the_fold_of_the_lens(k1: float, k2: float) -> None:
    radius = np.linspace(0, 3, 30_001)
    folded = np.flatnonzero(1 + 3 * k1 * radius**2 + 5 * k2 * radius**4 <= 0)
    points = np.outer(radius[: folded[0]] if len(folded) else radius, [0.6, 0.8])
    assert np.abs(undistort(distort(points, k1, k2), k1, k2) - points).max() < 1e-6


def test_no_point_beyond_the_fold_of_the_lens() -> None:
    assert np.isnan(undistort(np.array([[0.8, 0.0], [5.0, 5.0]]), -0.3, 0.0)).all()
    assert np.isnan(distort(np.array([[1.2, 0.0]]), -0.3, 0.0)).all()


@settings(max_examples=30, deadline=None)
@given(camera=cameras, columns=st.lists(st.floats(-500, 2000), min_size=1, max_size=5))
def test_at_and_above_the_horizon_there_is_no_position(camera: Pinhole, columns: list[float]) -> None:
    camera = replace(camera, roll=0.0, k1=0.0)
    metres = camera.around(GRID)
    plane = fit_ground(calibration(camera.floor(metres), metres))
    horizon = SIZE[1] / 2 - camera.focal * np.tan(camera.tilt)
    above = np.array([[u, horizon - dv] for u in columns for dv in (0.0, 1.0, 50.0, 2000.0)])
    assert np.isnan(plane.to_ground(above)).all()
    below = np.array([[u, horizon + dv] for u in columns for dv in (0.01, 0.5, 3.0, 30.0)])
    found = plane.to_ground(below)
    # What is told is never wild: one pixel is a few metres at most, so the place is within the view's reach.
    reach = np.sqrt(5.0 * camera.focal * camera.height) * 3 + 20 * camera.height
    assert (np.isnan(found) | (np.abs(found) < 2 * reach)).all()


@settings(max_examples=20, deadline=None)
@given(camera=cameras, scale=st.tuples(st.floats(0.2, 4), st.floats(0.2, 4)))
def test_scales_to_the_size_of_the_frame(camera: Pinhole, scale: tuple[float, float]) -> None:
    metres = camera.around(GRID)
    plane = fit_ground(calibration(camera.floor(metres), metres, lens={"k1": camera.k1}))
    size = (round(SIZE[0] * scale[0]), round(SIZE[1] * scale[1]))
    factor = np.array(size) / SIZE
    pixels = camera.floor(metres)
    resized = plane.at(size)
    assert np.abs(resized.to_ground(pixels * factor) - plane.to_ground(pixels)).max() < 1e-9 * camera.height
    assert np.allclose(resized.project(pixels * factor)[1] * factor, plane.project(pixels)[1])
    assert np.allclose(resized.at(SIZE).to_ground(pixels), plane.to_ground(pixels))


def test_many_noisy_points_average_out() -> None:
    camera, rng = Pinhole(), np.random.default_rng(1)
    metres = camera.around(rng.uniform(-1, 1, (60, 2)))
    plane = fit_ground(calibration(camera.floor(metres) + rng.normal(0, 2, (60, 2)), metres))
    assert np.abs(plane.to_ground(camera.floor(metres)) - metres).max() < plane.errors_m.max() / 2


def test_lens_is_estimated_where_the_points_tell_it() -> None:
    camera = Pinhole(k1=-0.1)
    metres = camera.around(GRID)
    assert fit_ground(calibration(camera.floor(metres).round(1), metres)).k1 == pytest.approx(-0.1, abs=0.01)
    four = camera.around(CORNERS)
    assert fit_ground(calibration(camera.floor(four), four)).k1 == 0


@pytest.mark.parametrize("seed", range(5))
def test_lens_is_not_read_out_of_noise(seed: int) -> None:
    camera, rng = Pinhole(), np.random.default_rng(seed)
    metres = camera.around(GRID)
    plane = fit_ground(calibration(camera.floor(metres) + rng.normal(0, 1.5, (9, 2)), metres))
    assert abs(plane.k1) < 0.06


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ([[-1, 0], [0, 0], [1, 0], [0, 1]], "three of the four points are on one line"),
        ([[-1, 0], [0, 0.002], [1, 0], [0, 1]], "three of the four points are on one line"),
        ([[-1, 0], [-0.5, 0], [0, 0], [0.6, 0], [1, 0]], "on one line"),
        ([[-1, 0], [-0.5, 0], [0, 0], [1, 0], [0, 1]], "all points but one at most are on one line"),
        ([[-1, 0], [-1, 0], [1, 0], [0, 1]], "points 1 and 2 are at the same pixel"),
    ],
)
def test_degenerate_points_are_refused(where: list[list[float]], words: str) -> None:
    camera = Pinhole()
    metres = camera.around(np.array(where))
    with pytest.raises(ConfigError, match=words):
        fit_ground(calibration(camera.floor(metres), metres), "cameras[0].ground")


def test_swapped_points_are_refused() -> None:
    camera = Pinhole()
    metres = camera.around(CORNERS)
    with pytest.raises(ConfigError, match=r"cameras\[0\].ground.points: no camera sees one floor like this"):
        fit_ground(calibration(camera.floor(metres), metres[[1, 0, 2, 3]]), "cameras[0].ground")


def test_a_lens_that_cannot_show_a_point_is_refused() -> None:
    camera = Pinhole()
    metres = camera.around(GRID)
    with pytest.raises(ConfigError, match=r"cam.lens: point \d lies beyond"):
        fit_ground(calibration(camera.floor(metres), metres, lens={"k1": -1.0, "k2": -1.0}), "cam")


def test_points_that_disagree_are_refused_with_the_error_of_each() -> None:
    camera = Pinhole()
    metres = camera.around(GRID)
    wrong = metres.copy()
    wrong[4] += (3, -2)
    with pytest.raises(ConfigError) as caught:
        fit_ground(calibration(camera.floor(metres), wrong))
    text = str(caught.value)
    assert all(f"point {number}: pixel" in text for number in range(1, 10))
    assert text.count("off by") == 9
    assert "without point 5 the others agree to 0.000 m" in text


def test_the_example_configuration_fits_to_a_centimetre(root: Path) -> None:
    ground = yaml.safe_load((root / "config.yaml").read_text())["cameras"][0]["ground"]
    plane = fit_ground(GroundConfig.model_validate(ground))
    assert plane.rms_m < 0.01
    assert plane.k1 < 0  # the lens of that camera bends inwards
