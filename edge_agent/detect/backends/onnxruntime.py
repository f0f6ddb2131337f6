"""ONNX Runtime on the CPU: one session with one intra-op thread, called by several workers at once.

Two single-threaded calls in parallel give more frames per second than one call on two threads, and the session's
weights exist once. The runtime releases the GIL while it works.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_agent.detect.backends import InputTensor, LoadRequest
from edge_agent.detect.manifest import Network
from edge_agent.errors import HardwareError, InferenceError, ModelError
from edge_agent.types import F32

log = logging.getLogger(__name__)

PROVIDER = "CPUExecutionProvider"


class OnnxRuntimeBackend:
    """Loads the model's ONNX file. Raises ModelError (damaged or not as its manifest says), HardwareError (no runtime)."""

    device = "cpu"

    def __init__(self, request: LoadRequest) -> None:
        network = request.network
        # Read once at import: without it the package writes under the home directory and calls its maker.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        try:
            import onnxruntime
        except ImportError as error:
            raise HardwareError(f"onnxruntime is not installed ({error}): pip install 'edge-agent[onnx]'") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # A memory pattern is one block as large as all activations, for each parallel call, beside the arena's own.
        options.enable_mem_pattern = False
        if _small_arena(onnxruntime):
            options.add_session_config_entry("session.use_env_allocators", "1")
        try:
            # By path: from bytes the session would keep a second copy of the whole file.
            with network.verified() as paths:
                self._session = onnxruntime.InferenceSession(paths[0], options, providers=[PROVIDER])
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(f"{network.path}: ONNX Runtime cannot load it: {error}") from error
        if self._session.get_providers() != [PROVIDER]:
            raise HardwareError(f"ONNX Runtime runs on {self._session.get_providers()}, asked was {PROVIDER}")
        trim_heap()
        self._check(network)
        width, height = network.input.size
        self.input = InputTensor((1, 3, height, width), "NCHW", np.dtype(np.float32))
        self.concurrency = len(os.sched_getaffinity(0))
        self._input = network.input.name
        self._outputs = list(network.outputs)

    def _check(self, network: Network) -> None:
        spec = network.input
        inputs = {i.name: i for i in self._session.get_inputs()}
        outputs = {o.name for o in self._session.get_outputs()}
        where = f"model {network.label}"
        if set(inputs) != {spec.name} or not set(network.outputs) <= outputs:
            raise ModelError(
                f"{where}: the file has inputs {sorted(inputs)} and outputs {sorted(outputs)}, "
                f"the manifest names {spec.name!r} and {list(network.outputs)}"
            )
        shape = inputs[spec.name].shape
        expected = [1, 3, spec.size[1], spec.size[0]]
        fits = len(shape) == 4 and all(not isinstance(s, int) or s == e for s, e in zip(shape, expected, strict=True))
        if not fits or inputs[spec.name].type != "tensor(float)":
            raise ModelError(
                f"{where}: input {spec.name!r} is {inputs[spec.name].type} {shape}, the manifest says float32 {expected}"
            )

    def runner(self) -> OnnxRuntimeRunner:
        """A runner with buffers of its own."""
        return OnnxRuntimeRunner(self._session, self._input, self._outputs)

    def close(self) -> None:
        """The session goes with its last runner; the CPU has nothing to release."""


@functools.cache
def _small_arena(onnxruntime: Any) -> bool:
    """Let the process's one activation arena grow by 16 MB at most, not by doubling: 65 MB less with two workers."""
    growth = {"max_mem": 0, "arena_extend_strategy": 0, "initial_chunk_size_bytes": -1, "max_dead_bytes_per_chunk": -1}
    growth |= {"initial_growth_chunk_size_bytes": 2 * 2**20, "max_power_of_two_extend_bytes": 16 * 2**20}
    try:
        memory = onnxruntime.OrtMemoryInfo(
            "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
        )
        onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg(growth))
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:  # an older one knows fewer keys
        log.info("ONNX Runtime keeps its own arena: %s", error)
        return False
    return True


def trim_heap() -> None:
    """Give what loading a model left on the heap back to the system (glibc only)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class OnnxRuntimeRunner:
    """Runs with input and outputs bound to memory that is reused: nothing is copied or allocated per frame."""

    def __init__(self, session: Any, input_name: str, outputs: list[str]) -> None:
        self._session = session
        self._input = input_name
        self._names = outputs
        self._binding = session.io_binding()
        self._tensor: F32 | None = None
        self._bound: list[F32] = []

    def __call__(self, tensor: F32) -> Sequence[F32]:
        """See ``Runner``."""
        try:
            if tensor is not self._tensor:
                self._bind(tensor)
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            self._tensor = None
            raise InferenceError(f"ONNX Runtime: {error}") from error
        return self._bound

    def _bind(self, tensor: F32) -> None:
        """Bind the input and, from one plain run that shows their shapes, the outputs."""
        self._bound = [np.ascontiguousarray(o) for o in self._session.run(self._names, {self._input: tensor})]
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        self._binding.bind_input(self._input, "cpu", 0, tensor.dtype, tensor.shape, tensor.ctypes.data)
        for name, output in zip(self._names, self._bound, strict=True):
            self._binding.bind_output(name, "cpu", 0, output.dtype, output.shape, output.ctypes.data)
        self._tensor = tensor
