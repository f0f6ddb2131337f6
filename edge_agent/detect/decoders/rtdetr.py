"""RT-DETR, D-FINE and other detection transformers with a sigmoid for each class.

Two tensors, boxes (1, Q, 4) as centre x, centre y, width, height in fractions of the input (``boxes: normalised``) and
scores (1, Q, C), mostly logits (``scores: logit``); or one (1, Q, 4+C). As in the reference post-processing the pairs of
query and class compete, and the best Q of them are the answer: one query can stand for two classes.
Source: Zhao et al., DETRs Beat YOLOs on Real-time Object Detection, 2023.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.detect.decoders.parts import (
    Candidates,
    boxes_and_scores,
    columns,
    finish,
    first_class,
    probability,
    raw_threshold,
    to_xyxy,
    wrong,
)
from edge_agent.detect.manifest import Network
from edge_agent.types import F32


def decode(outputs: Sequence[F32], network: Network, threshold: float) -> Candidates:
    """Pairs of query and class at or above ``threshold``, at most as many as there are queries."""
    boxes, scores = _boxes_and_scores(outputs, network)
    skipped = first_class(network)
    classes, queries = np.nonzero(scores[skipped:] >= raw_threshold(network, threshold))
    found = scores[skipped + classes, queries]
    if len(found) > boxes.shape[1]:
        best = np.argpartition(-found, boxes.shape[1])[: boxes.shape[1]]
        classes, queries, found = classes[best], queries[best], found[best]
    with np.errstate(all="ignore"):
        return finish(
            to_xyxy(boxes[:, queries], network, "cxcywh"), probability(network, found), classes.astype(np.int32)
        )


def _boxes_and_scores(outputs: Sequence[F32], network: Network) -> tuple[F32, F32]:
    """Views (4, Q) and (C, Q). Raises InferenceError."""
    across, classes = not network.decode.transposed, columns(network)
    if (both := boxes_and_scores(outputs, network, transposed=across)) is not None:
        return both
    four, many, one = (f"[1, Q, {n}]" if across else f"[1, {n}, Q]" for n in (4, classes, 4 + classes))
    raise wrong(network, outputs, f"{four} and {many}, or {one} ({classes} classes)")
