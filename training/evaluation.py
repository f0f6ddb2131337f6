"""Run something that detects over a data set. What that is (PyTorch, ONNX, TFLite) does not matter here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.adapters import Sample
from training.data import letterbox, read_image
from training.metrics import F32, Found, Scores, Truth, evaluate

Predict: TypeAlias = Callable[[NDArray[np.uint8]], tuple[F32, F32]]
"""From one letterboxed picture (size,size,3) uint8 RGB to boxes (N,4) xyxy in its pixels and scores (N,C) in [0,1]."""
Progress: TypeAlias = Callable[[Sequence[Sample]], Sequence[Sample]]
NMS_IOU = 0.6
LOWEST = 0.01
"""Detections below this score cannot move AP noticeably."""


def suppress(boxes: F32, scores: F32, iou: float = NMS_IOU) -> NDArray[np.intp]:
    """Greedy non-maximum suppression: indices that stay, best first."""
    order = scores.argsort()[::-1]
    areas = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1)
    keep = []
    while len(order):
        best, order = order[0], order[1:]
        keep.append(best)
        overlap = (
            (np.minimum(boxes[best, 2:], boxes[order, 2:]) - np.maximum(boxes[best, :2], boxes[order, :2]))
            .clip(0)
            .prod(axis=1)
        )
        order = order[overlap <= iou * (areas[best] + areas[order] - overlap).clip(1e-6)]
    return np.array(keep, np.intp)


def detect(predict: Predict, image: NDArray[np.uint8], size: int) -> Found:
    """One picture's detections in its own pixels."""
    canvas, ratio = letterbox(image, size)
    boxes, scores = predict(canvas)
    found: list[tuple[F32, F32, NDArray[np.int32]]] = []
    for label in range(scores.shape[1]):
        some = scores[:, label] >= LOWEST
        kept = suppress(boxes[some], scores[some, label])[:100]
        found.append((boxes[some][kept], scores[some, label][kept], np.full(len(kept), label, np.int32)))
    all_boxes, all_scores, all_classes = (np.concatenate(part) for part in zip(*found, strict=True))
    h, w = image.shape[:2]
    limits = np.array([w, h, w, h], np.float32)
    return Found((all_boxes / ratio).clip(0, limits).astype(np.float32), all_scores, all_classes)


def measure(
    predict: Predict, samples: Sequence[Sample], size: int, labels: Sequence[str], rounds: int = 1000
) -> Scores:
    """All figures of ``predict`` on ``samples``."""
    truth, found = [], []
    for sample in samples:
        image = read_image(sample)
        h, w = image.shape[:2]
        scale = np.array([w, h, w, h], np.float32)
        truth.append(Truth(sample.boxes * scale, sample.classes, sample.ignore, (w, h)))
        found.append(detect(predict, image, size))
    return evaluate(truth, found, labels, rounds)
