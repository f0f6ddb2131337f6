"""From a source frame to a network's input tensor, in buffers that are used again for every frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_agent.detect.backends import InputTensor
from edge_agent.detect.manifest import InputSpec
from edge_agent.errors import ModelError
from edge_agent.types import F32, U8


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

    def to_source(self, boxes: F32) -> F32:
        """Boxes (N,4) xyxy in input pixels to source pixels, in place, clipped to the frame; returns ``boxes``."""
        for axis in (0, 1):
            column = boxes[:, axis::2]
            column -= self.offset[axis]
            column /= self.scale[axis]
            np.clip(column, 0, self.source[axis], out=column)
        return boxes


class Preprocessor:
    """Letterbox, colour order, scaling and layout. One instance per thread: it owns the tensor it returns."""

    def __init__(self, spec: InputSpec, wanted: InputTensor) -> None:
        if wanted.layout != "NCHW" or wanted.dtype != np.float32 or spec.fit != "letterbox":
            raise ModelError(f"input {wanted} with fit {spec.fit}: not supported yet")
        self._spec = spec
        width, height = spec.size
        self.tensor: F32 = np.empty((1, 3, height, width), np.float32)
        std, mean = np.asarray(spec.std, np.float32), np.asarray(spec.mean, np.float32)
        self._gain = (1.0 / std).astype(np.float32)
        self._bias = (-mean / std).astype(np.float32)
        self._identity = bool((self._gain == 1).all() and (self._bias == 0).all())
        self._box: Letterbox | None = None
        self._small: U8 = np.empty((0, 0, 3), np.uint8)
        self._planes: list[U8] = []

    def __call__(self, image: U8) -> tuple[F32, Letterbox]:
        """Fill the tensor from ``image`` (H,W,3) uint8 BGR. The tensor is valid until the next call."""
        import cv2

        size = (image.shape[1], image.shape[0])
        if self._box is None or self._box.source != size:
            self._box = self._prepare(size)
        box = self._box
        width, height = box.content
        # OpenCV writes into a given array only if shape and type fit, else it silently makes a new one; they fit.
        small = (
            image
            if size == box.content
            else cv2.resize(image, box.content, dst=self._small, interpolation=cv2.INTER_LINEAR)
        )
        cv2.split(small, self._planes)
        x, y = box.offset
        for channel in range(3):
            plane = self._planes[2 - channel if self._spec.colour == "RGB" else channel]
            target = self.tensor[0, channel, y : y + height, x : x + width]
            if self._identity:
                np.copyto(target, plane)
            else:
                np.multiply(plane, self._gain[channel], out=target)
                target += self._bias[channel]
        return self.tensor, box

    def _prepare(self, size: tuple[int, int]) -> Letterbox:
        box = Letterbox.fit(size, self._spec.size, self._spec.position)
        width, height = box.content
        self._small = np.empty((height, width, 3), np.uint8)
        self._planes = [np.empty((height, width), np.uint8) for _ in range(3)]
        pad = self._spec.pad * self._gain + self._bias
        self.tensor[:] = pad.reshape(1, 3, 1, 1)
        return box
