"""Backends: the seam to inference runtimes. A vendor package is imported in the chosen backend's factory, nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from edge_agent.detect.manifest import Model
from edge_agent.types import F32


class Runner(Protocol):
    """One thread's way to run the network. Owns its output buffers: they are valid until its next call."""

    def __call__(self, tensor: F32) -> Sequence[F32]:
        """Run one batch. ``tensor`` is the input as the manifest declares it, read during the call only. Raises InferenceError."""


class Backend(Protocol):
    """A loaded network, shared by threads."""

    def runner(self) -> Runner:
        """A runner for the calling thread; several may run at once where ``parallel``."""

    @property
    def parallel(self) -> bool:
        """Whether several runners gain speed (CPU) or the device does one thing at a time (GPU, Edge TPU)."""

    @property
    def device(self) -> str:
        """Where it really runs, for status."""

    def close(self) -> None:
        """Release the device. No runner may be used afterwards."""


def _onnxruntime(model: Model) -> Backend:
    from edge_agent.detect.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(model)


BACKENDS: Mapping[str, Callable[[Model], Backend]] = {"onnxruntime": _onnxruntime}
