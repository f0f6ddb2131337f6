"""A second model that looks at a small share of the frames beside the one at work, to be compared with it and for nothing else."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeAlias, TypeVar

import numpy as np

from edge_agent.config import TrackConfig
from edge_agent.errors import EdgeAgentError, HardwareError, InferenceError
from edge_agent.model_tools.matching import match
from edge_agent.ota.probation import Agreement
from edge_agent.types import Detections, Frame, ModelTag

log = logging.getLogger(__name__)

NICENESS = 10
SAME = 0.5
"""IoU from which two boxes are one thing."""
MEMORY = 400
"""Boxes after which what was before counts half: an agreement is of the present."""
_JOIN_S = 1.0
Told: TypeAlias = Callable[[Frame, Detections, Detections | EdgeAgentError, float], None]
"""A frame, what the model at work found in it, and the other one, or why it did not; and how many seconds that took."""


class Other(Protocol):
    """The second model: a detector in this process or apart from it."""

    tag: ModelTag
    backend_name: str

    def detect(self, frame: Frame) -> Detections:
        """See ``pipeline.Detector``. Raises InferenceError; HardwareError where no further frame is of use."""

    def close(self) -> None:
        """Release it. Raises HardwareError."""


AnyOther = TypeVar("AnyOther", bound=Other)


@dataclass(slots=True)
class _Sums:
    frames: int = 0
    boxes: float = 0.0
    matched: float = 0.0


class Beside(Generic[AnyOther]):
    """``offer`` is ``ServingDetector.observer``; a thread of low priority does the work, one frame at a time and never a backlog.

    Agreement is the F1 of boxes: a box with a high score (``track.high_score``) of either model agrees where the other has one of the
    same label there, at least with a low score. Labels that only one of them knows do not count. Owns ``detector``. ``tell`` is
    told of each frame by that thread.
    """

    def __init__(self, detector: AnyOther, share: float, config: TrackConfig, tell: Told | None = None) -> None:
        self._detector, self._share, self._config, self._tell = detector, share, config, tell
        self._lock, self._news = threading.Lock(), threading.Event()
        self._owed = 0.0
        self._waiting: tuple[Frame, Detections] | None = None
        self._sums, self._ended = _Sums(), False
        self._thread = threading.Thread(target=self._work, name="beside", daemon=True)
        self._thread.start()

    @property
    def agreement(self) -> Agreement:
        """So far; any thread."""
        sums = self._sums
        share = sums.matched / sums.boxes if sums.boxes else None
        return Agreement(self._detector.tag.label, sums.frames, sums.boxes, share)

    def offer(self, frame: Frame, found: Detections) -> None:
        """Take the frame, if it is time for one and none is being worked on."""
        with self._lock:
            self._owed = min(1.0, self._owed + self._share)
            if self._owed < 1.0 or self._waiting is not None:
                return
            self._owed, self._waiting = self._owed - 1.0, (frame, found)
        self._news.set()

    def end(self) -> AnyOther:
        """Look at no more frames; the detector, which is the caller's then. One frame may still be inside."""
        self._ended = True
        self._news.set()
        return self._detector

    def close(self) -> None:
        """Look at no more frames and release the detector; not one whose frame does not come out."""
        self.end()
        self._thread.join(_JOIN_S)
        if self._thread.is_alive():
            log.warning("%s: a frame is still inside, it is not released", self._detector.tag.label)
            return
        try:
            self._detector.close()
        except HardwareError as error:
            log.warning("%s: it cannot be released: %s", self._detector.backend_name, error)

    def _work(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while True:
            self._news.wait()
            self._news.clear()
            if self._ended:
                return
            if (waiting := self._waiting) is not None:
                self._look(*waiting)
                self._waiting = None

    def _look(self, frame: Frame, found: Detections) -> None:
        began = time.monotonic()
        try:
            other = self._detector.detect(frame)
        except (InferenceError, HardwareError) as error:
            log.debug("%s beside the model at work: %s", self._detector.tag.label, error)
            if self._tell is not None:
                self._tell(frame, found, error, time.monotonic() - began)
            return
        if self._tell is not None:
            self._tell(frame, found, other, time.monotonic() - began)
        boxes, matched = compare(found, other, self._config)
        before = self._sums
        keep = 0.5 if before.boxes > MEMORY else 1.0
        self._sums = _Sums(before.frames + 1, keep * before.boxes + boxes, keep * before.matched + matched)


@dataclass(slots=True)
class OfLabel:
    """Boxes of one label: how many each model is sure of, and how many of both are to be found in the other."""

    first: int = 0
    second: int = 0
    matched: int = 0


@dataclass(slots=True)
class Compared:
    """What two models see in one frame, see ``Beside``; ``scores``: second less first, of each pair of which one is sure."""

    labels: dict[str, OfLabel] = field(default_factory=dict)
    scores: list[float] = field(default_factory=list)


def compare_boxes(a: Detections, b: Detections, config: TrackConfig) -> Compared:
    """All labels, also those that only one of them knows."""
    a, b = (d.select(d.scores >= config.low_score) for d in (a, b))
    sure_a, sure_b = a.scores >= config.high_score, b.scores >= config.high_score
    result = Compared()

    def of(detections: Detections, row: int) -> OfLabel:
        return result.labels.setdefault(detections.labels[detections.classes[row]], OfLabel())

    for row in np.flatnonzero(sure_a).tolist():
        of(a, row).first += 1
    for row in np.flatnonzero(sure_b).tolist():
        of(b, row).second += 1
    for i, j in same_boxes(a, b):
        if sure := int(sure_a[i]) + int(sure_b[j]):
            of(a, i).matched += sure
            result.scores.append(float(b.scores[j]) - float(a.scores[i]))
    return result


def same_boxes(a: Detections, b: Detections) -> list[tuple[int, int]]:
    """Rows of both that are one thing."""
    return [(i, j) for i, j, iou in match(a, b) if iou >= SAME]


def compare(a: Detections, b: Detections, config: TrackConfig) -> tuple[int, int]:
    """How many boxes of either are to be found in the other, and how many are; of the labels that both know."""
    found = [of for label, of in compare_boxes(a, b, config).labels.items() if label in a.labels and label in b.labels]
    return sum(of.first + of.second for of in found), sum(of.matched for of in found)
