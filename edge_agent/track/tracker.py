"""Multi-object tracking of one camera."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_agent.config import TrackConfig
from edge_agent.track.association import assign, forbid_other_classes, mahalanobis, overlaps
from edge_agent.track.kalman import BoxFilters, Noise, Rows, to_axes, to_boxes
from edge_agent.types import F32, F64, I32, I64, Bools, Detections, Tracks

GATE = 16.0
GATE_LOW = 9.0
CONFIRM_HITS = 2
TENTATIVE_S = 0.25
INSIDE = 0.7
PATIENCE_S = 1.5


class MultiObjectTracker:
    """Class-aware tracker."""

    def __init__(self, config: TrackConfig | None = None, noise: Noise | None = None) -> None:
        self._config = config or TrackConfig()
        self._filters = BoxFilters(noise)
        self._ids: I64 = np.empty(0, np.int64)
        self._classes: I32 = np.empty(0, np.int32)
        self._scores: F32 = np.empty(0, np.float32)
        self._hits: I64 = np.empty(0, np.int64)
        self._born: F64 = np.empty(0)
        self._seen: F64 = np.empty(0)
        self._next_id = 1
        self._t: float | None = None
        self._missed_steps: I64 = np.empty(0, np.int64)

    def update(self, detections: Detections, t: float) -> Tracks:
        """See ``pipeline.Tracker``."""
        t = t if self._t is None else max(t, self._t)
        self._filters.predict(0.0 if self._t is None else t - self._t)
        self._t = t
        usable = np.flatnonzero(detections.scores >= self._config.low_score)
        scores, classes = detections.scores[usable], detections.classes[usable]
        boxes = detections.boxes[usable].astype(np.float64)
        measured = to_axes(boxes)
        high = scores >= self._config.high_score
        rows, columns = self._associate(measured, boxes, classes, high)
        self._filters.update(rows, measured[columns])
        self._seen[rows] = t
        self._scores[rows] = scores[columns]
        self._hits[rows] += high[columns]
        free = high.copy()
        free[columns] = False
        self._confirm(rows, t)
        born = np.flatnonzero(free)
        if len(born):
            self._append(measured[born], scores[born], classes[born], t)
        self._drop(t)
        return self._report(t, detections.labels)

    def _associate(self, measured: F64, boxes: F64, classes: I32, high: Bools) -> tuple[Rows, Rows]:
        if not len(self._ids) or not len(measured):
            none = np.empty(0, np.intp)
            return none, none
        cost = self._cost(measured, boxes)
        forbid_other_classes(cost, self._classes, classes)
        strong, weak = np.flatnonzero(high), np.flatnonzero(~high)
        rows, columns = assign(cost[:, strong], GATE)
        columns = strong[columns]
        left = self._ids > 0
        left[rows] = False
        rest = np.flatnonzero(left)
        if len(rest) and len(weak):
            rows2, columns2 = assign(cost[np.ix_(rest, weak)], GATE_LOW)
            rows, columns = np.concatenate([rows, rest[rows2]]), np.concatenate([columns, weak[columns2]])
        return rows, columns

    def _cost(self, measured: F64, boxes: F64) -> F64:
        return mahalanobis(self._filters.mean, self._filters.spread(), measured)

    def _confirm(self, rows: Rows, t: float) -> None:
        ready = rows[(self._ids[rows] == 0) & (self._hits[rows] >= CONFIRM_HITS)]
        if not len(ready):
            return
        others = np.flatnonzero((self._ids > 0) & (self._seen == t))
        if len(others):
            shapes = to_boxes(self._filters.mean)
            inside = overlaps(shapes[ready], shapes[others])[1]
            inside[self._classes[ready][:, None] != self._classes[others]] = 0
            doubt = inside.max(axis=1) > INSIDE
            doubt &= t - self._born[ready] < PATIENCE_S
            ready = ready[~doubt]
        self._ids[ready] = np.arange(self._next_id, self._next_id + len(ready))
        self._next_id += len(ready)

    def _append(self, measured: F64, scores: F32, classes: I32, t: float) -> None:
        n = len(measured)
        self._filters.append(measured)
        self._ids = np.concatenate([self._ids, np.zeros(n, np.int64)])
        self._classes = np.concatenate([self._classes, classes])
        self._scores = np.concatenate([self._scores, scores])
        self._hits = np.concatenate([self._hits, np.ones(n, np.int64)])
        self._born = np.concatenate([self._born, np.full(n, t)])
        self._seen = np.concatenate([self._seen, np.full(n, t)])

    def _drop(self, t: float) -> None:
        limit = np.where(self._ids > 0, self._config.max_lost_s, TENTATIVE_S)
        keep = t - self._seen <= limit
        if keep.all():
            return
        self._filters.keep(keep)
        for name in ("_ids", "_classes", "_scores", "_hits", "_born", "_seen"):
            setattr(self, name, getattr(self, name)[keep])

    def _report(self, t: float, labels: tuple[str, ...]) -> Tracks:
        unseen = t - self._seen
        rows = np.flatnonzero((self._ids > 0) & (unseen <= self._config.max_predicted_s))
        rows = rows[np.argsort(self._ids[rows])]
        return Tracks(
            self._ids[rows],
            to_boxes(self._filters.mean[rows]).astype(np.float32),
            self._scores[rows],
            self._classes[rows],
            unseen[rows] > 0,
            labels,
        )
