"""Decoders: one file for each output family, pure functions from output tensors to candidate boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from edge_agent.detect.decoders.yolov8 import decode as _yolov8
from edge_agent.types import F32, I32

Candidates: TypeAlias = tuple[F32, F32, I32]
"""Boxes (N,4) xyxy in input pixels, scores (N,), classes (N,): owned by the caller, before suppression."""
Decoder: TypeAlias = Callable[[Sequence[F32], float], Candidates]
"""From the output tensors in manifest order and a score threshold; reads the tensors only during the call."""

DECODERS: Mapping[str, Decoder] = {"yolov8": _yolov8}
