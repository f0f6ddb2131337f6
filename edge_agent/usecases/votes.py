"""What a classifier says of somebody, over time: sure scores are votes, and only a clear majority of enough of them is an answer.

A score between ``no_below`` and ``yes_above`` votes for nothing, an old vote is forgotten, and without enough votes, or where
they contradict each other, the answer is UNKNOWN: neither worn nor lacking.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from edge_agent.config_classifiers import ClassifierConfig
from edge_agent.types import F64, I64, Look
from edge_agent.usecases.evidence import FALSE, TRUE, UNKNOWN, Truth

_SAME_IOU = 0.5
"""A look is at the thing whose box overlaps its own by so much."""
_MAJORITY = 3 / 4


class Votes:
    """Votes about the things of one camera. ``judges``: by attribute, how its classifier's scores are taken. Not thread-safe."""

    def __init__(self, judges: Mapping[str, ClassifierConfig]) -> None:
        self.judges = judges
        self._cast: dict[tuple[int, str], deque[tuple[float, bool]]] = {}
        self._t = 0.0

    def update(self, looks: Sequence[Look], ids: I64, boxes: F64, t: float) -> None:
        """The looks of the frame at ``t``; ``ids`` and ``boxes`` (N,4) are of the things seen in it."""
        self._t = t
        if not looks or not len(ids):
            return
        overlap = _iou(np.array([look.box for look in looks], np.float64), boxes)
        for look, row, best in zip(looks, overlap.argmax(axis=1).tolist(), overlap.max(axis=1).tolist(), strict=True):
            if best >= _SAME_IOU:
                for label, score in look.scores.items():
                    self._vote(int(ids[row]), label, score, t)

    def rename(self, renamed: Sequence[tuple[int, int]]) -> None:
        """Newcomers turned out to be somebody known: their votes join."""
        for newcomer, known in renamed:
            for label in self.judges:
                if (cast := self._cast.pop((newcomer, label), None)) is not None:
                    old = self._cast.get((known, label), deque(maxlen=cast.maxlen))
                    self._cast[known, label] = deque(sorted([*old, *cast]), maxlen=cast.maxlen)

    def keep(self, ids: Sequence[int]) -> None:
        """Forget everybody but these."""
        if len(self._cast) > (len(ids) + 8) * max(len(self.judges), 1):
            there = set(ids)
            self._cast = {key: cast for key, cast in self._cast.items() if key[0] in there}

    def about(self, ident: int, label: str) -> Truth:
        """Whether a thing has the attribute, as far as it is known now."""
        judge, cast = self.judges[label], self._cast.get((ident, label))
        if not cast:
            return UNKNOWN
        while cast and self._t - cast[0][0] > judge.memory_s:
            cast.popleft()
        yes = sum(vote for _, vote in cast)
        if len(cast) < judge.votes:
            return UNKNOWN
        if yes >= _MAJORITY * len(cast):
            return TRUE
        return FALSE if len(cast) - yes >= _MAJORITY * len(cast) else UNKNOWN

    def _vote(self, ident: int, label: str, score: float, t: float) -> None:
        judge = self.judges.get(label)
        if judge is None or judge.no_below < score < judge.yes_above:
            return
        cast = self._cast.setdefault((ident, label), deque(maxlen=4 * judge.votes))
        cast.append((t, score >= judge.yes_above))


def _iou(a: F64, b: F64) -> F64:
    """(M,N) intersection over union of (M,4) and (N,4) boxes."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.maximum(high - low, 0)
    common = both[..., 0] * both[..., 1]
    wide_a, wide_b = (np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-9) for boxes in (a, b))
    iou: F64 = common / ((wide_a[:, 0] * wide_a[:, 1])[:, None] + wide_b[:, 0] * wide_b[:, 1] - common)
    return iou
