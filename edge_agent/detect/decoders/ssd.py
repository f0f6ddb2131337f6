"""SSD with TFLite's own suppression (the operator TFLite_Detection_PostProcess), and others of that layout.

Four tensors: boxes (1, N, 4) as y1, x1, y2, x2 in fractions of the input (``boxes: normalised``), class numbers (1, N),
scores (1, N), how many of them count (1,). Classes are numbered from 0 without the background. Networks with another
order of corners (TensorFlow's combined suppression, YOLO-NAS exported with its own) say so by ``box_format``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.detect.decoders.listed import candidates
from edge_agent.detect.decoders.parts import Candidates, wrong
from edge_agent.detect.manifest import Network
from edge_agent.types import F32


def decode(outputs: Sequence[F32], network: Network, threshold: float) -> Candidates:
    """Objects at or above ``threshold``."""
    expected = "boxes [1, N, 4], classes [1, N], scores [1, N] and a count [1]"
    if len(outputs) != 4 or outputs[0].ndim != 3 or outputs[3].size != 1:
        raise wrong(network, outputs, expected)
    boxes, classes, scores, count = outputs
    n = boxes.shape[1]
    if boxes.shape != (1, n, 4) or classes.shape != (1, n) or scores.shape != (1, n):
        raise wrong(network, outputs, expected)
    # Rows past the count hold what was there before.
    valid = int(np.clip(np.nan_to_num(count.reshape(())), 0, n))
    return candidates(boxes[0, :valid].T, scores[0, :valid], classes[0, :valid], network, threshold, "yxyx")
