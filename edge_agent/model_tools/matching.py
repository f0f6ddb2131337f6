"""Whether two sets of boxes are the same, and how good one is by the other: matching and average precision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from edge_agent.types import F32, F64, I32, Bools, Detections

IOU_STEPS = np.linspace(0.5, 0.95, 10)
"""COCO's thresholds (cocodataset.org, detection evaluation)."""
RECALLS = np.linspace(0, 1, 101)
PER_PICTURE = 100
"""Best boxes of a picture that count, as in COCO."""


def iou(a: F32, b: F32) -> F64:
    """Intersection over union (N,M) of boxes (N,4) and (M,4), xyxy; 0 where both have no area."""
    low = np.maximum(a[:, None, :2], b[None, :, :2]).astype(np.float64)
    high = np.minimum(a[:, None, 2:], b[None, :, 2:]).astype(np.float64)
    common = np.clip(high - low, 0, None).prod(axis=2)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).astype(np.float64).prod(axis=1) for x in (a, b))
    union = area_a[:, None] + area_b[None, :] - common
    result: F64 = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return result


def match(a: Detections, b: Detections) -> list[tuple[int, int, float]]:
    """Greedy one-to-one pairs (index in a, index in b, IoU) of equal labels, the best overlap first; no pair without overlap."""
    table = iou(a.boxes, b.boxes)
    names_a, names_b = (np.array([d.labels[c] for c in d.classes], dtype=object) for d in (a, b))
    if len(a) and len(b):
        table[names_a[:, None] != names_b[None, :]] = 0
    pairs = []
    order = np.dstack(np.unravel_index(np.argsort(-table, axis=None, kind="stable"), table.shape))[0]
    free_a, free_b = np.ones(len(a), bool), np.ones(len(b), bool)
    for i, j in order:
        if table[i, j] <= 0:
            break
        if free_a[i] and free_b[j]:
            free_a[i] = free_b[j] = False
            pairs.append((int(i), int(j), float(table[i, j])))
    return pairs


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What is really in a picture: boxes (N,4) xyxy in its pixels, and their labels."""

    boxes: F32
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Precision:
    """Mean average precision over labels, in points (0 to 100): over IoU 0.5 to 0.95, and at 0.5."""

    ap: float
    ap50: float


def mean_average_precision(truths: Sequence[Truth], found: Sequence[Detections]) -> Precision | None:
    """COCO's measure without its crowds and size classes; None where there is nothing to find. One entry for each picture."""
    labels = sorted({label for truth in truths for label in truth.labels})
    if not labels:
        return None
    table = np.array([_average_precision(_of_label(label, truths, found)) for label in labels])
    return Precision(100 * float(table.mean()), 100 * float(table[:, 0].mean()))


def _of_label(label: str, truths: Sequence[Truth], found: Sequence[Detections]) -> Iterable[tuple[F32, F32, F32]]:
    """For each picture: true boxes, found boxes, scores; of one label."""
    for truth, seen in zip(truths, found, strict=True):
        mine = np.array([name == label for name in truth.labels], bool)
        number = seen.labels.index(label) if label in seen.labels else -1
        chosen = np.flatnonzero(seen.classes == number)
        chosen = chosen[np.argsort(-seen.scores[chosen], kind="stable")][:PER_PICTURE]
        yield truth.boxes[mine], seen.boxes[chosen], seen.scores[chosen]


def _average_precision(pictures: Iterable[tuple[F32, F32, F32]]) -> F64:
    """At each of IOU_STEPS."""
    hits: list[Bools] = []
    scores: list[F32] = []
    total = 0
    for truth, boxes, score in pictures:
        total += len(truth)
        hits.append(_hits(iou(boxes, truth)))
        scores.append(score)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    right = np.concatenate(hits, axis=1)[:, order].cumsum(axis=1)
    precision = right / np.arange(1, right.shape[1] + 1)
    # The best precision at this recall or a higher one, read off at 101 recalls.
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    result = np.zeros(len(IOU_STEPS))
    for step in range(len(IOU_STEPS)):
        places = np.searchsorted(right[step] / total, RECALLS, side="left")
        reached = places[places < right.shape[1]]
        result[step] = envelope[step, reached].sum() / len(RECALLS)
    return result


def _hits(table: F64) -> Bools:
    """(steps, boxes): whether a box, taken in order, gets a true box of its own with at least the step's IoU."""
    boxes, truths = table.shape
    hits = np.zeros((len(IOU_STEPS), boxes), bool)
    for step, threshold in enumerate(IOU_STEPS):
        free = np.ones(truths, bool)
        for box in range(boxes):
            open_ = np.where(free, table[box], -1.0)
            if truths and open_.max() >= threshold:
                free[open_.argmax()] = False
                hits[step, box] = True
    return hits


def classes_of(detections: Detections) -> tuple[str, ...]:
    """The label of each box."""
    numbers: I32 = detections.classes
    return tuple(detections.labels[number] for number in numbers)
