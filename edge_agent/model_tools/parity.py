"""``model parity``: do two networks, or one on two backends, give the same boxes on the same pictures."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from edge_agent.config import DetectConfig
from edge_agent.detect.backends import BACKENDS, LoadRequest
from edge_agent.detect.detector import ModelDetector
from edge_agent.detect.manifest import Network, refuse_classifier
from edge_agent.errors import HardwareError, UsageError
from edge_agent.model_tools.compile import ensure_engine
from edge_agent.model_tools.matching import Truth, classes_of, match, mean_average_precision
from edge_agent.types import U8, Detections, Frame

Kind = Literal["fp32", "fp16", "int8"]
MIN_IOU = 0.95
MAP_POINTS = {"fp16": 1.0, "int8": 3.0}
SCORE = 0.25
"""Boxes from this score on are what a model has seen; what B must find, and what counts as true without labels."""
MARGIN = 0.05
"""A box nearer than this to SCORE may be on the other side of it in the other model."""
PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
MAX_TRUTH_BYTES = 512 << 20
_ORDER: tuple[Kind, ...] = ("fp32", "fp16", "int8")


class Detector(Protocol):
    """What is compared."""

    def detect(self, frame: Frame) -> Detections:
        """Boxes in source pixels, best score first."""


@dataclass(frozen=True, slots=True)
class Report:
    """The comparison. ``passed`` by ``criterion``; ``why`` says it in a sentence."""

    pictures: int
    boxes: tuple[int, int]
    matched: int
    missing: int
    """Sure boxes of one (above SCORE + MARGIN) that the other does not have with IoU >= 0.95."""
    min_iou: float | None
    mean_iou: float | None
    max_score_difference: float | None
    map_a: float | None
    """COCO mAP in points against the labels; None without."""
    map_b: float | None
    """Against the labels; without labels AP at IoU 0.5 with A's boxes as truth."""
    map_change: float | None
    criterion: Kind
    passed: bool
    why: str
    worst: str
    ms: tuple[float, float]
    """Median milliseconds of one picture, all from picture to boxes."""


@dataclass(slots=True)
class _Sums:
    boxes: list[int] = field(default_factory=lambda: [0, 0])
    ious: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    missing: int = 0
    worst: tuple[float, str] = (2.0, "")
    found: tuple[list[Detections], list[Detections]] = field(default_factory=lambda: ([], []))
    ms: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))


