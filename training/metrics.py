"""Average precision as COCO counts it, with an interval that says what so few images are worth."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = 100
PRECISIONS = (0.5, 0.9)


@dataclass(frozen=True)
class Truth:
    """One image's labels: boxes (N,4) xyxy pixels of the original image, classes (N,), ignore (N,)."""

    boxes: F32
    classes: NDArray[np.int32]
    ignore: NDArray[np.bool_]
    size: tuple[int, int]


@dataclass(frozen=True)
class Found:
    """One image's detections: boxes (N,4) xyxy pixels of the original image, scores (N,), classes (N,)."""

    boxes: F32
    scores: F32
    classes: NDArray[np.int32]


@dataclass(frozen=True)
class Point:
    """Where one can work: with detections from ``score`` on, ``recall`` of the objects are found (IoU 0.5) and at least
    ``precision`` of what is found is right. The lowest such score; recall 0 and score 1 where there is none.
    """

    precision: float
    recall: float
    score: float


@dataclass(frozen=True)
class Scores:
    """Fractions of 1; -1 where there is nothing to count (COCO's convention). ``interval`` is that of ``ap50``, 95 %."""

    images: int
    objects: int
    ap: float
    ap50: float
    ap_small: float
    ap_medium: float
    ap_large: float
    recall: float
    """COCO's average recall: the share found with any score among 100 detections, mean over IoU 0.5 to 0.95."""
    interval: tuple[float, float]
    curve: list[float] = field(default_factory=list)
    """The best precision (IoU 0.5) at this recall or a higher one, for the recalls 0, 0.01, …, 1; mean over the labels."""
    points: tuple[Point, ...] = ()
    """For each of ``PRECISIONS``, all labels together: they share one score threshold in use."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    @property
    def legend(self) -> str:
        """For a plot."""
        return f"AP50 {self.ap50:.3f}"


@dataclass(frozen=True)
class Matches:
    """One image and class at IoU 0.5: ``scores`` and ``hit`` of the detections that count, and how many objects do."""

    scores: F64
    hit: NDArray[np.bool_]
    objects: int


def average_precision(images: Sequence[Matches]) -> tuple[float, F64]:
    """AP by COCO's 101 recalls, and the precision at each. -1 and zeros where there is no object."""
    objects = sum(m.objects for m in images)
    if not objects:
        return -1.0, np.zeros(len(RECALLS))
    scores = np.concatenate([m.scores for m in images])
    hits = np.concatenate([m.hit for m in images])[np.argsort(-scores, kind="mergesort")]
    right = np.cumsum(hits)
    recall, precision = right / objects, right / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALLS, side="left")
    curve = np.append(precision, 0.0)[np.minimum(places, len(precision))]
    return float(curve.mean()), curve


def working_point(images: Sequence[Matches], precision: float) -> Point:
    """The lowest score from which on at least ``precision`` of the detections are right."""
    objects = sum(m.objects for m in images)
    scores = np.concatenate([m.scores for m in images]) if images else np.zeros(0)
    if not objects or not len(scores):
        return Point(precision, 0.0, 1.0)
    order = np.argsort(-scores, kind="mergesort")
    scores, right = scores[order], np.cumsum(np.concatenate([m.hit for m in images])[order])
    # Equal scores come together: a threshold cannot part them.
    last = np.append(scores[1:] < scores[:-1], True)
    good = np.flatnonzero((right >= precision * np.arange(1, len(right) + 1)) & last)
    if not len(good):
        return Point(precision, 0.0, 1.0)
    return Point(precision, round(float(right[good[-1]] / objects), 4), round(float(scores[good[-1]]), 4))


