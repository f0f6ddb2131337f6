"""What the outputs of an unknown network show: their shapes against a grid, and what they hold for a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

STRIDES = (8, 16, 32)
GRIDS = (STRIDES, (8, 16, 32, 64), (16, 32), (4, 8, 16, 32))
"""Strides that detectors are built with."""
FRACTION = 8.0
"""Boxes whose coordinates stay below are fractions: those of a weak network go far beyond 1, pixels go much further."""
FAIR = 0.05
"""Score from which a listed object is more than a leftover."""
FEW = 1000
"""More boxes than this and it is a grid, no list of found objects."""


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """One output: its shape, and its values for the sample picture where the network could be run."""

    name: str
    shape: tuple[int, ...]
    values: NDArray[Any] | None = None
    reach: float | None = None
    """Largest number that its integers can stand for."""


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """A family the network could be of. ``outputs`` in the family's order; ``classes`` None where the shapes do not tell."""

    family: str
    outputs: tuple[Output, ...]
    classes: int | None
    because: str
    decode: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    """Why each key of ``decode`` is as it is."""
    highest: int | None = None
    """Highest class number that it gave with a fair score to something in the sample picture."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The input's (width, height), and which numbers of boxes are those of a grid over it, with its strides."""

    size: tuple[int, int]
    cells: dict[int, tuple[int, ...]]
    anchors: dict[int, tuple[int, ...]]
    """The same with three anchors in each cell."""

    @staticmethod
    def over(size: tuple[int, int], also: int | None = None) -> Grid:
        """``also``: a number of boxes that is taken for a grid, of strides nobody knows."""
        cells = {sum((size[0] // s) * (size[1] // s) for s in strides): strides for strides in reversed(GRIDS)}
        anchors = {3 * n: strides for n, strides in cells.items()}
        extra: dict[int, tuple[int, ...]] = {} if also is None else {also: ()}
        return Grid(size, extra | cells, extra | anchors)


def rows_of(output: Output, box_axis: int) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Values as (N, 4) and (N, rest), None where there are none; ``box_axis`` is the axis of the 4+… numbers of one box."""
    if output.values is None or not output.values.size:
        return None, None
    table = np.asarray(output.values[0], np.float64)
    table = table.T if box_axis == 1 else table
    return table[:, :4], table[:, 4:]


def boxes_of(output: Output) -> NDArray[Any] | None:
    """Values of a tensor of nothing but boxes, as (N, 4)."""
    return None if output.values is None else output.values.reshape(-1, 4)


def is_list(output: Output) -> bool:
    """Whether rows of six hold box, score and class: the last is a whole number and the scores descend, as after a top-k."""
    if output.values is None or not output.values.size or output.shape[-1] != 6:
        return False
    score, number = output.values[0, :, 4], output.values[0, :, 5]
    descends = bool((np.diff(score) <= 1e-6).all())
    return bool((number == np.rint(number)).all()) and descends and 0 < float(score.max()) <= 1.01


def judge_boxes(match: Match, output: Output, boxes: NDArray[Any] | None, grid: Grid, usual: str) -> None:
    """Pixels or fractions, by how far the ``boxes`` (…, 4) of ``output`` reach, or could; else what is ``usual``."""
    size = f"the input has {grid.size[0]}x{grid.size[1]} pixels"
    if boxes is not None and boxes.size:
        reach = float(np.percentile(np.abs(boxes), 99))
        because = f"on the sample picture they reach {reach:.3g} ({size})"
    elif output.reach is not None:
        reach = output.reach
        because = f"their integers stand for numbers up to {reach:.3g} ({size})"
    else:
        match.decode["boxes"], match.reasons["boxes"] = usual, f"usual for {match.family}; not seen on a picture"
        return
    match.decode["boxes"] = "normalised" if reach <= FRACTION else "pixels"
    match.reasons["boxes"] = because


def corners(boxes: NDArray[Any]) -> float:
    """Share of rows (N,4) that could be two corners. Centre and size could only near the picture's top left."""
    return float((boxes[:, 2:] > boxes[:, :2]).all(axis=1).mean())


def judge_scores(match: Match, scores: NDArray[Any] | None) -> None:
    """Logits, where a score is no probability."""
    if scores is None or not scores.size:
        return
    low, high = float(scores.min()), float(scores.max())
    if low < -0.01 or high > 1.01:
        match.decode["scores"] = "logit"
        match.reasons["scores"] = f"on the sample picture they go from {low:.3g} to {high:.3g}"


def highest_class(classes: NDArray[Any] | None, scores: NDArray[Any] | None) -> int | None:
    """Of the class numbers with a fair score; None where there is none."""
    if classes is None or scores is None:
        return None
    fair = classes.ravel()[scores.ravel() >= FAIR]
    return int(fair.max()) if fair.size else None


def follows_grid(boxes: NDArray[Any], size: tuple[int, int], strides: Sequence[int]) -> bool | None:
    """Whether the boxes (N,4) lie where their cells are, as decoded ones do; None where this is not the grid's number."""
    if not strides:
        return None
    cell_x = np.concatenate([np.tile(np.arange(size[0] // s) * s, size[1] // s) for s in strides])
    if len(cell_x) != len(boxes):
        return None
    # The first number is a centre, or a corner: then the mean with the third is the centre.
    centres = (boxes[:, 0], (boxes[:, 0] + boxes[:, 2]) / 2)
    return any(float(np.corrcoef(cell_x, x)[0, 1]) > 0.9 for x in centres if np.std(x) > 0)


def cells_of(number: int, strides: Sequence[int], what: str = "the cells") -> str:
    """Why this number of boxes is a grid's."""
    if not strides:
        return f"{number} boxes are taken for a grid, though of no usual strides"
    return f"{number} boxes are {what} of strides {'/'.join(map(str, strides))}"
