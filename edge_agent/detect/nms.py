"""Greedy non-maximum suppression for each class, by OpenCV."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_agent.types import F32, I32

CANDIDATES = 2000
"""Best boxes looked at: a crowd gives some hundreds, only a broken model gives more, and the work is quadratic."""
APART = 1 << 16
"""Pixels between the classes: boxes of different classes are shifted so far that they cannot overlap."""


def nms(boxes: F32, scores: F32, classes: I32, iou: float, limit: int) -> NDArray[np.intp]:
    """Indices of the boxes (N,4 xyxy) to keep, best score first (ties by index), at most ``limit``.

    A box goes when it overlaps a kept one of its class by more than ``iou``, or is not finite (a network that overflows).
    """
    import cv2

    if not len(boxes):
        return np.zeros(0, np.intp)
    if not np.isfinite(boxes).all():
        # One such box would spoil the track it meets for good.
        finite = np.flatnonzero(np.isfinite(boxes).all(axis=1))
        return finite[nms(boxes[finite], scores[finite], classes[finite], iou, limit)]
    rects = boxes.astype(np.float64)
    rects[:, 2:] -= rects[:, :2]
    rects[:, :2] += classes[:, None] * APART
    # Lists: the binding takes an array's rows for objects and is slower on them.
    keep = cv2.dnn.NMSBoxes(rects.tolist(), scores.tolist(), 0.0, iou, 1.0, CANDIDATES)
    return np.asarray(keep, np.intp).ravel()[:limit]


def best(boxes: F32, scores: F32, limit: int) -> NDArray[np.intp]:
    """Indices of the finite boxes, best score first (ties by index), at most ``limit``: for a network that suppressed itself."""
    finite = np.flatnonzero(np.isfinite(boxes).all(axis=1))
    return finite[np.argsort(-scores[finite], kind="stable")[:limit]]
