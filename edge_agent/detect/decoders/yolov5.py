"""YOLOv5 and v7, and YOLOv3 exported by their tools: (1, N, 5+C), boxes decoded by the export.

A row is centre x, centre y, width, height, objectness, then a probability for each class; the score of a class is its
probability times the objectness.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.detect.decoders.parts import (
    Candidates,
    Indices,
    by_column,
    columns,
    finish,
    first_class,
    probability,
    raw_threshold,
    to_xyxy,
    wrong,
)
from edge_agent.detect.manifest import Network
from edge_agent.types import F32, I32


def decode(outputs: Sequence[F32], network: Network, threshold: float) -> Candidates:
    """Candidates at or above ``threshold``, each with its best class."""
    rows = objectness_rows(outputs, network)
    chosen, scores, classes = objects(rows, network, threshold)
    with np.errstate(all="ignore"):
        return finish(to_xyxy(rows[:4, chosen], network, "cxcywh"), scores, classes)


def objectness_rows(outputs: Sequence[F32], network: Network) -> F32:
    """The one output as a view (5+C, N). Raises InferenceError."""
    height = 5 + columns(network)
    across = not network.decode.transposed
    rows = by_column(outputs[0], height, transposed=across) if len(outputs) == 1 else None
    if rows is None:
        shape = f"[1, N, {height}]" if across else f"[1, {height}, N]"
        raise wrong(network, outputs, f"{shape} ({height - 5} classes)")
    return rows


def objects(rows: F32, network: Network, threshold: float) -> tuple[Indices, F32, I32]:
    """The places whose objectness times best class reaches ``threshold``: where, that score, the class."""
    # No class probability is over 1, so objectness alone leaves out nearly everything.
    chosen = np.flatnonzero(rows[4] >= raw_threshold(network, threshold))
    few = rows[5 + first_class(network) :, chosen]
    classes = few.argmax(axis=0)
    with np.errstate(all="ignore"):
        best = np.minimum(probability(network, few[classes, np.arange(len(chosen))]), np.float32(1))
        scores = probability(network, rows[4, chosen]) * best
        good = np.flatnonzero(scores >= np.float32(threshold))
    return chosen[good], scores[good], classes[good].astype(np.int32)
