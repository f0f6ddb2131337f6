"""Lists of found objects: what a network that did its own suppression gives, each with one box, score and class."""

from __future__ import annotations

import numpy as np

from edge_agent.detect.decoders.parts import (
    BoxFormat,
    Candidates,
    finish,
    numbered,
    probability,
    raw_threshold,
    to_xyxy,
)
from edge_agent.detect.manifest import Network
from edge_agent.types import F32


def candidates(  # noqa: PLR0917
    boxes: F32, scores: F32, classes: F32, network: Network, threshold: float, usual: BoxFormat
) -> Candidates:
    """From boxes (4, N), scores (N,) and class numbers (N,): the objects at or above the threshold."""
    chosen = np.flatnonzero(scores >= raw_threshold(network, threshold))
    with np.errstate(all="ignore"):
        return finish(
            to_xyxy(boxes[:, chosen], network, usual),
            probability(network, scores[chosen]),
            numbered(network, classes[chosen]),
        )
