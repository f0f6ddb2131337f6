"""Int8 calibration from pictures, for TensorRT versions that still do it (8.6 to 10)."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.backends.fit import expected_input
from edge_agent.detect.backends.tensorrt.cache import engine_folder, make_calibration_name, pictures_in
from edge_agent.detect.backends.tensorrt.memory import DeviceMemory
from edge_agent.detect.backends.tensorrt.vendor import load_tensorrt
from edge_agent.detect.child import Say
from edge_agent.detect.preprocess import Preprocessor
from edge_agent.errors import HardwareError, ModelError
from edge_agent.types import F32

log = logging.getLogger(__name__)

MAX_CACHE_BYTES = 16 << 20
FEWEST = 20
"""Pictures that must be readable: the ranges of fewer are those of a moment."""


def tensors_of(request: LoadRequest, say: Say) -> Iterator[F32]:
    """The calibration pictures as the network gets them, (1,3,H,W) or (1,H,W,3); the array is used again.

    Pictures that cannot be read are left out. Raises ModelError where too few remain.
    """
    import cv2

    folder = request.config.tensorrt.calibration_images
    assert folder is not None
    preprocess = Preprocessor(request.network.input, expected_input(request.network))
    pictures, read = pictures_in(folder), 0
    for number, path in enumerate(pictures):
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            log.warning("%s cannot be read and is left out", path)
            continue
        read += 1
        say("calibrating int8", (number + 1) / len(pictures))
        yield preprocess(np.asarray(picture, np.uint8))[0]
    if read < FEWEST:
        raise ModelError(f"{folder}: {read} pictures that can be read, int8 calibration needs {FEWEST}, better 500")


def make_calibrator(module: str, request: LoadRequest, memory: DeviceMemory, say: Say) -> Any:
    """An ``IInt8EntropyCalibrator2`` that feeds the pictures one by one, and keeps what TensorRT learns in the cache.

    Raises HardwareError where the GPU's memory does not suffice. TensorRT swallows exceptions of its callbacks: what
    went wrong is in ``failure``.
    """
    trt = load_tensorrt(module)
    kept = engine_folder(request.cache) / make_calibration_name(request)

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self.failure: Exception | None = None
            self._tensors = tensors_of(request, say)
            self._stream: Any = None
            self._buffer: Any = None

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list[str]) -> list[int]:
            try:
                tensor = next(self._tensors, None)
                if tensor is None:
                    return []
                with memory.current():
                    if self._stream is None:
                        self._stream = memory.stream()
                        self._buffer = self._stream.buffer(tensor.shape, tensor.dtype)
                    self._buffer.host[...] = tensor
                    self._buffer.upload()
                    self._stream.synchronize()
            except (HardwareError, ModelError) as error:
                self.failure = error
                return []
            return [self._buffer.address]

        def read_calibration_cache(self) -> bytes | None:
            try:
                with kept.open("rb") as file:
                    return file.read(MAX_CACHE_BYTES) or None
            except OSError:
                return None

        def write_calibration_cache(self, cache: Any) -> None:
            try:
                keep(kept, bytes(cache))
            except OSError as error:
                log.warning("the calibration is not kept: %s", error)

        def close(self) -> None:
            if self._stream is not None:
                with memory.current():
                    self._stream.close()

    return Calibrator()


def keep(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
