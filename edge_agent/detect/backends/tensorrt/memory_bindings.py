"""Device memory by ``cuda-bindings``, through the driver API: the one way to see which context is current.

Each call returns a tuple that begins with the error code. CUDA driver API, version 12: chapters 6.8 (context), 6.13
(memory), 6.18 (stream), 6.24 (graph).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.detect.backends.tensorrt.memory import PACKAGES, exists
from edge_agent.errors import HardwareError

STREAM_NON_BLOCKING = 1
HOST_PORTABLE = 1
CAPTURE_THREAD_LOCAL = "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL"


def _driver() -> Any:
    module = next(filter(exists, PACKAGES["cuda-bindings"]), "cuda.bindings.driver")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise HardwareError(f"cuda-bindings cannot be imported: {error}") from error


class _Calls:
    """Calls the driver; a code other than success becomes a HardwareError with its name."""

    def __init__(self) -> None:
        self.driver = _driver()

    def __call__(self, function: str, *arguments: Any) -> Any:
        try:
            code, *values = getattr(self.driver, function)(*arguments)
        except HardwareError:
            raise
        except Exception as error:  # no driver library, or one too old to know the function
            raise HardwareError(f"CUDA: {function}: {error}") from error
        if int(code) != 0:
            raise HardwareError(f"CUDA: {function}: {getattr(code, 'name', code)}")
        return values[0] if len(values) == 1 else values


class BindingsMemory:
    """See ``DeviceMemory``."""

    name = "cuda-bindings"

    def __init__(self, device: int) -> None:
        self._call = _Calls()
        self._call("cuInit", 0)
        self._device = self._call("cuDeviceGet", device)
        self._context: Any = self._call("cuDevicePrimaryCtxRetain", self._device)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """See ``DeviceMemory``."""
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    def stream(self) -> BindingsStream:
        """See ``DeviceMemory``."""
        return BindingsStream(self._call)

    def close(self) -> None:
        """See ``DeviceMemory``."""
        if self._context is not None:
            self._context = None
            self._call("cuDevicePrimaryCtxRelease", self._device)


class BindingsStream:
    """See ``Stream``."""

    def __init__(self, call: _Calls) -> None:
        self._call = call
        self._stream = call("cuStreamCreate", STREAM_NON_BLOCKING)
        self.handle = int(self._stream)
        self._graphs: list[Any] = []
        self._buffers: list[BindingsBuffer] = []

    def buffer(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> BindingsBuffer:
        """See ``Stream``."""
        made = BindingsBuffer(self._call, self._stream, shape, dtype)
        self._buffers.append(made)
        return made

    def synchronize(self) -> None:
        """See ``Stream``."""
        self._call("cuStreamSynchronize", self._stream)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """See ``Stream``."""
        mode = getattr(self._call.driver.CUstreamCaptureMode, CAPTURE_THREAD_LOCAL)
        self._call("cuStreamBeginCapture", self._stream, mode)
        try:
            work()
        except BaseException:
            with contextlib.suppress(HardwareError):  # what broke it is the error to tell
                self._call("cuGraphDestroy", self._call("cuStreamEndCapture", self._stream))
            raise
        graph = self._call("cuStreamEndCapture", self._stream)
        try:
            executable = self._call("cuGraphInstantiate", graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)
        self._graphs.append(executable)
        return lambda: self._call("cuGraphLaunch", executable, self._stream)

    def close(self) -> None:
        """See ``Stream``."""
        if self._stream is None:
            return
        for graph in self._graphs:
            self._call("cuGraphExecDestroy", graph)
        for buffer in self._buffers:
            buffer.free()
        self._call("cuStreamDestroy", self._stream)
        self._graphs, self._buffers, self._stream = [], [], None


class BindingsBuffer:
    """See ``Buffer``."""

    def __init__(self, call: _Calls, stream: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._call = call
        self._stream = stream
        self._size = max(1, int(np.prod(shape)) * dtype.itemsize)
        self._device = call("cuMemAlloc", self._size)
        self.address = int(self._device)
        try:
            self._pinned = int(call("cuMemHostAlloc", self._size, HOST_PORTABLE))
        except HardwareError:
            call("cuMemFree", self._device)
            raise
        memory = (ctypes.c_byte * self._size).from_address(self._pinned)
        self.host: NDArray[Any] = np.frombuffer(memoryview(memory), dtype, int(np.prod(shape))).reshape(shape)
        self.host[...] = 0

    def upload(self) -> None:
        """See ``Buffer``."""
        self._call("cuMemcpyHtoDAsync", self._device, self._pinned, self._size, self._stream)

    def download(self) -> None:
        """See ``Buffer``."""
        self._call("cuMemcpyDtoHAsync", self._pinned, self._device, self._size, self._stream)

    def free(self) -> None:
        """Give both sides back."""
        self._call("cuMemFree", self._device)
        self._call("cuMemFreeHost", self._pinned)
