"""Runs an engine: named tensors, page-locked memory, one stream and execution context for each thread, the GPU in turns."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.detect.backends import InputTensor, LoadRequest
from edge_agent.detect.backends.fit import expected_input
from edge_agent.detect.backends.tensorrt.cache import find_engine, key_for
from edge_agent.detect.backends.tensorrt.memory import Buffer, DeviceMemory, open_memory
from edge_agent.detect.backends.tensorrt.vendor import (
    DTYPES,
    OUT_OF_MEMORY,
    dtype_name,
    load_tensorrt,
    logger_of,
    missing,
    sizes,
)
from edge_agent.detect.manifest import Network
from edge_agent.errors import HardwareError, InferenceError, ModelError
from edge_agent.types import F32

if TYPE_CHECKING:
    import tensorrt  # type: ignore[import-not-found, import-untyped, unused-ignore]

log = logging.getLogger(__name__)

REBUILD = "it has to be built anew (edge-agent model compile --target tensorrt; the agent does it by itself)"


def open_backend(request: LoadRequest) -> TensorRtBackend:
    """Load the engine that was built for this network on this box.

    Raises HardwareError (no TensorRT, no driver, no GPU, not enough memory), ModelError (no engine for it, or a damaged one).
    """
    if reason := missing():
        raise HardwareError(reason)
    network, config = request.network, request.config.tensorrt
    key = key_for(request)
    stored = find_engine(key, request.cache)
    if stored is None:
        raise ModelError(f"{network.label} has no engine for {key.gpu} and TensorRT {key.tensorrt}: {REBUILD}")
    memory = None
    try:
        memory = open_memory(config.memory, config.device)
        plan = stored.plan()
        try:
            engine = load_engine("tensorrt", plan, memory, str(stored.path))
        finally:
            plan.release()
        name = f"{key.gpu}, TensorRT {key.tensorrt} {stored.header['precision']}"
        return TensorRtBackend("tensorrt", engine, memory, network, name, cuda_graph=config.cuda_graph)
    except ModelError:
        # It fits by all we know and is refused all the same: without it the next start builds another.
        stored.path.unlink(missing_ok=True)
        _close(memory)
        raise
    except HardwareError:
        _close(memory)
        raise
    except Exception as error:
        _close(memory)
        raise HardwareError(f"{stored.path}: TensorRT cannot load it: {type(error).__name__}: {error}") from error
    finally:
        stored.close()


def _close(memory: DeviceMemory | None) -> None:
    if memory is not None:
        memory.close()


def load_engine(module: str, plan: memoryview, memory: DeviceMemory, where: str) -> tensorrt.ICudaEngine:
    """Deserialise. Raises ModelError (refused: another version, another GPU), HardwareError (memory, driver)."""
    trt = load_tensorrt(module)
    logger, messages = logger_of(module)
    with memory.current():
        runtime = trt.Runtime(logger)
        engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        reason = messages.take()
        if OUT_OF_MEMORY.search(reason):
            raise HardwareError(f"{where}: not enough memory on the GPU: {reason}")
        raise ModelError(f"{where}: TensorRT {trt.__version__} refuses the engine: {reason}; {REBUILD}")
    return engine


class TensorRtBackend:
    """A loaded engine; see ``Backend``. Owns ``engine`` and ``memory``. Raises ModelError where the manifest does not fit."""

    concurrency = 2
    """One thread prepares its picture while the other's is on the GPU."""

    def __init__(
        self,
        module: str,
        engine: tensorrt.ICudaEngine,
        memory: DeviceMemory,
        network: Network,
        device: str,
        *,
        cuda_graph: bool,
    ) -> None:
        self.module = module
        self.trt = load_tensorrt(module)
        self.engine: tensorrt.ICudaEngine | None = engine
        self.memory = memory
        self.device = device
        self.network = network
        self.cuda_graph = cuda_graph
        self.turn = threading.Lock()
        self._runners: list[TensorRtRunner] = []
        self.input = self._check(engine)

    def _check(self, engine: tensorrt.ICudaEngine) -> InputTensor:
        mode, spec = self.trt.TensorIOMode, self.network.input
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == mode.INPUT]
        if inputs != [spec.name] or not set(self.network.outputs) <= set(names):
            raise ModelError(
                f"{self.network.label}: the engine has the tensors {names}, "
                f"the manifest names {spec.name!r} and {list(self.network.outputs)}"
            )
        return replace(expected_input(self.network), dtype=self.dtype(engine, spec.name))

    def dtype(self, engine: tensorrt.ICudaEngine, name: str) -> np.dtype[Any]:
        """The type of a tensor of the engine. Raises ModelError for one that numpy lacks."""
        kind = dtype_name(engine.get_tensor_dtype(name))
        if kind not in DTYPES.values():
            raise ModelError(f"{self.network.label}: tensor {name!r} is of type {kind}, which is not supported")
        return np.dtype(kind)

    def runner(self) -> TensorRtRunner:
        """An execution context with buffers of its own. Raises HardwareError where the GPU's memory does not suffice."""
        with self.turn:
            if self.engine is None:
                raise HardwareError("the TensorRT backend is closed")
            with self.memory.current():
                made = TensorRtRunner(self, self.engine)
            self._runners.append(made)
        return made

    def close(self) -> None:
        """Free everything, contexts before the engine, as each runner comes out. A second call does nothing."""
        with self.turn:
            engine, self.engine = self.engine, None
            runners, self._runners = self._runners, []
        if engine is None:
            return
        for runner in runners:
            with runner.busy, self.turn, self.memory.current():
                runner.free()
        with self.turn, self.memory.current():
            del engine
        self.memory.close()


