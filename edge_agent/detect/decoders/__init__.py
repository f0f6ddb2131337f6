"""Decoders: one file for each output family, pure functions from output tensors to candidate boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from edge_agent.detect.decoders.yolov8 import decode as _yolov8
from edge_agent.detect.manifest import Network
from edge_agent.types import F32, I32

Candidates: TypeAlias = tuple[F32, F32, I32]
"""Boxes (N,4) xyxy in input pixels, scores (N,), classes (N,) into the labels: owned by the caller, before suppression."""
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


FAMILIES: Mapping[str, Family] = {"yolov8": Family(_yolov8)}
