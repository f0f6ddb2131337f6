"""YOLO-NAS (and PP-YOLOE) without its own suppression: boxes (1, N, 4) xyxy in input pixels, probabilities (1, N, C)."""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.detect.decoders.parts import Candidates
from edge_agent.detect.decoders.yolov4 import decode as _boxes_and_confidences
from edge_agent.detect.manifest import Network
from edge_agent.types import F32


def decode(outputs: Sequence[F32], network: Network, threshold: float) -> Candidates:
    """Candidates at or above ``threshold``, each with its best class."""
    return _boxes_and_confidences(outputs, network, threshold)
