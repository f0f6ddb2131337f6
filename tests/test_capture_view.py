from __future__ import annotations

import time
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from edge_agent.capture.view import ViewHealth
from edge_agent.types import U8, CameraChange, Frame
from tests.capture_helpers import noise_frame

H, W = 240, 320


def scene() -> U8:
    """A corridor: walls, a floor, a door and a few edges."""
    image = np.full((H, W, 3), 120, np.uint8)
    cv2.rectangle(image, (0, 150), (W, H), (80, 90, 95), -1)
    cv2.rectangle(image, (200, 40), (260, 170), (60, 70, 140), -1)
    cv2.line(image, (0, 150), (120, 100), (30, 30, 30), 3)
    cv2.circle(image, (90, 60), 18, (220, 220, 200), -1)
    return image


def run(
    picture: Callable[[int], U8],
    seconds: int,
    fps: int = 2,
    noisy: bool = True,
    health: ViewHealth | None = None,
    start: float = 0,
) -> list[CameraChange]:
    health = health or ViewHealth("cam")
    changes = []
    for k in range(seconds * fps):
        t = start + k / fps
        image = picture(k)
        frame = noise_frame("cam", k, t, image, k) if noisy else Frame("cam", k, t, 1000 + t, image.copy())
        change = health.update(frame)
        if change:
            changes.append(change)
    return changes


def night() -> U8:
    image = np.full((H, W, 3), 6, np.uint8)
    cv2.circle(image, (250, 60), 14, (200, 220, 230), -1)
    cv2.rectangle(image, (40, 120), (60, 200), (40, 40, 40), -1)
    cv2.line(image, (100, 200), (300, 180), (50, 50, 50), 4)
    return image


def hand() -> U8:
    """A hand on the lens: dark, smooth, brighter to one side, and the camera's clock drawn on top."""
    ramp = np.linspace(20, 70, W)[None, :, None] * np.array([0.5, 0.7, 1.0])
    image = np.broadcast_to(ramp, (H, W, 3)).astype(np.uint8).copy()
    cv2.putText(image, "2026-01-31 12:00:00", (5, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1)
    return image


@pytest.mark.parametrize("picture", [scene, night], ids=["static corridor", "night"])
def test_a_still_scene_with_sensor_noise_is_well(picture: Callable[[], U8]) -> None:
    image = picture()
    assert run(lambda _: image, 60) == []


@pytest.mark.parametrize(
    ("picture", "noisy", "view"),
    [
        (lambda: np.zeros((H, W, 3), np.uint8), True, "black"),
        (lambda: np.zeros((H, W, 3), np.uint8), False, "black"),
        (scene, False, "frozen"),
        (hand, True, "covered"),
        (lambda: np.full((H, W, 3), 128, np.uint8), True, "covered"),
    ],
    ids=["black with noise", "pure black", "frozen", "hand", "uniform grey"],
)
def test_a_bad_view_is_told_once_within_thirty_seconds_and_its_end_too(
    picture: Callable[[], U8], noisy: bool, view: str
) -> None:
    health, good, bad = ViewHealth("cam"), scene(), picture()
    assert run(lambda _: good, 20, health=health) == []
    changes = run(lambda _: bad, 60, noisy=noisy, health=health, start=20)
    assert [(c.what, c.value, c.previous) for c in changes] == [("camera_view", view, "ok")]
    assert 5 < changes[0].utc - 1020 <= 30
    back = run(lambda _: good, 30, health=health, start=80)
    assert [(c.value, c.previous) for c in back] == [("ok", view)]


def test_a_short_cover_is_nothing() -> None:
    good, bad = scene(), hand()
    assert run(lambda k: bad if 20 <= k < 36 else good, 60) == []


def test_a_difference_between_the_sampled_pixels_is_not_frozen() -> None:
    rng = np.random.default_rng(1)
    base = rng.integers(0, 255, (720, 960, 3), dtype=np.uint8)

    def picture(k: int) -> U8:
        image = base.copy()
        image[1, 1] = k % 251
        return image

    assert run(picture, 30, fps=1, noisy=False) == []


@pytest.mark.slow
def test_the_look_is_cheap() -> None:
    """Thread CPU time per 1080p frame at 25 fps, mean: the bound is many times what it takes."""
    health = ViewHealth("cam")
    images = [np.random.default_rng(k).integers(0, 255, (1080, 1920, 3), dtype=np.uint8) for k in range(2)]
    frames = [Frame("cam", k, k / 25, 0.0, images[k // 25 % 2]) for k in range(500)]
    began = time.thread_time()
    for frame in frames:
        health.update(frame)
    assert (time.thread_time() - began) / len(frames) < 0.4e-3
