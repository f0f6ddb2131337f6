"""YOLOX: (1, N, 5+C), a row for each cell of each stride's grid, strides one after the other, cells row by row.

A row is x, y, width, height, objectness, class probabilities. As exported by its tool (``decoded: false``) x and y are
offsets from the cell's corner in cells, width and height logarithms in cells; ``decoded: true`` where the file itself
turned them into a box in input pixels. Source: Ge et al., YOLOX: Exceeding YOLO Series in 2021, and its ONNX demo.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from edge_agent.detect.decoders.parts import Candidates, finish, to_xyxy, wrong
from edge_agent.detect.decoders.yolov5 import objectness_rows, objects
from edge_agent.detect.manifest import Network
from edge_agent.types import F32


def decode(outputs: Sequence[F32], network: Network, threshold: float) -> Candidates:
    """Candidates at or above ``threshold``, each with its best class."""
    rows = objectness_rows(outputs, network)
    grid = None if network.decode.decoded else cells(network.input.size, network.decode.strides)
    if grid is not None and grid.shape[1] != rows.shape[1]:
        raise wrong(
            network,
            outputs,
            f"N = {grid.shape[1]} cells of strides {list(network.decode.strides)} "
            f"on an input of {network.input.size[0]}x{network.input.size[1]}",
        )
    chosen, scores, classes = objects(rows, network, threshold)
    with np.errstate(all="ignore"):
        numbers = rows[:4, chosen]
        if grid is not None:
            corner, stride = grid[:2, chosen], grid[2, chosen]
            numbers = np.concatenate(((numbers[:2] + corner) * stride, np.exp(numbers[2:]) * stride))
        return finish(to_xyxy(numbers, network, "cxcywh"), scores, classes)


@functools.lru_cache(maxsize=16)
def cells(size: tuple[int, int], strides: tuple[int, ...]) -> F32:
    """(3, N): column, row and stride of each cell. Shared and never written to."""
    parts = []
    for stride in strides:
        y, x = np.mgrid[: size[1] // stride, : size[0] // stride]
        parts.append(np.stack((x.ravel(), y.ravel(), np.full(x.size, stride))))
    joined = np.concatenate(parts, axis=1).astype(np.float32)
    joined.setflags(write=False)
    return joined
