"""ONNX Runtime: one session, called by several workers at once; on the CPU each call takes one core by default.

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
from numpy.typing import NDArray

from edge_agent.config import DetectConfig
from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.backends.files import placed
from edge_agent.detect.backends.fit import TensorFacts, check_fit, expected_input
from edge_agent.detect.manifest import Network
from edge_agent.errors import HardwareError, InferenceError, ModelError
from edge_agent.types import F32

log = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"
_NUMERIC = {"float": "float32", "float16": "float16", "double": "float64", "bool": "bool"} | {
    f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
_FILE_ERRORS = ("InvalidProtobuf", "InvalidGraph", "InvalidArgument", "NoModel")
"""What the runtime raises for the file itself; any other error may be the provider's."""


def available(config: DetectConfig) -> str:
    """Empty where the package and the first provider of the configuration are there, else why not."""
    try:
        _first_provider(_import(), config)
    except HardwareError as error:
        return str(error)
    except Exception as error:  # half-installed packages raise anything
        log.debug("asking for ONNX Runtime", exc_info=True)
        return f"onnxruntime is broken ({type(error).__name__}: {error}): install it anew"
    return ""


def _import() -> Any:
    # Read once at import: without it the package writes under the home directory and calls its maker.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise HardwareError(f"onnxruntime is not installed ({error}): pip install onnxruntime") from error
    return onnxruntime


def _first_provider(onnxruntime: Any, config: DetectConfig) -> str:
    first, there = config.onnxruntime.providers[0], onnxruntime.get_available_providers()
    if first not in there:
        raise HardwareError(f"this ONNX Runtime has no {first} (it has: {', '.join(there)})")
    return first


class OnnxRuntimeBackend:
    """Loads the model's ONNX file. Raises ModelError (damaged or not as its manifest says), HardwareError (no runtime or
    provider).

    The first provider of the configuration must really run the model. What it cannot do runs on the others that are
    named, and on the CPU only where that is named.
    """

    def __init__(self, request: LoadRequest) -> None:
        network, settings = request.network, request.config.onnxruntime
        onnxruntime = _import()
        first = _first_provider(onnxruntime, request.config)
        there = onnxruntime.get_available_providers()
        if missing := [name for name in settings.providers if name not in there]:
            log.warning("this ONNX Runtime has no %s, which detect.onnxruntime.providers names", ", ".join(missing))
        providers = [name for name in settings.providers if name in there]
        options = _options(onnxruntime, settings.threads, providers)
        self._session = _load(onnxruntime, request, options, providers)
        if (used := self._session.get_providers())[0] != first:
            raise HardwareError(
                f"ONNX Runtime could not start {first} and would run on {', '.join(used)}: is its driver installed?"
            )
        trim_heap()
        self._check(network)
        self.input = expected_input(network)
        self.device = first.removesuffix("ExecutionProvider").lower()
        cores = len(os.sched_getaffinity(0))
        self.concurrency = max(1, cores // settings.threads) if first == CPU else 2
        self._outputs = list(network.outputs)

    def _check(self, network: Network) -> None:
        outputs = {o.name: _dtype(o.type) for o in self._session.get_outputs()}
        inputs = [
            TensorFacts(i.name, _dtype(i.type), [s if isinstance(s, int) else None for s in i.shape])
            for i in self._session.get_inputs()
        ]
        check_fit(network, inputs, outputs)
        if odd := {name: outputs[name] for name in network.outputs if outputs[name] not in _NUMERIC.values()}:
            raise ModelError(f"model {network.label}: outputs {odd} of {network.file.path} are no tensors of numbers")

    def runner(self) -> OnnxRuntimeRunner:
        """A runner with buffers of its own. Raises HardwareError once closed."""
        if self._session is None:
            raise HardwareError("the ONNX Runtime backend is closed")
        return OnnxRuntimeRunner(self._session, self._outputs)

    def close(self) -> None:
        """The session goes with its last runner."""
        self._session = None


def _dtype(type_: str) -> str:
    """``tensor(float)`` in numpy's words; what is no tensor of numbers as it is."""
    return _NUMERIC.get(type_.removeprefix("tensor(").removesuffix(")"), type_)


def _options(onnxruntime: Any, threads: int, providers: list[str]) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A memory pattern is one block as large as all activations, for each parallel call, beside the arena's own.
    options.enable_mem_pattern = False
    # Threads that spin while they wait take the cores from cameras and workers: twice the CPU time, and slower on a busy box.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if CPU not in providers:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if _small_arena(onnxruntime):
        options.add_session_config_entry("session.use_env_allocators", "1")
    return options


def _load(onnxruntime: Any, request: LoadRequest, options: Any, providers: list[str]) -> Any:
    with placed(request) as paths:
        try:
            # By path: from bytes the session would keep a second copy of the whole file. Without its own fallback,
            # which prints to stdout and goes on on another provider.
            return onnxruntime.InferenceSession(paths[0], options, providers=providers, enable_fallback=0)
        except Exception as error:
            said = f"{request.network.path}: ONNX Runtime cannot load it"
            if providers[0] == CPU or type(error).__name__ in _FILE_ERRORS:
                raise ModelError(f"{said}: {error}") from error
            raise HardwareError(f"{said} with {providers[0]}, is its driver installed? {error}") from error


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
    """Runs with input and outputs bound to memory that is reused: nothing is copied or allocated per frame.

    Except for outputs that are no float32 or whose size the picture decides: they are made anew for each.
    """

    def __init__(self, session: Any, outputs: list[str]) -> None:
        self._session = session
        self._input = session.get_inputs()[0]
        self._names = outputs
        self._fixed = _fixed_shapes(session)
        self._binding = session.io_binding()
        self._tensor: NDArray[Any] | None = None
        self._bound: list[NDArray[Any] | None] = []
        self._plain = False

    def __call__(self, tensor: NDArray[Any]) -> Sequence[F32]:
        """See ``Runner``."""
        try:
            if tensor is not self._tensor:
                self._bind(tensor)
            self._session.run_with_iobinding(self._binding)
            if self._plain:
                return self._bound  # type: ignore[return-value]
            values = self._binding.get_outputs()
        except Exception as error:
            self._tensor = None
            raise InferenceError(f"ONNX Runtime: {error}") from error
        return [
            _float32(value.numpy() if bound is None else bound)
            for bound, value in zip(self._bound, values, strict=True)
        ]

    def _bind(self, tensor: NDArray[Any]) -> None:
        """Bind the input and, from one plain run that shows their shapes, the outputs."""
        shown = self._session.run(self._names, {self._input.name: tensor})
        self._bound = [
            np.ascontiguousarray(o) if name in self._fixed else None for name, o in zip(self._names, shown, strict=True)
        ]
        self._plain = all(o is not None and o.dtype == np.float32 for o in self._bound)
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        self._binding.bind_input(self._input.name, "cpu", 0, tensor.dtype, tensor.shape, tensor.ctypes.data)
        for name, output in zip(self._names, self._bound, strict=True):
            if output is None:
                self._binding.bind_output(name, "cpu")
            else:
                self._binding.bind_output(name, "cpu", 0, output.dtype, output.shape, output.ctypes.data)
        self._tensor = tensor


def _float32(output: NDArray[Any]) -> F32:
    return output.astype(np.float32, copy=False)


def _fixed_shapes(session: Any) -> set[str]:
    """Outputs whose shape is the same for every picture: known sizes, or names that the input's shape gives a value."""
    known = set(session.get_inputs()[0].shape)
    return {
        o.name
        for o in session.get_outputs()
        if all(isinstance(s, int) or (s is not None and s in known) for s in o.shape)
    }
