"""Backends: the seam to inference runtimes. A vendor package is imported in the chosen backend's factory, nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.config import DetectConfig
from edge_agent.detect.manifest import Layout, Manifest, Network
from edge_agent.types import F32


@dataclass(frozen=True, slots=True)
class InputTensor:
    """How a loaded network wants its input in memory.

    An integer input holds ``round(real / scale) + zero_point``, clipped to its type.
    """

    shape: tuple[int, int, int, int]
    """As the network has it, batch 1."""
    layout: Layout
    dtype: np.dtype[Any]
    scale: float = 1.0
    zero_point: int = 0


class Runner(Protocol):
    """One thread's way to run the network. Owns its output buffers: they are valid until its next call."""

    def __call__(self, tensor: NDArray[Any]) -> Sequence[F32]:
        """Run one picture. ``tensor`` is as the backend's ``input`` says, C-contiguous, and read during the call only.

        The outputs come in the manifest's order, as real numbers (dequantised). Raises InferenceError.
        """


class Backend(Protocol):
    """A loaded network, shared by threads. Whoever has a device that does one thing at a time takes turns itself."""

    @property
    def input(self) -> InputTensor:
        """What ``Runner`` takes."""

    @property
    def concurrency(self) -> int:
        """How many threads calling at once gain speed: CPU cores, Edge TPUs, 2 for a GPU (one prepares, one runs)."""

    @property
    def device(self) -> str:
        """Where it really runs, for status."""

    def runner(self) -> Runner:
        """A runner for the calling thread. Raises HardwareError where the device has no room for another, or once closed."""

    def close(self) -> None:
        """Release the device. No runner may be used afterwards. A second call does nothing."""


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What a backend needs to load a network. ``cache`` is a folder where it may keep what it builds."""

    network: Network
    config: DetectConfig
    cache: Path

    def to_json(self) -> dict[str, Any]:
        """For a child process; ``from_json`` makes the same of it there, whatever its current folder."""
        network = self.network
        return {
            "manifest": network.manifest.model_dump(mode="json"),
            "file": network.manifest.files.index(network.file),
            "folder": str(network.folder.absolute()),
            "config": self.config.model_dump(mode="json"),
            "cache": str(self.cache.absolute()),
        }

    @classmethod
    def from_json(cls, asked: Mapping[str, Any]) -> LoadRequest:
        """Read what ``to_json`` wrote; other keys are left alone."""
        manifest = Manifest.model_validate(asked["manifest"])
        network = Network(manifest, manifest.files[asked["file"]], Path(asked["folder"]))
        return cls(network, DetectConfig.model_validate(asked["config"]), Path(asked["cache"]))


def _onnxruntime(request: LoadRequest) -> Backend:
    from edge_agent.detect.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(request)


def _openvino(request: LoadRequest) -> Backend:
    from edge_agent.detect.backends.openvino import OpenVinoBackend

    return OpenVinoBackend(request)


def _tensorrt(request: LoadRequest) -> Backend:
    from edge_agent.detect.backends.tensorrt import open_backend

    return open_backend(request)


def _tflite(request: LoadRequest) -> Backend:
    from edge_agent.detect.backends.tflite import TfliteBackend

    return TfliteBackend(request)


BACKENDS: Mapping[str, Callable[[LoadRequest], Backend]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "tensorrt": _tensorrt,
    "tflite": _tflite,
}
"""Factories by name. They raise ModelError (damaged, foreign, not as the manifest says) and HardwareError (no such device)."""
