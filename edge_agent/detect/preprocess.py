"""From a source frame to a network's input tensor, in buffers that are used again for every frame.

A pixel has 256 values in each channel, so scaling, quantisation and conversion are one look-up in a table computed at
load, whatever the tensor's type is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.detect.backends import InputTensor
from edge_agent.detect.manifest import InputSpec
from edge_agent.errors import ModelError
from edge_agent.types import F32, U8

_CARRIERS: Mapping[int, np.dtype[Any]] = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16), 4: np.dtype(np.float32)}
"""Types that OpenCV moves an element of so many bytes in: it does not know all that a network can have (float16)."""


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Maps source pixels to input pixels: ``input = source * scale + offset`` (per axis, pixel edges, not centres)."""

    scale: tuple[float, float]
    offset: tuple[int, int]
    content: tuple[int, int]
    """(width, height) of the scaled picture inside the input."""
    source: tuple[int, int]

    @staticmethod
    def fit(source: tuple[int, int], target: tuple[int, int], position: str) -> Letterbox:
        """The largest picture of ``source`` = (width, height) that fits ``target`` at its own aspect ratio."""
        ratio = min(target[0] / source[0], target[1] / source[1])
        content = (max(1, round(source[0] * ratio)), max(1, round(source[1] * ratio)))
        offset = (0, 0) if position == "top_left" else ((target[0] - content[0]) // 2, (target[1] - content[1]) // 2)
        # The scale of what resize really did: rounding the content to whole pixels moved it a little.
        return Letterbox((content[0] / source[0], content[1] / source[1]), offset, content, source)

    @staticmethod
    def stretch(source: tuple[int, int], target: tuple[int, int]) -> Letterbox:
        """``target`` filled from edge to edge, each axis at its own scale."""
        return Letterbox((target[0] / source[0], target[1] / source[1]), (0, 0), target, source)

    def to_source(self, boxes: F32) -> F32:
        """Boxes (N,4) xyxy in input pixels to source pixels, in place, clipped to the frame; returns ``boxes``."""
        for axis in (0, 1):
            column = boxes[:, axis::2]
            column -= self.offset[axis]
            column /= self.scale[axis]
            np.clip(column, 0, self.source[axis], out=column)
        return boxes


def channel_tables(spec: InputSpec, wanted: InputTensor) -> NDArray[Any]:
    """What each pixel value becomes: (3, 256) of ``wanted.dtype``, rows in the order of ``spec.colour``.

    Calculated in float32, halves rounded away from zero and what does not fit the type clipped: so does TensorFlow
    Lite's quantise operator (reference_ops ``AffineQuantize``), and a network that has one at its input gets the same.
    """
    std, mean = np.array(spec.std)[:, None], np.array(spec.mean)[:, None]
    levels: NDArray[Any] = (np.arange(256.0) - mean) / std
    limits: np.finfo[Any] | np.iinfo[Any]
    if wanted.dtype.kind == "f":
        limits = np.finfo(wanted.dtype)
    else:
        limits = np.iinfo(wanted.dtype)
        steps = levels.astype(np.float32) / np.float32(wanted.scale)
        levels = np.trunc(steps + np.copysign(np.float32(0.5), steps)) + wanted.zero_point
    table: NDArray[Any] = np.clip(levels, float(limits.min), float(limits.max)).astype(wanted.dtype)
    return table


class Preprocessor:
    """Scaling to the input's size, colour order, normalisation, quantisation and layout.

    One instance per thread: it owns the tensor it returns. Raises ModelError for a tensor no picture can be put in.
    """

    def __init__(self, spec: InputSpec, wanted: InputTensor) -> None:
        width, height = spec.size
        nhwc = wanted.layout == "NHWC"
        if wanted.dtype.itemsize not in _CARRIERS or wanted.dtype.kind not in "fiu":
            raise ModelError(
                f"input {spec.name!r} is of type {wanted.dtype}: float32, float16, uint8 and int8 are known"
            )
        if wanted.shape != ((1, height, width, 3) if nhwc else (1, 3, height, width)):
            raise ModelError(f"input {spec.name!r} has shape {wanted.shape}, the manifest says {width}x{height}")
        self._spec, self._nhwc = spec, nhwc
        self.tensor: NDArray[Any] = np.empty(wanted.shape, wanted.dtype)
        tables = channel_tables(spec, wanted)
        self._pad = tables[:, spec.pad]
        carrier: np.dtype[Any] = _CARRIERS[wanted.dtype.itemsize]
        self._picture = self.tensor[0].view(carrier)
        plain = wanted.dtype == np.uint8 and bool((tables == np.arange(256)).all())
        self._tables: list[NDArray[Any]] | None = None if plain else [row.view(carrier) for row in tables[:, None]]
        # One table for all channels is faster than the same one three times.
        same = bool((tables == tables[0]).all())
        joint = tables[0] if same else np.ascontiguousarray(tables.T)
        self._joint: NDArray[Any] = joint.view(carrier).reshape((1, 256) if same else (1, 256, 3))
        self._box: Letterbox | None = None
        self._small: U8 = np.empty((0, 0, 3), np.uint8)
        self._swapped = self._small
        self._planes: list[U8] = []
        self._target = self._picture

    def __call__(self, image: U8) -> tuple[NDArray[Any], Letterbox]:
        """Fill the tensor from ``image`` (H,W,3) uint8 BGR. The tensor is valid until the next call."""
        import cv2

        size = (image.shape[1], image.shape[0])
        if self._box is None or self._box.source != size:
            self._box = self._prepare(size)
        box = self._box
        # OpenCV writes into a given array only if shape and type fit, else it silently makes a new one; they fit.
        small = (
            image
            if size == box.content
            else cv2.resize(image, box.content, dst=self._small, interpolation=cv2.INTER_LINEAR)
        )
        if self._nhwc:
            self._fill_pixels(small)
        else:
            self._fill_planes(small)
        return self.tensor, box

    def _fill_pixels(self, small: U8) -> None:
        import cv2

        swap = self._spec.colour == "RGB"
        if self._tables is None:
            if swap:
                cv2.cvtColor(small, cv2.COLOR_BGR2RGB, dst=self._target)
            else:
                np.copyto(self._target, small)
        else:
            ordered = cv2.cvtColor(small, cv2.COLOR_BGR2RGB, dst=self._swapped) if swap else small
            cv2.LUT(ordered, self._joint, dst=self._target)

    def _fill_planes(self, small: U8) -> None:
        import cv2

        cv2.split(small, self._planes)
        for channel in range(3):
            plane = self._planes[2 - channel if self._spec.colour == "RGB" else channel]
            if self._tables is None:
                np.copyto(self._target[channel], plane)
            else:
                cv2.LUT(plane, self._tables[channel], dst=self._target[channel])

    def _prepare(self, size: tuple[int, int]) -> Letterbox:
        spec = self._spec
        stretch = spec.fit == "stretch"
        box = Letterbox.stretch(size, spec.size) if stretch else Letterbox.fit(size, spec.size, spec.position)
        width, height = box.content
        x, y = box.offset
        self._small = np.empty((height, width, 3), np.uint8)
        if self._nhwc:
            self._swapped = np.empty_like(self._small)
            self.tensor[:] = self._pad
            self._target = self._picture[y : y + height, x : x + width]
        else:
            self._planes = [np.empty((height, width), np.uint8) for _ in range(3)]
            self.tensor[:] = self._pad.reshape(1, 3, 1, 1)
            self._target = self._picture[:, y : y + height, x : x + width]
        return box
