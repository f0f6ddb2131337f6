"""Decoders: one file for each output family, pure functions from output tensors to candidate boxes.

Which networks belong to which family, and what the manifest's ``decode`` means to each: docs/decoders.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from edge_agent.detect.decoders import (
    boxes_labels_scores,
    fcos,
    rtdetr,
    ssd,
    yolonas,
    yolov4,
    yolov5,
    yolov8,
    yolov10,
    yolox,
)
from edge_agent.detect.decoders.parts import Candidates as Candidates
from edge_agent.detect.manifest import Network
from edge_agent.types import F32

Decoder: TypeAlias = Callable[[Sequence[F32], Network, float], Candidates]
"""From the output tensors in manifest order, the network they came from and a score threshold.

Reads the tensors only during the call. Raises InferenceError for outputs of another shape than the family's.
"""


@dataclass(frozen=True, slots=True)
class Family:
    """How networks of one kind write their answer."""

    decode: Decoder
    suppress: bool = True
    """Whether overlapping boxes are still in it."""


FAMILIES: Mapping[str, Family] = {
    "yolov8": Family(yolov8.decode),
    "yolox": Family(yolox.decode),
    "yolov5": Family(yolov5.decode),
    "ssd": Family(ssd.decode, suppress=False),
    "yolov10": Family(yolov10.decode, suppress=False),
    "boxes_labels_scores": Family(boxes_labels_scores.decode, suppress=False),
    "yolov4": Family(yolov4.decode),
    "rtdetr": Family(rtdetr.decode, suppress=False),
    "yolonas": Family(yolonas.decode),
    "fcos": Family(fcos.decode),
}
