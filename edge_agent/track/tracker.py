"""Multi-object tracking of one camera.

The scheme is ByteTrack's (Zhang et al., ECCV 2022): boxes with high scores are matched first and may begin tracks,
boxes with low scores then keep known tracks alive. Costs are likelihoods of batched Kalman filters (``association``,
``kalman``), so that everything is in real time and in body heights: neither the frame rate nor the distance from the
camera has a parameter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.config import TrackConfig
from edge_agent.track.association import FORBIDDEN, NONE, assign, overlaps, surprise
from edge_agent.track.kalman import BoxFilters, Noise, Rows, to_axes, to_boxes
from edge_agent.types import F32, F64, I32, Bools, Detections, Tracks

GATE = 18.0
"""Greatest surprise (twice a negative log-likelihood ratio) at which a box with a high score is a track's."""
GATE_LOW = 9.0
"""… with a low score: there is much false among those, so only what fits well."""
NEWCOMER = 4.0
"""Handicap of a track that is not confirmed against one that is, for the same box."""
RESCUE_IOU = 0.3
"""A box that would begin a track but overlaps this much with a known, unmatched one is that one: it changed its shape."""
CONFIDENT = 0.7
"""Below this score a box's standard deviations grow as 1/score."""
CONFIRM_SCORES = 1.0
"""A second box with a high score confirms a track, once the scores add up to this."""
TENTATIVE_S = 0.4
"""A track that is not confirmed ends when unseen for longer than this and for more than one frame."""
FAINT = 1.5
"""A track with low scores only ends after this many ``max_lost_s``: something else may lie there and look like a person."""
INSIDE = 0.5
"""A newcomer sharing more than this of the smaller box with a known person may be a double box …"""
DOUBLE_S = 1.5
"""… and is believed when it has lasted for this long: detectors' double boxes do not."""

_ROW = np.dtype(
    {
        "names": ["id", "label", "score", "scores", "born", "seen", "sure", "missed", "box"],
        "formats": ["i8", "i4", "f4", "f4", "f8", "f8", "f8", "i4", "(4,)f4"],
    }
)
"""What is known of a track beside its filter: id (0 until confirmed), class, last score; sum of high scores; times of
the first box, the last box and the last high score; frames without a box since; that box as it was detected."""