class TensorRtRunner:
    """See ``Runner``. Made, run and freed with the context current."""

    def __init__(self, backend: TensorRtBackend, engine: tensorrt.ICudaEngine) -> None:
        self.busy = threading.Lock()
        """Held while it runs, taken before the backend's turn: its memory must not go meanwhile."""
        self._backend = backend
        self._messages = logger_of(backend.module)[1]
        context = engine.create_execution_context()
        if context is None:
            raise HardwareError(f"no execution context on the GPU: {self._messages.take()}")
        self._context: tensorrt.IExecutionContext | None = context
        self._stream = backend.memory.stream()
        try:
            self._prepare(backend, engine, context)
        except BaseException:
            self.free()
            raise
        self._replay: Callable[[], None] | None = None
        self._wants_graph = backend.cuda_graph

    def _prepare(
        self, backend: TensorRtBackend, engine: tensorrt.ICudaEngine, context: tensorrt.IExecutionContext
    ) -> None:
        """Buffers for every tensor, their addresses told to TensorRT."""
        name = backend.network.input.name
        if not context.set_input_shape(name, backend.input.shape):
            raise ModelError(f"{backend.network.label}: the engine does not take {backend.input.shape}")
        self._buffers: dict[str, Buffer] = {}
        for index in range(engine.num_io_tensors):
            tensor = engine.get_tensor_name(index)
            shape = sizes(context.get_tensor_shape(tensor))
            if min(shape, default=1) < 1:
                raise ModelError(
                    f"{backend.network.label}: the size of output {tensor!r} {shape} depends on the picture: "
                    "export the model without its suppression"
                )
            self._buffers[tensor] = self._stream.buffer(shape, backend.dtype(engine, tensor))
            if not context.set_tensor_address(tensor, self._buffers[tensor].address):
                raise HardwareError(f"TensorRT takes no memory for {tensor!r}: {self._messages.take()}")
        self._input = self._buffers[name]
        self._outputs = [self._buffers[output] for output in backend.network.outputs]
        self._results = [self._result(buffer.host) for buffer in self._outputs]

    @staticmethod
    def _result(host: NDArray[Any]) -> F32:
        """Where the caller finds an output: float32 where it arrives, other types in a copy."""
        return host if host.dtype == np.float32 else np.zeros(host.shape, np.float32)

    def __call__(self, tensor: NDArray[Any]) -> Sequence[F32]:
        """See ``Runner``."""
        try:
            with self.busy:
                self._run(tensor)
        except Exception as error:
            raise InferenceError(f"TensorRT: {error}") from error
        return self._results

    def _run(self, tensor: NDArray[Any]) -> None:
        backend = self._backend
        if self._context is None:
            raise HardwareError("it is closed")
        np.copyto(self._input.host, tensor, casting="no")
        with backend.turn, backend.memory.current():
            if self._replay is None:
                self._queue()
            else:
                self._replay()
            self._stream.synchronize()
            if self._wants_graph:
                self._record()
        for result, buffer in zip(self._results, self._outputs, strict=True):
            if result is not buffer.host:
                np.copyto(result, buffer.host, casting="unsafe")

    def _queue(self) -> None:
        assert self._context is not None
        self._input.upload()
        if not self._context.execute_async_v3(self._stream.handle):
            raise HardwareError(f"the engine does not run: {self._messages.take()}")
        for buffer in self._outputs:
            buffer.download()

    def _record(self) -> None:
        """Turn the work into a CUDA graph, once, after a first run that set everything up. Without one it goes on as it is."""
        self._wants_graph = False
        try:
            self._replay = self._stream.record(self._queue)
        except HardwareError as error:
            log.warning("tensorrt.cuda_graph: %s; it goes on without", error)

    def free(self) -> None:
        """Give back context, stream and buffers."""
        self._replay = self._context = None
        self._stream.close()
