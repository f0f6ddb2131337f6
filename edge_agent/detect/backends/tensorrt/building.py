"""Builds an engine in a child process, beside whatever is serving, and tries it there before it is stored."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import asdict
from typing import Any

import numpy as np

from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.backends.tensorrt.backend import TensorRtBackend, load_engine
from edge_agent.detect.backends.tensorrt.cache import EngineKey, key_for, write_engine
from edge_agent.detect.backends.tensorrt.calibrate import make_calibrator
from edge_agent.detect.backends.tensorrt.compiler import Compiler, Recipe, read_onnx
from edge_agent.detect.backends.tensorrt.memory import DeviceMemory, open_memory
from edge_agent.detect.backends.tensorrt.vendor import load_tensorrt, missing, numbers
from edge_agent.detect.child import Progress, Say, run_child, serve
from edge_agent.errors import HardwareError, InferenceError, ModelError

log = logging.getLogger(__name__)

MODULE = "tensorrt"
TIMEOUT_S = 2 * 3600.0
"""A large network in int8 on the smallest Jetson; usual are one to fifteen minutes."""
NICENESS = 10
"""The cameras come first."""


def build(request: LoadRequest, progress: Progress | None = None, *, cancel: threading.Event | None = None) -> bool:
    """Build and store the engine for ``request``; blocks for minutes. False where ``cancel`` was set meanwhile.

    ``progress(doing, fraction or None)`` is called in this thread. Raises HardwareError (no TensorRT or GPU, out of
    memory, the child crashed) and ModelError (TensorRT cannot take the network).
    """
    if reason := missing():
        raise HardwareError(reason)
    network, key = request.network, key_for(request)
    asked = {
        **request.to_json(),
        "key": asdict(key),
    }
    began = time.monotonic()
    reply = run_child(
        "edge_agent.detect.backends.tensorrt.building",
        asked,
        what=f"building the TensorRT engine of {network.label}",
        timeout_s=TIMEOUT_S,
        niceness=NICENESS,
        progress=progress,
        cancel=cancel,
    )
    if reply is None:
        return False
    log.info("built %s (%s) in %.0f s", reply["path"], reply["precision"], time.monotonic() - began)
    return True


def _perform(asked: dict[str, Any], say: Say) -> dict[str, Any]:
    """The child's part."""
    request = LoadRequest.from_json(asked)
    facts = asked["key"]
    key = EngineKey(**{**facts, "shape": tuple(facts["shape"]), "outputs": tuple(facts["outputs"])})
    say("starting CUDA")
    config = request.config.tensorrt
    memory = open_memory(config.memory, config.device)
    with memory.current():
        say("loading TensorRT")
        trt = load_tensorrt(MODULE)
        if numbers(trt.__version__) != numbers(key.tensorrt):
            raise HardwareError(
                f"the library is TensorRT {trt.__version__}, its package says {key.tensorrt}: two versions are installed"
            )
        plan, precision = make_plan(MODULE, request, key, memory, say)
    say("trying the engine")
    try_plan(MODULE, plan, request, memory)
    path = write_engine(key, plan, precision, request.cache)
    return {"path": str(path), "precision": precision}


def make_plan(
    module: str, request: LoadRequest, key: EngineKey, memory: DeviceMemory | None, say: Say
) -> tuple[memoryview, str]:
    """The serialised engine and its precision. ``memory`` is needed for calibration only. Raises ModelError, HardwareError."""
    network, config = request.network, request.config.tensorrt
    if not network.file.path.lower().endswith(".onnx"):
        raise ModelError(
            f"{network.path}: TensorRT engines are built from ONNX; one built elsewhere fits that machine only"
        )
    pictures = key.calibration and memory and hasattr(load_tensorrt(module), "IInt8EntropyCalibrator2")
    calibrator = make_calibrator(module, request, memory, say) if pictures and memory else None
    with network.verified() as paths:
        onnx, external = read_onnx(paths, network.folder.absolute(), network.file.path)
        recipe = Recipe(
            where=f"model {network.label}: {network.path}",
            input=network.input.name,
            dtype=network.input.dtype,
            shape=key.shape,
            outputs=network.outputs,
            precision=key.precision,
            max_batch=key.max_batch,
            workspace_mb=config.workspace_mb,
            external=external,
            calibrator=None if calibrator is None else lambda: calibrator,
        )
        try:
            compiled = Compiler(module, say).compile(onnx, recipe)
        finally:
            if calibrator is not None:
                calibrator.close()
                if calibrator.failure is not None:
                    raise calibrator.failure
    return compiled.plan, compiled.precision


def try_plan(module: str, plan: memoryview, request: LoadRequest, memory: DeviceMemory) -> None:
    """Load the engine and run it once on nothing; closes ``memory``. Raises ModelError, HardwareError."""
    engine = load_engine(module, plan, memory, "the new engine")
    backend = TensorRtBackend(module, engine, memory, request.network, "trial", cuda_graph=False)
    try:
        try:
            outputs = backend.runner()(np.zeros(backend.input.shape, backend.input.dtype))
        except InferenceError as error:
            raise HardwareError(f"{request.network.path}: the new engine does not run: {error}") from error
        if not all(np.isfinite(output).all() for output in outputs):
            raise ModelError(
                f"{request.network.path}: the engine's outputs are not finite; choose tensorrt.precision: fp32"
            )
    finally:
        backend.close()


if __name__ == "__main__":
    serve(_perform)
