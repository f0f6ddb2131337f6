"""FCOS: boxes (1, 4, N) and scores (1, C, N), a column for each cell of each stride's grid, strides one after the other.

The four numbers of a cell are logarithms of the distances from its centre to the box's left, top, right and bottom, in
strides; ``transposed: true`` where they are rows. What our own networks give: nothing but convolutions is needed in the file, and
integers keep small boxes as exact as large ones. Source: Tian et al., FCOS: Fully Convolutional One-Stage Object Detection, §3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.detect.decoders.parts import (
    HALF,
    Candidates,
    best_class,
    boxes_and_scores,
    columns,
    finish,
    first_class,
    probability,
    raw_threshold,
    wrong,
)
from edge_agent.detect.decoders.yolox import cells
from edge_agent.detect.manifest import Network
from edge_agent.types import F32


def decode(outputs: Sequence[F32], network: Network, threshold: float) -> Candidates:
    """Candidates at or above ``threshold``, each with its best class."""
    transposed = network.decode.transposed
    grid = cells(network.input.size, network.decode.strides)
    both = boxes_and_scores(outputs, network, transposed=transposed) if len(outputs) == 2 else None
    if both is None or both[0].shape[1] != grid.shape[1]:
        shapes = [
            f"[1, {grid.shape[1]}, {h}]" if transposed else f"[1, {h}, {grid.shape[1]}]" for h in (4, columns(network))
        ]
        raise wrong(network, outputs, f"boxes {shapes[0]} and scores {shapes[1]}")
    boxes, scores = both
    chosen, best, classes = best_class(scores[first_class(network) :], raw_threshold(network, threshold))
    with np.errstate(all="ignore"):  # a network that overflows: ``finish`` drops it
        centre, stride = grid[:2, chosen] + HALF, grid[2, chosen]
        distances = np.exp(boxes[:, chosen])
        corners = np.concatenate((centre - distances[:2], centre + distances[2:])) * stride
        return finish(corners.T.copy(order="C"), probability(network, best), classes)
