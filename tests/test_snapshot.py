"""Pictures for the local API: what is drawn, and that nobody can be recognised unless it was allowed."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.pipeline import FrameResult
from edge_agent.snapshot import pixelate, snapshot_jpeg
from edge_agent.types import U8, Detections, Frame, Ground, Pairs, Tracks

NONE = np.zeros(0)
NO_PAIRS = Pairs(NONE.astype(np.int64), NONE.astype(np.int64), NONE, NONE)


def noise(height: int = 200, width: int = 300) -> U8:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


def result(image: U8, detected: list[list[float]], tracked: list[list[float]]) -> FrameResult:
    def parts(boxes: list[list[float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n = len(boxes)
        return np.array(boxes, np.float32).reshape(-1, 4), np.full(n, 0.06, np.float32), np.zeros(n, np.int32)

    n = len(tracked)
    tracks = Tracks(np.arange(1, n + 1), *parts(tracked), np.zeros(n, bool), ("person",))
    ground = Ground(np.full((n, 2), np.nan), np.zeros((n, 2, 2)), np.zeros(n, bool), False)
    return FrameResult(
        Frame("a", 0, 0.0, 0.0, image), Detections(*parts(detected), ("person",)), tracks, ground, NO_PAIRS
    )


def detail(image: U8) -> float:
    """How much changes from one pixel to the next."""
    return float(np.abs(np.diff(image.astype(np.float32), axis=0)).mean())


def decoded(jpeg: bytes) -> U8:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return np.asarray(image, np.uint8)


def test_persons_are_hidden_whether_tracked_or_only_guessed() -> None:
    image = noise()
    seen = result(image, [[10, 20, 70, 180]], [[200, 20, 260, 180]])
    hidden = decoded(snapshot_jpeg(seen, hide_persons=True))
    for x in (15, 205):
        assert detail(hidden[30:170, x : x + 50]) < 0.2 * detail(image[30:170, x : x + 50])
    assert detail(hidden[:, 110:180]) > 0.5 * detail(image[:, 110:180]), "the rest stays"


def test_shown_only_when_asked_and_the_frame_itself_is_left_alone() -> None:
    image = noise()
    before = image.copy()
    shown = decoded(snapshot_jpeg(result(image, [[10, 20, 70, 180]], []), hide_persons=False))
    assert detail(shown[30:170, 15:65]) > 0.5 * detail(image[30:170, 15:65])
    np.testing.assert_array_equal(image, before)


@given(st.lists(st.lists(st.floats(-50, 400), min_size=4, max_size=4), max_size=4))
def test_any_box_is_bearable(boxes: list[list[float]]) -> None:
    image = noise(60, 80)
    pixelate(image, np.array(boxes, np.float32).reshape(-1, 4))
    assert image.shape == (60, 80, 3)
