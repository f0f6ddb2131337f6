"""TensorFlow Lite (LiteRT): the CPU, Coral's Edge TPU, NXP's NPUs, any delegate.

An interpreter is used by one thread at a time. On the CPU each runner has its own (the weights are one mapping of the
file); an Edge TPU has one, and runners take turns. A network compiled in segments is a chain of interpreters, each on an
Edge TPU of its own where there are several: while one picture is in the second segment the next is in the first.
"""

from __future__ import annotations

import contextlib
import os
import threading
import traceback
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.detect.backends import InputTensor, LoadRequest
from edge_agent.detect.backends.fit import TensorFacts, check_fit, expected_input
from edge_agent.detect.backends.tflite_delegates import accelerator, available, choose, edge_tpus, import_runtime
from edge_agent.detect.backends.tflite_stages import Chain, Stage, TensorInfo, connect, open_stage
from edge_agent.errors import EdgeAgentError, HardwareError, InferenceError, ModelError
from edge_agent.types import F32

__all__ = ["TfliteBackend", "TfliteRunner", "accelerator", "available", "edge_tpus"]


class TfliteBackend:
    """Loads a ``.tflite`` file and the segments after it.

    Raises ModelError (damaged or not as its manifest says) and HardwareError (no runtime, delegate or Edge TPU).
    """

    def __init__(self, request: LoadRequest) -> None:
        self._network = network = request.network
        self._config = request.config.tflite
        for_edgetpu = network.file.device == "edgetpu"
        self._accelerator = choose(self._config, for_edgetpu)
        self._runtime = import_runtime(for_edgetpu)
        self._stages: weakref.WeakSet[Stage] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._runners = 0
        with contextlib.ExitStack() as stack:
            self._paths = stack.enter_context(network.verified())
            segments, devices = len(self._paths), len(self._accelerator.options) if self._accelerator else 0
            try:
                # On the CPU every runner gets a chain of its own, the first one this.
                self._chains = [self._open_chain(lane) for lane in range(max(1, devices // segments))]
                self.input = self._check(self._chains[0])
            except EdgeAgentError as error:
                for stage in list(self._stages):
                    stage.close()
                _let_go(error)
                raise
            # Kept open: runners are made later, from the very files that were verified.
            self._files = stack.pop_all()
        cores = len(os.sched_getaffinity(0))
        self.concurrency = min(devices, len(self._chains) * segments) or max(1, cores // self._config.threads)
        self.device = self._device()

    def runner(self) -> TfliteRunner:
        """A runner; of those on one Edge TPU one runs at a time. Raises ModelError, HardwareError, also once closed."""
        with self._lock:
            if not self._paths:
                raise HardwareError("the TensorFlow Lite backend is closed")
            number = self._runners
            self._runners += 1
            if self._accelerator is not None:
                return TfliteRunner(self._chains[number % len(self._chains)])
            return TfliteRunner(self._chains.pop() if self._chains else self._open_chain(0))

    def close(self) -> None:
        """Let go of the devices and the file."""
        with self._lock:
            self._paths = []
        for stage in list(self._stages):
            stage.close()
        self._stages.clear()
        self._chains = []
        self._files.close()

    def _open_chain(self, lane: int) -> Chain:
        stages: list[Stage] = []
        for segment, path in enumerate(self._paths):
            library, options = None, {}
            if (chosen := self._accelerator) is not None:
                number = lane * len(self._paths) + segment
                library, options = chosen.library, dict(chosen.options[number % len(chosen.options)])
            stages.append(
                open_stage(
                    self._runtime,
                    self._network,
                    segment,
                    path,
                    threads=self._config.threads,
                    library=library,
                    options=options,
                )
            )
            self._stages.add(stages[-1])
        return connect(self._network, stages)

    def _check(self, chain: Chain) -> InputTensor:
        network, tensor = self._network, chain.image
        given = TensorFacts(
            network.input.name if network.input.name in tensor.names else tensor.names[0],
            tensor.dtype.name,
            tensor.shape,
        )
        names = {name for stage in chain.stages for output in stage.outputs for name in output.names}
        check_fit(network, [given], names)
        if tensor.dtype.kind == "f" or tensor.scale is None:
            return expected_input(network)
        if tensor.scale.size != 1:
            raise ModelError(
                f"model {network.label}: input {given.name!r} is quantised per channel: this is not supported"
            )
        return expected_input(network, float(tensor.scale.flat[0]), int(tensor.zero.flat[0]))

    def _device(self) -> str:
        if self._accelerator is None:
            return "cpu"
        idle = [stage.delegated is False for stage in self._stages]
        if all(idle):
            return f"cpu (delegate {self._accelerator.name} took no operation)"
        return self._accelerator.name


class TfliteRunner:
    """Runs a chain of interpreters; its outputs are float32 buffers that are used again."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._held: dict[tuple[int, int], NDArray[Any]] = {}
        self._results: list[F32] = [np.empty(chain.info(key).shape, np.float32) for key in chain.results]

    def __call__(self, tensor: NDArray[Any]) -> Sequence[F32]:
        """See ``Runner``."""
        image = self._chain.image
        if tensor.shape != image.shape or tensor.dtype != image.dtype:
            raise InferenceError(
                f"TensorFlow Lite: input is {tensor.dtype} {tensor.shape}, not {image.dtype} {image.shape}"
            )
        try:
            for number, stage in enumerate(self._chain.stages):
                with stage.lock:
                    for target, source in zip(stage.inputs, self._chain.feeds[number], strict=True):
                        np.copyto(stage.view(target), tensor if source is None else self._held[source])
                    stage.invoke()
                    self._collect(number, stage)
        except InferenceError:
            raise
        except Exception as error:
            raise InferenceError(f"TensorFlow Lite: {error}") from error
        return self._results

    def _collect(self, number: int, stage: Stage) -> None:
        """Take the outputs along before another thread runs the interpreter: views of them must not outlive this."""
        for place, output in enumerate(stage.outputs):
            key = (number, place)
            view = stage.view(output)
            if key in self._chain.forwarded:
                if key not in self._held:
                    self._held[key] = np.empty_like(view)
                np.copyto(self._held[key], view)
            for slot, wanted in enumerate(self._chain.results):
                if wanted == key:
                    self._results[slot] = dequantise(view, output, self._results[slot])


def _let_go(error: BaseException | None) -> None:
    """Empty the frames of a traceback: as long as somebody kept the error they would keep an interpreter and its device."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__


def dequantise(value: NDArray[Any], tensor: TensorInfo, out: F32) -> F32:
    """Real numbers of an output into ``out``, or into a new array where its shape has changed (dynamic outputs)."""
    if out.shape != value.shape:
        out = np.empty(value.shape, np.float32)
    if tensor.scale is None:
        np.copyto(out, value, casting="unsafe")
    else:
        np.subtract(value, tensor.zero, out=out, dtype=np.float32, casting="unsafe")
        out *= tensor.scale
    return out