def compare(  # noqa: PLR0917
    a: Detector,
    b: Detector,
    pictures: Iterator[tuple[str, U8]],
    criterion: Kind,
    truths: dict[str, Truth] | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Report:
    """Run both on every picture. Raises UsageError where there is no picture; InferenceError as the detectors."""
    sums = _Sums()
    names: list[str] = []
    for number, (name, picture) in enumerate(pictures):
        frame = Frame("parity", number, 0.0, 0.0, picture)
        for side, detector in enumerate((a, b)):
            started = time.perf_counter()
            sums.found[side].append(detector.detect(frame))
            sums.ms[side].append(1000 * (time.perf_counter() - started))
        _pair(sums, name, sums.found[0][-1], sums.found[1][-1])
        names.append(name)
        progress()
    if not names:
        raise UsageError("--images: no picture in it that OpenCV can read")
    return _judge(sums, names, criterion, truths)


def _pair(sums: _Sums, name: str, a: Detections, b: Detections) -> None:
    pairs = [(i, j, overlap) for i, j, overlap in match(a, b) if max(a.scores[i], b.scores[j]) >= SCORE]
    sums.boxes[0] += int((a.scores >= SCORE).sum())
    sums.boxes[1] += int((b.scores >= SCORE).sum())
    sums.ious += [overlap for _, _, overlap in pairs]
    sums.scores += [abs(float(a.scores[i] - b.scores[j])) for i, j, _ in pairs]
    missing = 0
    for side, seen in ((0, a), (1, b)):
        good = {pair[side] for pair in pairs if pair[2] >= MIN_IOU}
        missing += sum(1 for i in np.flatnonzero(seen.scores >= SCORE + MARGIN) if int(i) not in good)
    sums.missing += missing
    worst = 1.0 - missing if missing else min((overlap for _, _, overlap in pairs), default=1.0)
    if worst < sums.worst[0]:
        sums.worst = (worst, name)


def _judge(sums: _Sums, names: Sequence[str], criterion: Kind, truths: dict[str, Truth] | None) -> Report:
    map_a, map_b, change = _precision(sums, names, truths)
    if criterion == "fp32":
        passed = sums.missing == 0
        why = (
            f"{sums.missing} sure boxes have no partner with IoU >= {MIN_IOU}"
            if sums.missing
            else "every sure box matches"
        )
    else:
        limit = MAP_POINTS[criterion]
        passed = change is not None and change <= limit
        why = (
            f"mAP changes by {change:.2f} points, allowed are {limit:g}" if change is not None else "no box to compare"
        )
    if not any(sums.boxes):
        passed, why = False, f"neither sees anything from score {SCORE} on: other pictures are needed"
    ious, scores = np.array(sums.ious), np.array(sums.scores)
    return Report(
        pictures=len(names),
        boxes=(sums.boxes[0], sums.boxes[1]),
        matched=int((ious >= MIN_IOU).sum()),
        missing=sums.missing,
        min_iou=round(float(ious.min()), 5) if len(ious) else None,
        mean_iou=round(float(ious.mean()), 5) if len(ious) else None,
        max_score_difference=round(float(scores.max()), 5) if len(scores) else None,
        map_a=map_a,
        map_b=map_b,
        map_change=None if change is None else round(change, 3),
        criterion=criterion,
        passed=passed,
        why=why,
        worst=sums.worst[1],
        ms=(round(float(np.median(sums.ms[0])), 2), round(float(np.median(sums.ms[1])), 2)),
    )


def _precision(
    sums: _Sums, names: Sequence[str], truths: dict[str, Truth] | None
) -> tuple[float | None, float | None, float | None]:
    found_a, found_b = sums.found
    if truths is not None:
        known = [truths.get(name) or Truth(np.zeros((0, 4), np.float32), ()) for name in names]
        a, b = mean_average_precision(known, found_a), mean_average_precision(known, found_b)
        if a is None or b is None:
            raise UsageError("--labels: none of the pictures has boxes in that file")
        return round(a.ap, 3), round(b.ap, 3), a.ap - b.ap
    sure = [d.select(d.scores >= SCORE) for d in found_a]
    mine = [Truth(d.boxes, classes_of(d)) for d in sure]
    b = mean_average_precision(mine, found_b)
    return (None, None, None) if b is None else (None, round(b.ap50, 3), 100 - b.ap50)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: a network, what runs it, and where that may keep what it builds."""

    network: Network
    backend: str
    cache: Path

    def load(self, config: DetectConfig) -> ModelDetector:
        """Raises ModelError, HardwareError."""
        if self.backend not in BACKENDS:
            raise HardwareError(f"this version has no backend {self.backend}")
        refuse_classifier(self.network.manifest)
        request = LoadRequest(self.network, config, self.cache)
        if self.backend == "tensorrt":
            ensure_engine(request)
        return ModelDetector(self.backend, request)

    def kind(self, config: DetectConfig) -> Kind:
        """What it calculates in: an engine in what the configuration says, others in what the file is made for."""
        return config.tensorrt.precision if self.backend == "tensorrt" else self.network.file.precision


@contextlib.contextmanager
def open_pair(a: Side, b: Side, config: DetectConfig) -> Iterator[tuple[ModelDetector, ModelDetector, Kind]]:
    """Both loaded, and the criterion that fits them: by the less precise of the two. Raises ModelError, HardwareError."""
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(contextlib.closing(side.load(config))) for side in (a, b))
        yield first, second, max(a.kind(config), b.kind(config), key=_ORDER.index)


# ---- pictures and labels


def count_pictures(source: Path, limit: int) -> int:
    """How many ``pictures`` will give, at most."""
    import cv2

    if source.is_dir():
        return min(limit, sum(1 for p in source.iterdir() if p.suffix.lower() in PICTURES))
    capture = cv2.VideoCapture(str(source))
    frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    return min(limit, max(frames, 1))


def read_pictures(source: Path, limit: int) -> Iterator[tuple[str, U8]]:
    """(name, (H,W,3) uint8 BGR): a folder's pictures or a video's frames, at most ``limit``, spread evenly. Raises UsageError."""
    import cv2

    if source.is_dir():
        paths = sorted(p for p in source.iterdir() if p.suffix.lower() in PICTURES)
        for path in _spread(paths, limit):
            picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if picture is not None:
                yield path.name, np.asarray(picture, np.uint8)
        return
    capture = cv2.VideoCapture(str(source)) if source.is_file() else None
    if capture is None or not capture.isOpened():
        raise UsageError(f"--images {source}: no folder, and no video that OpenCV can read")
    try:
        total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        wanted = set(_spread(range(total), limit)) if total > 0 else set(range(limit))
        for number in range(max(wanted, default=-1) + 1):
            if not capture.grab():
                return
            if number in wanted:
                whole, picture = capture.retrieve()
                if whole:
                    yield f"frame {number}", np.asarray(picture, np.uint8)
    finally:
        capture.release()


def _spread(items: Sequence[Any], limit: int) -> list[Any]:
    if len(items) <= limit:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, limit).round().astype(int)]


def read_truth(path: Path) -> dict[str, Truth]:
    """Boxes by file name from a COCO annotation file; crowds are left out. Raises UsageError."""
    try:
        if path.stat().st_size > MAX_TRUTH_BYTES:
            raise UsageError(f"--labels {path}: larger than {MAX_TRUTH_BYTES >> 20} MiB")
        data = json.loads(path.read_bytes())
        names = {image["id"]: str(image["file_name"]) for image in data["images"]}
        labels = {category["id"]: str(category["name"]) for category in data["categories"]}
        boxes: dict[str, list[tuple[list[float], str]]] = {name: [] for name in names.values()}
        for note in data["annotations"]:
            if not note.get("iscrowd"):
                x, y, w, h = map(float, note["bbox"])
                boxes[names[note["image_id"]]].append(([x, y, x + w, y + h], labels[note["category_id"]]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"--labels {path}: no COCO annotation file: {type(error).__name__}: {error}") from error
    return {
        name: Truth(np.array([b for b, _ in rows], np.float32).reshape(-1, 4), tuple(label for _, label in rows))
        for name, rows in boxes.items()
    }
