"""Tiny networks shaped as the exports of detection projects: each sees the same two objects and otherwise next to nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.types import F32
from tests.onnx_writer import network

SIZE = (96, 64)
STRIDES = (8, 16, 32)
BOXES = np.array([[20, 12, 44, 52], [50, 8, 90, 60]], np.float32)
"""The two objects, xyxy in pixels of the input; classes 0 and 2 of three, scores 0.9 and 0.6."""
CLASSES = (0, 2)
SCORES = (0.9, 0.6)
LABELS = ("cat", "dog", "hen")


def cells(anchors: int = 1) -> F32:
    """(N, 3): x, y of the corner and stride of every cell, cells row by row."""
    parts = []
    for stride in STRIDES:
        y, x = np.mgrid[: SIZE[1] // stride, : SIZE[0] // stride]
        part = np.stack((x.ravel() * stride, y.ravel() * stride, np.full(x.size, stride)), axis=1)
        parts.append(np.tile(part, (anchors, 1)))
    return np.concatenate(parts).astype(np.float32)


def centred(boxes: F32) -> F32:
    return np.concatenate(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]), axis=1).astype(np.float32)


def places(grid: F32) -> list[int]:
    """The cell of stride 16 that each object's centre is in."""
    found = []
    for x, y in centred(BOXES)[:, :2]:
        inside = (
            (grid[:, 2] == 16) & (grid[:, 0] <= x) & (x < grid[:, 0] + 16) & (grid[:, 1] <= y) & (y < grid[:, 1] + 16)
        )
        found.append(int(np.flatnonzero(inside)[0]))
    return found


def dense(anchors: int = 1) -> tuple[F32, F32]:
    """Boxes cxcywh (N,4) in pixels and class scores (N,3) of a head with a grid."""
    grid = cells(anchors)
    half = grid[:, 2:3] / 2
    boxes = np.concatenate((grid[:, :2] + half, half * 4 * np.ones((1, 2))), axis=1).astype(np.float32)
    scores = np.full((len(grid), 3), 0.001, np.float32)
    for place, box, number, score in zip(places(grid), centred(BOXES), CLASSES, SCORES, strict=True):
        boxes[place], scores[place, number] = box, score
    return boxes, scores


def logit(p: F32) -> F32:
    return np.asarray(np.log(p) - np.log1p(-p), np.float32)


def yolov8(**options: object) -> bytes:
    boxes, scores = dense()
    return network({"output0": np.concatenate((boxes, scores), axis=1).T[None].copy()}, size=SIZE, **options)  # type: ignore[arg-type]


def yolov8_metadata(labels: tuple[str, ...] = LABELS) -> dict[str, str]:
    return {
        "description": "Tiny model",
        "author": "somebody",
        "license": "MIT",
        "stride": "32",
        "task": "detect",
        "batch": "1",
        "imgsz": f"[{SIZE[1]}, {SIZE[0]}]",
        "names": repr(dict(enumerate(labels))),
    }


def with_objectness(anchors: int) -> F32:
    boxes, scores = dense(anchors)
    objectness = np.full((len(boxes), 1), 0.01, np.float32)
    objectness[places(cells(anchors))] = 0.99
    return np.concatenate((boxes, objectness, scores / 0.99), axis=1)[None].astype(np.float32)


def yolov5() -> bytes:
    return network({"output": with_objectness(3)}, size=SIZE)


def yolox(*, decoded: bool) -> bytes:
    rows = with_objectness(1)
    if not decoded:
        grid = cells()
        rows[0, :, :2] = (rows[0, :, :2] - grid[:, :2]) / grid[:, 2:]
        rows[0, :, 2:4] = np.log(rows[0, :, 2:4] / grid[:, 2:])
    return network({"output": rows}, size=SIZE)


def yolov10() -> bytes:
    rows = np.zeros((1, 50, 6), np.float32)
    rows[0, :2] = np.concatenate((BOXES, np.array([SCORES]).T, np.array([CLASSES]).T), axis=1)
    return network({"output0": rows}, size=SIZE)


def yolov4() -> bytes:
    boxes, scores = dense(3)
    corners = np.concatenate((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), axis=1)
    fractions = (corners / np.array([*SIZE, *SIZE], np.float32)).astype(np.float32)
    return network({"confs": scores[None], "boxes": fractions[None, :, None]}, size=SIZE)


def rtdetr() -> bytes:
    boxes = np.full((1, 40, 4), 0.5, np.float32)
    scores = np.full((1, 40, 3), 0.002, np.float32)
    boxes[0, :2] = centred(BOXES) / np.array([*SIZE, *SIZE], np.float32)
    for i, (number, score) in enumerate(zip(CLASSES, SCORES, strict=True)):
        scores[0, i, number] = score
    return network({"logits": logit(scores), "pred_boxes": boxes}, size=SIZE)


def yolonas() -> bytes:
    boxes, scores = dense()
    corners = np.concatenate((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), axis=1)
    return network({"boxes": corners[None].astype(np.float32), "scores": scores[None]}, size=SIZE)


def yolov8_split() -> bytes:
    boxes, scores = dense()
    return network({"scores": scores.T[None].copy(), "boxes": boxes.T[None].copy()}, size=SIZE)


def fcos() -> bytes:
    boxes, scores = dense()
    grid = cells()
    centre, half = grid[:, :2] + grid[:, 2:] / 2, boxes[:, 2:] / 2
    distances = np.concatenate((centre - (boxes[:, :2] - half), boxes[:, :2] + half - centre), axis=1)
    logarithms = np.log(distances / grid[:, 2:]).astype(np.float32)
    return network({"boxes": logarithms.T[None].copy(), "scores": logit(scores).T[None].copy()}, size=SIZE)


def torchvision() -> bytes:
    answers: dict[str, NDArray[Any]] = {
        "boxes": BOXES,
        "labels": np.array(CLASSES, np.int64) + 1,
        "scores": np.array(SCORES, np.float32),
    }
    return network(answers, size=SIZE)


def ssd() -> bytes:
    """In the order TensorFlow 2 exports it: scores, boxes, count, classes."""
    boxes = np.zeros((1, 10, 4), np.float32)
    boxes[0, :2] = BOXES[:, [1, 0, 3, 2]] / np.array([SIZE[1], SIZE[0]] * 2, np.float32)
    scores, classes = np.zeros((1, 10), np.float32), np.zeros((1, 10), np.float32)
    scores[0, :2], classes[0, :2] = SCORES, CLASSES
    answers = {"out0": scores, "out1": boxes, "out2": np.array([2], np.float32), "out3": classes}
    return network(answers, size=SIZE, layout="NHWC")
