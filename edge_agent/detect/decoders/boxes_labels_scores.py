"""torchvision's detectors (Faster R-CNN, RetinaNet, FCOS, SSD), with their own suppression inside.

Three tensors: boxes (N, 4) xyxy in input pixels, class numbers (N,), scores (N,), or each with a batch axis of 1. N is as
many as were found, also 0. Classes are numbered with the background as 0 (``background: true``).
"""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.detect.decoders.listed import candidates
from edge_agent.detect.decoders.parts import Candidates, wrong
from edge_agent.detect.manifest import Network
from edge_agent.types import F32


def decode(outputs: Sequence[F32], network: Network, threshold: float) -> Candidates:
    """Objects at or above ``threshold``."""
    expected = "boxes [N, 4], labels [N] and scores [N], or each with a batch axis of 1"
    if len(outputs) != 3:
        raise wrong(network, outputs, expected)
    boxes, labels, scores = (
        o[0] if o.ndim == n + 1 and len(o) == 1 else o for o, n in zip(outputs, (2, 1, 1), strict=True)
    )
    n = len(boxes) if boxes.ndim else 0
    if boxes.shape != (n, 4) or labels.shape != (n,) or scores.shape != (n,):
        raise wrong(network, outputs, expected)
    return candidates(boxes.T, scores, labels, network, threshold, "xyxy")
