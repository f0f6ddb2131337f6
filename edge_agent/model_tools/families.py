"""Which output families the outputs of an unknown network could belong to.

This is the one place that sniffs shapes: an import may guess, and shows why; what it writes down is then binding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.model_tools.evidence import (
    FEW,
    FRACTION,
    STRIDES,
    Grid,
    Match,
    Output,
    boxes_of,
    cells_of,
    corners,
    follows_grid,
    highest_class,
    is_list,
    judge_boxes,
    judge_scores,
    rows_of,
)


def matches(outputs: Sequence[Output], size: tuple[int, int], family: str | None = None) -> list[Match]:
    """Every family that fits, the likeliest first; only ``family``, and that on an unusual grid too, where one is named."""
    found = [match for recognise in _RECOGNISERS for match in recognise(list(outputs), Grid.over(size))]
    if family is None:
        return found
    named = [match for match in found if match.family == family]
    longest = max((n for output in outputs for n in output.shape[1:]), default=0)
    unusual = Grid.over(size, longest)
    return named or [
        match for recognise in _RECOGNISERS for match in recognise(list(outputs), unusual) if match.family == family
    ]


# ---- one tensor


def _yolov8(outputs: list[Output], grid: Grid) -> Iterator[Match]:
    if len(outputs) != 1 or len(outputs[0].shape) != 3 or is_list(outputs[0]):
        return
    _, rows, columns = outputs[0].shape
    cells = grid.cells
    if rows >= 5 and columns in cells and rows not in cells:
        because = f"{cells_of(columns, cells[columns])}; 4 + {rows - 4} numbers each"
        yield _dense("yolov8", outputs[0], 1, rows - 4, because, grid)
    if columns >= 5 and rows in cells and columns not in cells:
        because = f"{cells_of(rows, cells[rows])}; 4 + {columns - 4} numbers each, transposed"
        yield _dense("yolov8", outputs[0], 2, columns - 4, because, grid, transposed=True)


def _yolox(outputs: list[Output], grid: Grid) -> Iterator[Match]:
    if len(outputs) != 1 or len(outputs[0].shape) != 3 or is_list(outputs[0]):
        return
    _, rows, columns = outputs[0].shape
    cells = grid.cells
    if rows not in cells or columns < 6 or columns in cells:
        return
    strides = cells[rows]
    because = f"{cells_of(rows, strides)}; 5 + {columns - 5} numbers each"
    match = _dense("yolox", outputs[0], 2, columns - 5, because, grid)
    boxes, _ = rows_of(outputs[0], 2)
    match.decode.pop("boxes", None)
    _set_strides(match, strides)
    decoded = boxes is not None and bool(follows_grid(boxes, grid.size, strides))
    match.decode["decoded"] = decoded
    match.reasons["decoded"] = (
        "the centres on the sample picture follow the grid"
        if decoded
        else "the centres on the sample picture do not follow the grid"
        if boxes is not None
        else "YOLOX exports it so unless told otherwise"
    )
    yield match


def _yolov5(outputs: list[Output], grid: Grid) -> Iterator[Match]:
    if len(outputs) != 1 or len(outputs[0].shape) != 3 or is_list(outputs[0]):
        return
    _, rows, columns = outputs[0].shape
    cells = grid.anchors
    if rows in cells and columns >= 6:
        because = f"{cells_of(rows, cells[rows], '3 anchors in the cells')}; 5 + {columns - 5} numbers each"
        yield _dense("yolov5", outputs[0], 2, columns - 5, because, grid)


def _dense(  # noqa: PLR0917
    family: str,
    output: Output,
    box_axis: int,
    classes: int,
    because: str,
    grid: Grid,
    *,
    transposed: bool = False,
) -> Match:
    boxes, scores = rows_of(output, box_axis)
    match = Match(family, (output,), classes, because)
    judge_boxes(match, output, boxes, grid, "pixels")
    judge_scores(match, scores)
    if family == "yolov8" and boxes is not None and corners(boxes) > 0.95:
        match.decode["box_format"] = "xyxy"
        match.reasons["box_format"] = (
            f"in {corners(boxes):.0%} of the boxes the last two numbers are above the first two"
        )
    if transposed:
        match.decode["transposed"] = True
        match.reasons["transposed"] = f"the output is {list(output.shape)}"
    return match


def _end_to_end(outputs: list[Output], grid: Grid) -> Iterator[Match]:
    if len(outputs) != 1 or len(outputs[0].shape) != 3:
        return
    _, rows, columns = outputs[0].shape
    if is_list(outputs[0]) or (outputs[0].values is None and columns == 6 and rows <= FEW and rows not in grid.cells):
        because = f"a list of {rows} boxes with score and class each, no grid"
        _, rest = rows_of(outputs[0], 2)
        highest = None if rest is None else highest_class(rest[:, 1], rest[:, 0])
        match = Match("yolov10", (outputs[0],), None, because, highest=highest)
        judge_boxes(match, outputs[0], rows_of(outputs[0], 2)[0], grid, "pixels")
        yield match


def _rtdetr_joined(outputs: list[Output], grid: Grid) -> Iterator[Match]:
    if len(outputs) != 1 or len(outputs[0].shape) != 3 or is_list(outputs[0]):
        return
    _, rows, columns = outputs[0].shape
    cells = grid.cells
    if columns >= 5 and 10 <= rows <= FEW and rows not in cells and columns not in cells and columns != 6:
        because = f"{rows} queries with 4 + {columns - 4} numbers each, no grid"
        yield _dense("rtdetr", outputs[0], 2, columns - 4, because, grid)


# ---- two tensors: boxes and scores


def _boxes_and_scores(outputs: list[Output]) -> tuple[Output, Output] | None:
    """The tensor with 4 numbers a box, and the one with the same number of rows. With 4 classes the names decide."""
    if len(outputs) != 2:
        return None
    for boxes, scores in (outputs, outputs[::-1]):
        fits = len(boxes.shape) >= 3 and boxes.shape[-1] == 4 and len(scores.shape) == 3
        if fits and boxes.shape[1] == scores.shape[1] and not (scores.shape[-1] == 4 and "box" in scores.name.lower()):
            return boxes, scores
    return None


def _yolov4(outputs: list[Output], grid: Grid) -> Iterator[Match]:
    pair = _boxes_and_scores(outputs)
    if pair is None:
        return
    shape = pair[0].shape
    if (len(shape) == 4 and shape[2] == 1) or (len(shape) == 3 and shape[1] in grid.anchors):
        because = f"{shape[1]} boxes {list(shape)} beside confidences {list(pair[1].shape)}"
        yield _pair("yolov4", pair, grid, because, "normalised")


def _grid_pair(outputs: list[Output], grid: Grid) -> Iterator[Match]:
    """Boxes and scores of a grid apart: corners (YOLO-NAS), centre and size (YOLOv8), logarithms of distances (FCOS)."""
    if len(outputs) != 2 or any(len(o.shape) != 3 for o in outputs):
        return
    pair = _boxes_and_scores(outputs)
    rows = pair is not None and pair[0].shape[1] in grid.cells
    if not rows:
        pair = _in_columns(outputs, grid)
    if pair is None:
        return
    boxes, scores = pair
    number, classes = (boxes.shape[1], scores.shape[2]) if rows else (boxes.shape[2], scores.shape[1])
    table = rows_of(boxes, 2 if rows else 1)[0]
    for family, why in _split_families(boxes, table, grid, rows=rows):
        because = f"boxes and scores apart, {cells_of(number, grid.cells[number])}; {why}"
        match = Match(family, (boxes, scores), classes, because)
        if family == "fcos":
            _set_strides(match, grid.cells[number])
        else:
            judge_boxes(match, boxes, table, grid, "pixels")
        judge_scores(match, scores.values)
        if rows and family != "yolonas":
            match.decode["transposed"] = True
            match.reasons["transposed"] = f"the boxes are {list(boxes.shape)}"
        yield match


def _in_columns(outputs: list[Output], grid: Grid) -> tuple[Output, Output] | None:
    for boxes, scores in (outputs, outputs[::-1]):
        number = boxes.shape[2]
        if boxes.shape[1] == 4 and scores.shape[2] == number and number in grid.cells and scores.shape[1] != number:
            return boxes, scores
    return None


def _split_families(boxes: Output, table: NDArray[Any] | None, grid: Grid, *, rows: bool) -> Iterator[tuple[str, str]]:
    """Families that can be meant, and why; several where nothing was run that would tell."""
    decoded = "yolonas" if rows else "yolov8"
    follows = None if table is None else follows_grid(table, grid.size, grid.cells[len(table)])
    if table is None or follows is None:
        why = "nothing shows what their numbers are"
        yield "yolov8", why
        if rows:
            yield "yolonas", why
        if boxes.reach is None or boxes.reach <= FRACTION:
            yield "fcos", why
    elif not follows:
        yield "fcos", "the numbers do not follow the grid on the sample picture: distances from its cells"
    elif corners(table) >= 0.95:
        yield decoded, "the last two numbers are above the first two: corners"
    else:
        yield "yolov8", "the last two numbers are often below the first two: centre and size"


def _set_strides(match: Match, strides: Sequence[int]) -> None:
    if strides and tuple(strides) != STRIDES:
        match.decode["strides"], match.reasons["strides"] = list(strides), "the grid that has this many cells"


def _rtdetr(outputs: list[Output], grid: Grid) -> Iterator[Match]:
    pair = _boxes_and_scores(outputs)
    if pair and len(pair[0].shape) == 3 and pair[0].shape[1] <= FEW and pair[0].shape[1] not in grid.cells:
        yield _pair("rtdetr", pair, grid, f"{pair[0].shape[1]} queries, boxes and scores apart", "normalised")


def _pair(family: str, pair: tuple[Output, Output], grid: Grid, because: str, usual: str) -> Match:
    boxes, scores = pair
    match = Match(family, pair, scores.shape[-1], because)
    judge_boxes(match, boxes, boxes_of(boxes), grid, usual)
    judge_scores(match, scores.values)
    return match


# ---- lists of found objects


def _torchvision(outputs: list[Output], grid: Grid) -> Iterator[Match]:
    if len(outputs) != 3:
        return
    boxes = [o for o in outputs if o.shape[-1:] == (4,)]
    rest = [o for o in outputs if o not in boxes]
    labels = [o for o in rest if "label" in o.name.lower() or (o.values is not None and o.values.dtype.kind == "i")]
    scores = [o for o in rest if o not in labels]
    if len(boxes) == len(labels) == len(scores) == 1:
        match = Match(
            "boxes_labels_scores", (boxes[0], labels[0], scores[0]), None, "boxes, whole-number labels and scores"
        )
        judge_boxes(match, boxes[0], boxes_of(boxes[0]), grid, "pixels")
        match.decode["background"] = True
        match.reasons["background"] = "torchvision's networks number classes from 1"
        yield match


def _ssd(outputs: list[Output], grid: Grid) -> Iterator[Match]:
    if len(outputs) != 4:
        return
    boxes = [o for o in outputs if len(o.shape) == 3 and o.shape[-1] == 4]
    count = [o for o in outputs if int(np.prod(o.shape)) == 1]
    rows = [o for o in outputs if o not in boxes and o not in count]
    if len(boxes) != 1 or len(count) != 1 or len(rows) != 2 or rows[0].shape != rows[1].shape:
        return
    classes, scores = sorted(rows, key=_looks_like_scores)
    ordered, because = (boxes[0], classes, scores, count[0]), "boxes, classes, scores and their count"
    match = Match("ssd", ordered, None, because, highest=highest_class(classes.values, scores.values))
    judge_boxes(match, boxes[0], boxes_of(boxes[0]), grid, "normalised")
    yield match


def _looks_like_scores(output: Output) -> tuple[bool, str]:
    """Scores have fractions; classes are whole numbers. Not run: in the order of the names, which end in :1 and :2."""
    return output.values is not None and bool((output.values != np.rint(output.values)).any()), output.name


_RECOGNISERS: tuple[Callable[[list[Output], Grid], Iterator[Match]], ...] = (
    _yolov8,
    _yolox,
    _yolov5,
    _ssd,
    _end_to_end,
    _torchvision,
    _yolov4,
    _rtdetr,
    _rtdetr_joined,
    _grid_pair,
)
