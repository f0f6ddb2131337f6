"""Greedy non-maximum suppression for each class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_agent.types import F32, I32


def iou_matrix(a: F32, b: F32) -> F32:
    """Intersection over union of every box of ``a`` (N,4) with every box of ``b`` (M,4), xyxy: (N,M) float32."""
    left_top = np.maximum(a[:, None, :2], b[None, :, :2])
    right_bottom = np.minimum(a[:, None, 2:], b[None, :, 2:])
    side = np.maximum(right_bottom - left_top, 0)
    inter = side[..., 0] * side[..., 1]
    area_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    area_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    union = area_a[:, None] + area_b[None, :] - inter
    result: F32 = inter / np.maximum(union, np.float32(1e-9))
    return result


def nms(boxes: F32, scores: F32, classes: I32, iou: float, limit: int) -> NDArray[np.intp]:
    """Indices of the boxes to keep, best score first (ties by index), at most ``limit``.

    A box goes when it overlaps a kept one of its class by more than ``iou``.
    """
    order = np.argsort(-scores, kind="stable")
    # A crowd gives a few hundred candidates; a broken model gives thousands, and the matrix below is quadratic.
    order = order[: max(4 * limit, 64)]
    overlaps = iou_matrix(boxes[order], boxes[order]) > iou
    ranked = classes[order]
    overlaps &= ranked[:, None] == ranked[None, :]
    gone = np.zeros(len(order), bool)
    keep: list[int] = []
    for i in range(len(order)):
        if gone[i]:
            continue
        keep.append(i)
        if len(keep) == limit:
            break
        gone |= overlaps[i]
    return order[keep]
