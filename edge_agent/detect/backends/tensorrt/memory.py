"""The seam to CUDA: one device's primary context, streams, and buffers that exist on both sides.

Two packages can do it. ``cuda-bindings`` is NVIDIA's own (wheels for every platform, CUDA graphs); ``pycuda`` is what many
Jetson images already hold.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import HardwareError

log = logging.getLogger(__name__)

PACKAGES = {"cuda-bindings": ("cuda.bindings.driver", "cuda.cuda"), "pycuda": ("pycuda.driver",)}
"""Modules that a memory's package has (any of them: cuda-bindings had another name before 12.6), best first."""


class Buffer(Protocol):
    """One tensor on both sides: ``host`` in page-locked memory and as many bytes at ``address`` on the device.

    Copies are queued on the buffer's stream; the host side must not be touched until the stream is synchronised.
    """

    host: NDArray[Any]
    address: int

    def upload(self) -> None:
        """Queue the copy to the device. Raises HardwareError."""

    def download(self) -> None:
        """Queue the copy to the host. Raises HardwareError."""


class Stream(Protocol):
    """A queue of work on the device, and the buffers made for it. Used by one thread at a time, context current."""

    handle: int

    def buffer(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        """A zeroed buffer. Raises HardwareError (out of memory)."""

    def synchronize(self) -> None:
        """Wait until everything queued is done. Raises HardwareError for whatever went wrong in it."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """A CUDA graph of what ``work`` queues; calling the result queues it all at once. Raises HardwareError."""

    def close(self) -> None:
        """Free stream, graphs and buffers: their ``host`` arrays are gone with it. A second call does nothing."""


class DeviceMemory(Protocol):
    """One device. Its primary context, which TensorRT uses too, is retained until ``close``.

    Everything but ``current`` and ``close`` needs the context current in the calling thread.
    """

    name: str

    def current(self) -> AbstractContextManager[None]:
        """Makes the context current in the calling thread for the length of a ``with``; may be nested."""

    def stream(self) -> Stream:
        """A new stream that does not wait for the default one. Raises HardwareError."""

    def close(self) -> None:
        """Give the context back, as far as the package can. Streams must be closed before. A second call does nothing."""


def installed(package: str) -> bool:
    """Whether a memory's package can be imported."""
    return any(exists(module) for module in PACKAGES[package])


def exists(module: str) -> bool:
    """Whether a module is there, without importing it (its parents are)."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # its parent does not exist
        return False


def missing(wanted: str) -> str:
    """Why no device memory can be had with the configured package (``auto``: any); empty where it can."""
    if wanted == "auto":
        return "" if any(map(installed, PACKAGES)) else "neither cuda-bindings nor pycuda is installed: " + HOW
    return "" if installed(wanted) else f"{wanted} is not installed: {HOW}"


HOW = "pip install cuda-bindings"


def open_memory(wanted: str, device: int) -> DeviceMemory:
    """The device's memory through the configured package; ``auto`` takes the first there is. Raises HardwareError."""
    if reason := missing(wanted):
        raise HardwareError(reason)
    name = wanted if wanted != "auto" else next(filter(installed, PACKAGES))
    if name == "pycuda":
        from edge_agent.detect.backends.tensorrt.memory_pycuda import PyCudaMemory

        return PyCudaMemory(device)
    from edge_agent.detect.backends.tensorrt.memory_bindings import BindingsMemory

    return BindingsMemory(device)