def bootstrap(
    by_class: Sequence[Sequence[Matches]], rounds: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Interval of AP50 when the images are drawn again with replacement (Efron & Tibshirani 1993, ch. 13: percentiles).

    ``by_class[c][i]`` belongs to class c and image i.
    """
    rng = np.random.default_rng(seed)
    count = len(by_class[0])
    values = []
    for _ in range(rounds):
        drawn = rng.integers(0, count, count)
        aps = [average_precision([images[i] for i in drawn])[0] for images in by_class]
        aps = [ap for ap in aps if ap >= 0]
        if aps:
            values.append(float(np.mean(aps)))
    if not values:
        return -1.0, -1.0
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def evaluate(truth: Sequence[Truth], found: Sequence[Found], labels: Sequence[str], rounds: int = 1000) -> Scores:
    """All figures of a data set; ``truth`` and ``found`` go image by image. ``rounds`` 0 leaves the interval out (-1, -1)."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        coco = COCO()
        coco.dataset = _dataset(truth, labels)
        coco.createIndex()
        results = _results(found)
        judge = COCOeval(coco, coco.loadRes(results) if len(results) else _nothing(coco), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    stats = [float(s) for s in judge.stats]
    matches = _matches(judge, len(labels), len(truth))
    curves = [c for ap, c in map(average_precision, matches) if ap >= 0]
    return Scores(
        images=len(truth),
        objects=int(sum((~t.ignore).sum() for t in truth)),
        ap=stats[0],
        ap50=stats[1],
        ap_small=stats[3],
        ap_medium=stats[4],
        ap_large=stats[5],
        recall=stats[8],
        interval=bootstrap(matches, rounds) if rounds else (-1.0, -1.0),
        curve=[round(float(v), 4) for v in np.mean(curves, axis=0)] if curves else [],
        points=tuple(working_point([m for images in matches for m in images], p) for p in PRECISIONS),
    )


def _dataset(truth: Sequence[Truth], labels: Sequence[str]) -> dict[str, object]:
    annotations: list[dict[str, object]] = []
    for i, image in enumerate(truth):
        for box, label, ignore in zip(image.boxes.tolist(), image.classes.tolist(), image.ignore.tolist(), strict=True):
            w, h = box[2] - box[0], box[3] - box[1]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": label,
                    "bbox": [box[0], box[1], w, h],
                    "area": w * h,
                    "iscrowd": int(ignore),
                }
            )
    images = [{"id": i, "width": t.size[0], "height": t.size[1]} for i, t in enumerate(truth)]
    return {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": n} for i, n in enumerate(labels)],
    }


def _results(found: Sequence[Found]) -> F64:
    rows = []
    for i, image in enumerate(found):
        boxes = image.boxes.astype(np.float64)
        head = np.full((len(boxes), 1), float(i))
        rows.append(
            np.hstack((head, boxes[:, :2], boxes[:, 2:] - boxes[:, :2], image.scores[:, None], image.classes[:, None]))
        )
    return np.concatenate(rows) if rows else np.zeros((0, 7))


def _nothing(coco: object) -> object:
    from pycocotools.coco import COCO

    empty = COCO()
    empty.dataset = {**coco.dataset, "annotations": []}  # type: ignore[attr-defined]
    empty.createIndex()
    return empty


def _matches(judge: object, classes: int, images: int) -> list[list[Matches]]:
    """What COCOeval decided at IoU 0.5 over all areas with up to 100 detections: its order is class, area, image."""
    records, areas = judge.evalImgs, len(judge.params.areaRng)  # type: ignore[attr-defined]
    out = []
    for c in range(classes):
        row = []
        for record in records[c * areas * images : c * areas * images + images]:
            if record is None:
                row.append(Matches(np.zeros(0), np.zeros(0, bool), 0))
                continue
            counts = ~np.asarray(record["dtIgnore"][0], bool)
            row.append(
                Matches(
                    np.asarray(record["dtScores"], np.float64)[counts],
                    np.asarray(record["dtMatches"][0])[counts] > 0,
                    int((np.asarray(record["gtIgnore"]) == 0).sum()),
                )
            )
        out.append(row)
    return out