class MultiObjectTracker:
    """Implements ``pipeline.Tracker``. One for each camera; ids begin at 1 and are unique within the instance.

    A class-aware tracker: a track keeps the class of its first box and takes no other. Boxes are reported filtered.
    Time must not go back; a ``t`` below the last is taken as the last. Not thread-safe.
    """

    def __init__(self, config: TrackConfig | None = None, noise: Noise | None = None) -> None:
        self._config = config or TrackConfig()
        self._filters = BoxFilters(noise)
        self._rows: NDArray[Any] = np.zeros(0, _ROW)
        self._next_id = 1
        self._t = -np.inf
        self._labels: tuple[str, ...] = ()

    def update(self, detections: Detections, t: float) -> Tracks:
        """Advance to ``t`` (seconds) with that frame's detections and report the confirmed tracks, ordered by id."""
        t = max(t, self._t)
        if self._t > -np.inf:
            self._filters.predict(t - self._t)
        self._t = t
        if detections.labels != self._labels:
            self._relabel(detections.labels)
        self._forget()
        usable = np.flatnonzero(detections.scores >= self._config.low_score)
        labels, scores, boxes = detections.classes[usable], detections.scores[usable], detections.boxes[usable]
        measured = to_axes(boxes)
        high = scores >= self._config.high_score
        doubt = np.square(CONFIDENT / np.clip(scores, 0.05, CONFIDENT).astype(np.float64))[:, None]

        rows, columns = self._associate(measured, labels, doubt, high)
        self._filters.update(rows, measured[columns], doubt[columns])
        self._record(rows, scores[columns], high[columns], boxes[columns])
        self._confirm(rows)
        high[columns] = False
        self._begin(measured[high], labels[high], scores[high], boxes[high])
        return self._report(detections.labels)

    def _relabel(self, labels: tuple[str, ...]) -> None:
        """Another model, which numbers its classes otherwise, goes on: so do the tracks of what it knows too."""
        number = {label: n for n, label in enumerate(labels)}
        table = np.array([number.get(label, -1) for label in self._labels] or [-1], np.int32)
        self._labels = labels
        self._rows["label"] = table[self._rows["label"]]
        if not (keep := self._rows["label"] >= 0).all():
            self._rows = self._rows[keep]
            self._filters.keep(keep)

    def _forget(self) -> None:
        """End what has gone unseen, or was seen only faintly, for too long."""
        unseen, patience = self._t - self._rows["seen"], self._config.max_lost_s
        keep = (unseen <= patience) & (self._t - self._rows["sure"] <= FAINT * patience)
        keep &= (self._rows["id"] > 0) | (unseen <= TENTATIVE_S) | (self._rows["missed"] <= 1)
        if not keep.all():
            self._rows = self._rows[keep]
            self._filters.keep(keep)

    def _associate(self, measured: F64, labels: I32, doubt: F64, high: Bools) -> tuple[Rows, Rows]:
        """Rows of tracks and the detections (columns) they get: high scores by likelihood, by overlap, then low scores."""
        if not len(self._rows) or not len(measured):
            return NONE, NONE
        filters, known, high, weak = self._filters, self._rows["id"] > 0, high.copy(), np.flatnonzero(~high)
        cost = surprise(filters.mean, filters.var[0], filters.fresh(), measured, doubt)
        cost += NEWCOMER * ~known[:, None]
        other = self._rows["label"][:, None] != labels
        cost[other] = FORBIDDEN
        every, strong = np.arange(len(known)), np.flatnonzero(high)
        first = _choose(cost, every, strong, GATE)
        known[first[0]] = high[first[1]] = False

        rest, strong = np.flatnonzero(known), np.flatnonzero(high)
        if len(rest) and len(strong):
            apart = np.full_like(cost, FORBIDDEN)
            apart[np.ix_(rest, strong)] = 1 - overlaps(to_boxes(filters.mean[rest]), to_boxes(measured[strong]))[0]
            apart[other] = FORBIDDEN
            second = _choose(apart, rest, strong, 1 - RESCUE_IOU)
        else:
            second = NONE, NONE
        known[second[0]] = False
        third = _choose(cost, np.flatnonzero(known), weak, GATE_LOW)
        return np.concatenate([first[0], second[0], third[0]]), np.concatenate([first[1], second[1], third[1]])

    def _record(self, rows: Rows, scores: F32, high: Bools, boxes: F32) -> None:
        self._rows["missed"] += 1
        self._rows["missed"][rows] = 0
        self._rows["seen"][rows] = self._t
        self._rows["score"][rows] = scores
        self._rows["box"][rows] = boxes
        self._rows["sure"][rows[high]] = self._t
        self._rows["scores"][rows] += scores * high

    def _confirm(self, rows: Rows) -> None:
        """Give ids to those of ``rows`` with enough evidence that do not look like somebody's double box."""
        if self._rows["id"].all():
            return
        rows = rows[(self._rows["id"][rows] == 0) & (self._rows["scores"][rows] >= CONFIRM_SCORES)]
        if not len(rows):
            return
        others = np.flatnonzero((self._rows["id"] > 0) & (self._rows["missed"] == 0))
        shapes = to_boxes(self._filters.mean)
        inside = overlaps(shapes[rows], shapes[others])[1] > INSIDE
        inside &= self._rows["label"][rows, None] == self._rows["label"][others]
        rows = np.sort(rows[~inside.any(axis=1) | (self._t - self._rows["born"][rows] >= DOUBLE_S)])
        self._rows["id"][rows] = np.arange(self._next_id, self._next_id + len(rows))
        self._next_id += len(rows)

    def _begin(self, measured: F64, labels: I32, scores: F32, boxes: F32) -> None:
        if not len(measured):
            return
        new = np.zeros(len(measured), _ROW)
        new["label"], new["score"], new["scores"], new["box"] = labels, scores, scores, boxes
        new["born"] = new["seen"] = new["sure"] = self._t
        self._rows = np.concatenate([self._rows, new])
        self._filters.append(measured)

    def _report(self, labels: tuple[str, ...]) -> Tracks:
        unseen = self._t - self._rows["seen"]
        shown = np.flatnonzero((self._rows["id"] > 0) & (unseen <= self._config.max_predicted_s))
        shown = shown[np.argsort(self._rows["id"][shown])]
        rows = self._rows[shown]
        return Tracks(
            ids=rows["id"].copy(),
            boxes=to_boxes(self._filters.mean[shown]).astype(np.float32),
            scores=rows["score"].copy(),
            classes=rows["label"].copy(),
            predicted=rows["missed"] > 0,
            labels=labels,
            measured=rows["box"].copy(),
        )


def _choose(cost: F64, rows: Rows, columns: Rows, limit: float) -> tuple[Rows, Rows]:
    """The assignment within a part of ``cost``, in the indices of the whole."""
    if not len(rows) or not len(columns):
        return NONE, NONE
    found = assign(cost[rows[:, None], columns], limit)
    return rows[found[0]], columns[found[1]]
