"""Boxes and class scores for every place of a grid, in one tensor or two: what YOLOv8, YOLOv4 and YOLO-NAS have in common."""

from __future__ import annotations

import numpy as np

from edge_agent.detect.decoders.parts import (
    BoxFormat,
    Candidates,
    best_class,
    finish,
    first_class,
    probability,
    raw_threshold,
    to_xyxy,
)
from edge_agent.detect.manifest import Network
from edge_agent.types import F32


def candidates(boxes: F32, scores: F32, network: Network, threshold: float, usual: BoxFormat) -> Candidates:
    """From views boxes (4, N) and scores (C, N): each place at or above the threshold, with its best class."""
    chosen, best, classes = best_class(scores[first_class(network) :], raw_threshold(network, threshold))
    with np.errstate(all="ignore"):  # a network that overflows: ``finish`` drops it
        return finish(to_xyxy(boxes[:, chosen], network, usual), probability(network, best), classes)
