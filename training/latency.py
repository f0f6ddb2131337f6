"""How long one inference takes on the CPU, networks taking turns so that a busy machine is unfair to none."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np


def onnx_runner(path: Path, threads: int = 1) -> Callable[[], object]:
    """One inference of an ONNX file on random pixels."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # it must be set before the import
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    place = session.get_inputs()[0]
    shape = [1 if not isinstance(d, int) else d for d in place.shape]
    tensor = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    return lambda: session.run(None, {place.name: tensor})


def compare(runners: Mapping[str, Callable[[], object]], rounds: int = 60, warm: int = 5) -> dict[str, float]:
    """Milliseconds of each: the fastest quarter's mean, as only its own work slows it down there.

    One inference of each in every round, each after one that is not counted (so that all find warm caches).
    """
    times: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(rounds + warm):
        for name, call in runners.items():
            call()
            began = time.perf_counter()
            call()
            if turn >= warm:
                times[name].append((time.perf_counter() - began) * 1000)
    return {name: float(np.mean(sorted(values)[: max(1, len(values) // 4)])) for name, values in times.items()}


def against_reference(files: Mapping[str, Path], size: int, rounds: int = 60) -> dict[str, float]:
    """Milliseconds of ONNX files and of ``reference``, YOLOX-nano's architecture, on one thread in turns."""
    import tempfile

    from training.reference import export_reference

    with tempfile.TemporaryDirectory() as folder:
        export_reference(Path(folder) / "reference.onnx", size)
        runners = {"reference": onnx_runner(Path(folder) / "reference.onnx")}
        return compare({**runners, **{name: onnx_runner(path) for name, path in files.items()}}, rounds)
