"""Device memory by ``pycuda``. A context of its own kind belongs to the thread that pushed it, so every use pushes and pops.

Everything is freed by name while the context is current: left to the garbage collector, pycuda frees in whichever thread
that runs in, finds its context elsewhere, and leaks.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import HardwareError

STREAM_NON_BLOCKING = 1


@contextlib.contextmanager
def _errors(what: str) -> Iterator[None]:
    """pycuda's exceptions (all below ``pycuda.driver.Error`` or RuntimeError) as ours."""
    try:
        yield
    except HardwareError:
        raise
    except Exception as error:
        raise HardwareError(f"CUDA (pycuda): {what}: {error}") from error


@functools.cache
def _primary_context(device: int) -> Any:
    """The device's primary context, retained for the life of the process.

    pycuda gives it back in the thread only that retained it, and then leaves it pushed there; TensorRT's own use of the
    CUDA runtime retains it until the end in any case.
    """
    with _errors("start"):
        cuda = importlib.import_module("pycuda.driver")
        cuda.init()
        return cuda.Device(device).retain_primary_context()


class PyCudaMemory:
    """See ``DeviceMemory``."""

    name = "pycuda"

    def __init__(self, device: int) -> None:
        self._context = _primary_context(device)
        self._cuda = importlib.import_module("pycuda.driver")

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """See ``DeviceMemory``."""
        with _errors("push the context"):
            self._context.push()
        try:
            yield
        finally:
            with _errors("pop the context"):
                self._cuda.Context.pop()

    def stream(self) -> PyCudaStream:
        """See ``DeviceMemory``."""
        with _errors("create a stream"):
            return PyCudaStream(self._cuda)

    def close(self) -> None:
        """See ``DeviceMemory``; the context stays for the next one."""


class PyCudaStream:
    """See ``Stream``."""

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._stream = cuda.Stream(STREAM_NON_BLOCKING)
        self.handle: int = self._stream.handle
        self._buffers: list[PyCudaBuffer] = []

    def buffer(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> PyCudaBuffer:
        """See ``Stream``."""
        with _errors("allocate"):
            made = PyCudaBuffer(self._cuda, self._stream, shape, dtype)
        self._buffers.append(made)
        return made

    def synchronize(self) -> None:
        """See ``Stream``."""
        with _errors("synchronize"):
            self._stream.synchronize()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """See ``Stream``."""
        raise HardwareError(
            "pycuda cannot record CUDA graphs: set tensorrt.memory to cuda-bindings, or cuda_graph to false"
        )

    def close(self) -> None:
        """See ``Stream``."""
        if self._stream is None:
            return
        with _errors("free"):
            for buffer in self._buffers:
                buffer.free()
            # The last references, or they would be freed later, in another thread.
            self._buffers, self._stream = [], None


class PyCudaBuffer:
    """See ``Buffer``."""

    def __init__(self, cuda: Any, stream: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._cuda = cuda
        self._stream = stream
        size = max(1, int(np.prod(shape)))
        self._device = cuda.mem_alloc(size * dtype.itemsize)
        self.address = int(self._device)
        try:
            self._pinned = cuda.pagelocked_empty(size, dtype, mem_flags=cuda.host_alloc_flags.PORTABLE)
        except Exception:
            self._device.free()
            raise
        self.host: NDArray[Any] = self._pinned[: int(np.prod(shape))].reshape(shape)
        self._pinned[...] = 0

    def upload(self) -> None:
        """See ``Buffer``."""
        with _errors("copy to the device"):
            self._cuda.memcpy_htod_async(self._device, self._pinned, self._stream)

    def download(self) -> None:
        """See ``Buffer``."""
        with _errors("copy to the host"):
            self._cuda.memcpy_dtoh_async(self._pinned, self._device, self._stream)

    def free(self) -> None:
        """Give both sides back."""
        self._device.free()
        self._pinned.base.free()
        del self._stream
