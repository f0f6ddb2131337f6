"""Letterbox and suppression, without a model."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.detect.backends import InputTensor
from edge_agent.detect.manifest import InputSpec
from edge_agent.detect.nms import nms
from edge_agent.detect.preprocess import Letterbox, Preprocessor
from edge_agent.types import F32

sides = st.integers(2, 3000)
TENSOR = InputTensor((1, 3, 48, 64), "NCHW", np.dtype(np.float32))


@given(sides, sides, st.integers(32, 1280), st.integers(32, 1280), st.sampled_from(["top_left", "centre"]), st.data())
def test_letterbox_round_trip(width: int, height: int, tw: int, th: int, position: str, data: st.DataObject) -> None:
    box = Letterbox.fit((width, height), (tw, th), position)
    assert box.content[0] <= tw and box.content[1] <= th
    assert box.content[0] == tw or box.content[1] == th
    fraction = st.floats(0, 1)
    x, y = data.draw(fraction) * width, data.draw(fraction) * height
    inside = np.array([[x, y, x, y]], np.float32) * np.tile(box.scale, 2) + np.tile(box.offset, 2)
    assert (inside >= -1e-3).all() and inside[0, 2] <= tw + 1e-2 and inside[0, 3] <= th + 1e-2
    back = box.to_source(inside.astype(np.float32))
    assert back[0] == pytest.approx([x, y, x, y], abs=max(width, height) * 1e-4 + 1e-3)


def test_boxes_are_clipped_to_the_source() -> None:
    box = Letterbox.fit((768, 576), (416, 416), "top_left")
    assert box.to_source(np.array([[-5, -5, 500, 500]], np.float32)).tolist() == [[0, 0, 768, 576]]


def spec(**change: object) -> InputSpec:
    base = {"name": "images", "size": (64, 48), "colour": "RGB", "mean": (10.0, 20.0, 30.0), "std": (2.0, 4.0, 8.0)}
    return InputSpec.model_validate(base | change)


@pytest.mark.parametrize("colour", ["RGB", "BGR"])
@pytest.mark.parametrize("position", ["top_left", "centre"])
def test_preprocessing_equals_the_plain_computation(colour: str, position: str) -> None:
    rng = np.random.default_rng(3)
    preprocess = Preprocessor(spec(colour=colour, position=position), TENSOR)
    # Twice: the second picture meets used buffers, the third another source size.
    for size in ((120, 200), (120, 200), (300, 100)):
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        tensor, box = preprocess(image)
        plain = np.full((48, 64, 3), 114, np.float32)
        width, height = box.content
        x, y = box.offset
        plain[y : y + height, x : x + width] = cv2.resize(image, box.content)
        if colour == "RGB":
            plain = plain[..., ::-1]
        plain = (plain - np.array([10, 20, 30])) / np.array([2, 4, 8])
        np.testing.assert_allclose(tensor[0].transpose(1, 2, 0), plain, atol=1e-4)


def test_the_tensor_is_one_buffer_used_again() -> None:
    preprocess = Preprocessor(spec(), TENSOR)
    image = np.zeros((48, 64, 3), np.uint8)
    assert preprocess(image)[0] is preprocess(image)[0]


def iou_of(a: F32, b: F32) -> float:
    """The definition, in plain Python."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(float(width), 0.0) * max(float(height), 0.0)
    area = [float(x[2] - x[0]) * float(x[3] - x[1]) for x in (a, b)]
    return inter / (sum(area) - inter)


def boxes_of(data: st.DataObject, n: int) -> F32:
    corner = st.tuples(st.floats(0, 500), st.floats(0, 500), st.floats(1, 200), st.floats(1, 200))
    rows = data.draw(st.lists(corner, min_size=n, max_size=n))
    return np.array([[x, y, x + w, y + h] for x, y, w, h in rows], np.float32).reshape(-1, 4)


@given(st.integers(0, 30), st.floats(0.1, 0.9), st.integers(1, 40), st.data())
def test_suppression_keeps_the_best_and_leaves_no_overlap(n: int, iou: float, limit: int, data: st.DataObject) -> None:
    boxes = boxes_of(data, n)
    scores = np.array(data.draw(st.lists(st.floats(0.05, 1), min_size=n, max_size=n)), np.float32)
    classes = np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)), np.int32)
    keep = nms(boxes, scores, classes, iou, limit)
    assert len(keep) == len(set(keep.tolist())) <= limit
    assert (np.diff(scores[keep]) <= 0).all()
    kept = set(keep.tolist())
    for x in kept:
        for y in kept - {x}:
            assert classes[x] != classes[y] or iou_of(boxes[x], boxes[y]) <= iou + 1e-4
    if len(keep) < limit:  # whatever went has a better or equal kept box of its class over it
        for lost in set(range(n)) - kept:
            rivals = [k for k in kept if classes[k] == classes[lost] and scores[k] >= scores[lost]]
            assert any(iou_of(boxes[k], boxes[lost]) > iou - 1e-4 for k in rivals)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_boxes_that_are_not_finite_are_dropped_and_drop_no_other(bad: float) -> None:
    boxes = np.array([[0, 0, 10, 20], [100, 0, 110, 20], [bad, 0, 10, 20], [0, bad, bad, bad]], np.float32)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
        keep = nms(boxes[order], scores, np.zeros(4, np.int32), 0.5, 2)
        assert sorted(np.array(order)[keep].tolist()) == [0, 1]
