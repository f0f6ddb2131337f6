"""YOLOv8/v9/v11 layout: one tensor (1, 4+C, N), rows cx, cy, w, h in input pixels, then a score for each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.detect.manifest import Network
from edge_agent.types import F32, I32


def decode(outputs: Sequence[F32], network: Network, threshold: float) -> tuple[F32, F32, I32]:
    """Candidates at or above ``threshold``, each with its best class."""
    rows = outputs[0][0]
    scores = rows[4:]
    if len(scores) == 1:
        best = scores[0]
        chosen = np.flatnonzero(best >= threshold)
        classes = np.zeros(len(chosen), np.int32)
    else:
        best = scores.max(axis=0)
        chosen = np.flatnonzero(best >= threshold)
        classes = scores[:, chosen].argmax(axis=0).astype(np.int32)
    centre, half = rows[:2, chosen], rows[2:4, chosen] * np.float32(0.5)
    boxes = np.concatenate((centre - half, centre + half)).T
    return np.ascontiguousarray(boxes), best[chosen], classes
