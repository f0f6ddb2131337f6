"""How well a classifier tells each attribute of a head, with intervals over images; small heads apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.adapters import DataError
from training.crops import cut
from training.data import read_image
from training.heads import HEAD_SHARE, read_heads, squares
from training.metrics import F32, Matches, average_precision, bootstrap
from training.settings import Source

Judge: TypeAlias = Callable[[NDArray[np.uint8]], F32]
"""From crops (N,size,size,3) uint8 RGB to a score in [0,1] for each attribute, (N,A)."""
AT_ONCE = 64
SMALL = 20.0
"""Pixels from chin to crown, helmet included, below which a head counts as small."""
UNSURE = (0.3, 0.7)
"""Scores between are no decision."""


@dataclass(frozen=True)
class Judged:
    """Heads of one attribute: whether they have it, the score for it, which image each is of, pixels from chin to crown."""

    truth: NDArray[np.bool_]
    scores: F32
    image: NDArray[np.intp]
    height: F32

    def part(self, some: NDArray[np.bool_]) -> Judged:
        """Those heads only."""
        return Judged(self.truth[some], self.scores[some], self.image[some], self.height[some])


def spread(interval: tuple[float, float]) -> str:
    """An interval for a table."""
    return f"{interval[0]:.3f}–{interval[1]:.3f}"


@dataclass(frozen=True)
class Verdict:
    """Accuracy at 0.5 and average precision, in fractions of 1, with 95 % intervals; -1 where there is nothing to count."""

    heads: int
    positives: int
    images: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    ap: float
    ap_interval: tuple[float, float]
    ap_without: float
    """Average precision of finding the heads *without* the attribute: what an alarm is made of."""
    unsure: float
    """Share with a score between 0.3 and 0.7."""
    accuracy_sure: float
    """Of the others."""
    small: Verdict | None = None
    curve: list[float] = field(default_factory=list)
    """Precision of finding heads without the attribute (with it, where all have it) for the recalls 0, 0.01, …, 1."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    @property
    def text(self) -> str:
        """On one line."""
        small = f"; {self.small.heads} small heads: accuracy {self.small.accuracy:.3f}" if self.small else ""
        return (
            f"accuracy {self.accuracy:.3f} ({spread(self.accuracy_interval)}), AP {self.ap:.3f} ({spread(self.ap_interval)}), "
            f"AP without {self.ap_without:.3f}, unsure {self.unsure:.3f}; {self.heads} heads, {self.positives} with, "
            f"{self.images} images{small}"
        )

    @property
    def legend(self) -> str:
        """For a plot."""
        return f"without: AP {self.ap_without:.3f}" if self.ap_without >= 0 else f"AP {self.ap:.3f}"


@dataclass(frozen=True)
class Held:
    """Heads to measure on, ready for the network: ``crops`` (N,S,S,3), ``attributes`` (N,A), ``image`` (N,), ``height`` (N,)."""

    crops: NDArray[np.uint8]
    attributes: NDArray[np.int8]
    image: NDArray[np.intp]
    height: F32


def read_held(sources: Sequence[Source], labels: Sequence[str], size: int) -> dict[str, Held]:
    """The heads of the sources, by title; sources of one title count together. Raises DataError."""
    groups: dict[str, list[Source]] = {}
    for source in sources:
        groups.setdefault(source.title, []).append(source)
    return {title: _held(group, labels, size) for title, group in groups.items()}


def _held(sources: Sequence[Source], labels: Sequence[str], size: int) -> Held:
    crops, attributes, image, height = [], [], [], []
    images = 0
    for source in sources:
        assert source.heads is not None
        for labelled in read_heads(source):
            picture = read_image(labelled.sample)
            found, known = squares(labelled, source.heads, labels, (picture.shape[1], picture.shape[0]))
            crops += [cut(picture, square, size) for square in found]
            attributes += list(known)
            image += [images] * len(found)
            height += list((found[:, 2] - found[:, 0]) * HEAD_SHARE)
            images += 1
    if not crops:
        raise DataError(f"{sources[0].path}: there is no head to measure on")
    return Held(np.stack(crops), np.stack(attributes), np.array(image), np.array(height, np.float32))


def judge_heads(judge: Judge, held: Held, labels: Sequence[str]) -> dict[str, Judged]:
    """Every attribute of which something is known, by its name."""
    scores = np.concatenate([judge(held.crops[i : i + AT_ONCE]) for i in range(0, len(held.crops), AT_ONCE)])
    out = {}
    for i, label in enumerate(labels):
        known = held.attributes[:, i] >= 0
        if known.any():
            truth = held.attributes[known, i] == 1
            out[label] = Judged(truth, scores[known, i], held.image[known], held.height[known])
    return out


def verdict(judged: Judged, rounds: int = 1000, *, with_small: bool = True) -> Verdict:
    """The figures; ``rounds`` of the bootstrap, 0 leaves the intervals out (-1, -1)."""
    n, right = len(judged.truth), (judged.scores >= 0.5) == judged.truth
    sure = (judged.scores < UNSURE[0]) | (judged.scores > UNSURE[1])
    with_it, without = _matches(judged, positive=True), _matches(judged, positive=False)
    both = bool(judged.truth.any() and not judged.truth.all())  # of one kind alone there is nothing to rank
    ap = average_precision(with_it)[0] if both else -1.0
    ap_without, curve = average_precision(without) if both else (-1.0, np.zeros(0))
    small = judged.height < SMALL
    return Verdict(
        heads=n,
        positives=int(judged.truth.sum()),
        images=len(np.unique(judged.image)),
        accuracy=float(right.mean()) if n else -1.0,
        accuracy_interval=_accuracy_interval(right, judged.image, rounds),
        ap=ap,
        ap_interval=bootstrap([with_it], rounds) if both and rounds else (-1.0, -1.0),
        ap_without=ap_without,
        unsure=float(1 - sure.mean()) if n else -1.0,
        accuracy_sure=float(right[sure].mean()) if sure.any() else -1.0,
        small=verdict(judged.part(small), rounds, with_small=False) if with_small and small.any() else None,
        curve=[round(float(v), 4) for v in curve],
    )


def _matches(judged: Judged, *, positive: bool) -> list[Matches]:
    scores = judged.scores.astype(np.float64) if positive else 1.0 - judged.scores.astype(np.float64)
    truth = judged.truth == positive
    groups = [np.flatnonzero(judged.image == i) for i in np.unique(judged.image)]
    return [Matches(scores[g], truth[g], int(truth[g].sum())) for g in groups]


def _accuracy_interval(right: NDArray[np.bool_], image: NDArray[np.intp], rounds: int) -> tuple[float, float]:
    """Heads of one picture are alike: pictures are drawn again, not heads."""
    if not rounds or not len(right):
        return -1.0, -1.0
    _, place = np.unique(image, return_inverse=True)
    hits, counts = np.bincount(place, right), np.bincount(place)
    drawn = np.random.default_rng(0).integers(0, len(counts), (rounds, len(counts)))
    low, high = np.quantile(hits[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def measure_heads(
    judge: Judge, held: Mapping[str, Held], labels: Sequence[str], rounds: int = 1000
) -> dict[str, Verdict]:
    """Verdicts by ``TITLE: ATTRIBUTE``."""
    return {
        f"{title}: {label}": verdict(judged, rounds)
        for title, heads in held.items()
        for label, judged in judge_heads(judge, heads, labels).items()
    }


def score_of(verdicts: Mapping[str, Verdict]) -> float:
    """One number to pick weights by: the mean accuracy."""
    return float(np.mean([v.accuracy for v in verdicts.values()])) if verdicts else 0.0
