"""What the families share: telling a wrong shape, choosing candidates, turning numbers into boxes.

The way of every decoder is: threshold on the network's own memory, gather the few rows that pass, convert only those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_agent.detect.manifest import Network
from edge_agent.errors import InferenceError
from edge_agent.types import F32, I32

Candidates: TypeAlias = tuple[F32, F32, I32]
"""Boxes (N,4) xyxy in input pixels, scores (N,) in [0,1], classes (N,) into the labels. All finite, owned by the caller."""
Indices: TypeAlias = NDArray[np.intp]
BoxFormat: TypeAlias = Literal["cxcywh", "xyxy", "yxyx", "xywh"]
HALF = np.float32(0.5)


def wrong(network: Network, outputs: Sequence[F32], expected: str) -> InferenceError:
    """The error for outputs that are not what the family and the labels promise."""
    got = ", ".join(str(list(output.shape)) for output in outputs) or "none"
    return InferenceError(f"{network.label}: family {network.family} expects {expected}, the network gave {got}")


def first_class(network: Network) -> int:
    """The class number of ``labels[0]``."""
    return max(network.decode.label_offset, int(network.decode.background))


def columns(network: Network) -> int:
    """How many class scores a dense head has for each box."""
    return len(network.labels) + first_class(network)


def by_column(output: F32, height: int, *, transposed: bool) -> F32 | None:
    """A view (height, N) of one picture's output (1, height, N), or (1, N, height) if ``transposed``; None if it is neither."""
    if output.ndim != 3 or output.shape[0] != 1 or output.shape[2 if transposed else 1] != height:
        return None
    rows: F32 = output[0].T if transposed else output[0]
    return rows


def boxes_and_scores(outputs: Sequence[F32], network: Network, *, transposed: bool) -> tuple[F32, F32] | None:
    """Views (4, N) and (C, N) of a dense head's one tensor (1, 4+C, N), or two; None where they are neither."""
    classes = columns(network)
    if len(outputs) == 1:
        both = by_column(outputs[0], 4 + classes, transposed=transposed)
        return None if both is None else (both[:4], both[4:])
    if len(outputs) == 2:
        boxes = by_column(outputs[0], 4, transposed=transposed)
        scores = by_column(outputs[1], classes, transposed=transposed)
        if boxes is not None and scores is not None and boxes.shape[1] == scores.shape[1]:
            return boxes, scores
    return None


def raw_threshold(network: Network, threshold: float) -> np.float32:
    """The score threshold in the network's own numbers."""
    if network.decode.scores == "probability":
        return np.float32(threshold)
    with np.errstate(divide="ignore"):
        return np.float32(np.log(threshold) - np.log1p(-threshold))


def probability(network: Network, scores: F32) -> F32:
    """The network's numbers as probabilities, in a new array."""
    # By tanh, which overflows for no logit.
    return scores.copy() if network.decode.scores == "probability" else (np.tanh(scores * HALF) + 1) * HALF


def best_class(scores: F32, threshold: np.float32) -> tuple[Indices, F32, I32]:
    """From scores (C, N): the boxes whose best class reaches ``threshold``, that score, that class. All new arrays."""
    if len(scores) == 1:
        chosen = np.flatnonzero(scores[0] >= threshold)
        return chosen, scores[0, chosen], np.zeros(len(chosen), np.int32)
    chosen = _reaching(scores, threshold)
    few = scores[:, chosen]
    classes = few.argmax(axis=0)
    return chosen, few[classes, np.arange(len(chosen))], classes.astype(np.int32)


def _reaching(scores: F32, threshold: np.float32) -> Indices:
    """The columns of ``scores`` with a number that reaches the threshold."""
    if scores.flags.c_contiguous:
        return np.flatnonzero(scores.max(axis=0) >= threshold)
    # A maximum over short rows costs five times a comparison of everything: few numbers pass it.
    hits = np.flatnonzero(scores.T.ravel() >= threshold) // len(scores)
    return hits[np.flatnonzero(np.diff(hits, prepend=-1))]


def to_xyxy(numbers: F32, network: Network, usual: BoxFormat) -> F32:
    """Boxes from four rows (4, M) in the manifest's format and unit, or the family's usual one: (M,4) xyxy input pixels."""
    form = network.decode.box_format or usual
    if form == "yxyx":
        numbers = numbers[[1, 0, 3, 2]]
    first, second = numbers[:2], numbers[2:]
    if form == "cxcywh":
        half = second * HALF
        first, second = first - half, first + half
    elif form == "xywh":
        second = first + second
    boxes = np.concatenate((first, second)).T.astype(np.float32, order="C")
    if network.decode.boxes == "normalised":
        boxes *= np.array(network.input.size * 2, np.float32)
    return boxes


def numbered(network: Network, classes: F32) -> I32:
    """Class numbers as a network writes them to places in ``labels``; -1 for what is none."""
    place = classes.astype(np.float64) - first_class(network)
    known = (place > -0.5) & (place < len(network.labels) - 0.5)
    return np.where(known, np.rint(place), -1).astype(np.int32)


def finish(boxes: F32, scores: F32, classes: I32) -> Candidates:
    """Drop what is no detection: a box that is not finite or has no area, a score that is not finite, a class without a label."""
    good = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    good &= np.isfinite(scores) & (classes >= 0)
    if not good.all():
        boxes, scores, classes = boxes[good], scores[good], classes[good]
    # The step of a quantised score can lead a little over 1.
    return boxes, np.minimum(scores, np.float32(1), out=scores), classes
