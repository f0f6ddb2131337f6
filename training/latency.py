"""How long one inference takes on the CPU, networks taking turns so that a busy machine is unfair to none."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

Run = Callable[[], object]
Key = TypeVar("Key")
RUNTIMES = {".onnx": ("onnxruntime", "openvino"), ".tflite": ("litert",)}
"""What runs a file, by its suffix."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one inference of a file, and of YOLOX-nano's architecture in ONNX Runtime with as many threads."""

    file: str
    runtime: str
    threads: int
    ms: float
    reference_ms: float

    @property
    def ratio(self) -> float:
        """Against the reference: what can be compared between machines."""
        return self.ms / self.reference_ms

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {**asdict(self), "ms": round(self.ms, 3), "reference_ms": round(self.reference_ms, 3)} | {
            "ratio": round(self.ratio, 3)
        }


def _pixels(shape: Sequence[Any]) -> Any:
    sides = [side if isinstance(side, int) else 1 for side in shape]
    return np.random.default_rng(0).uniform(-1, 1, sides).astype(np.float32)


def onnx_runner(path: Path, threads: int = 1) -> Run:
    """One inference of an ONNX file in ONNX Runtime on random pixels."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # it must be set before the import
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    place = session.get_inputs()[0]
    tensor = _pixels(place.shape)
    return lambda: session.run(None, {place.name: tensor})


def openvino_runner(path: Path, threads: int = 1) -> Run:
    """One inference of an ONNX file in OpenVINO, compiled as the agent does it but for one picture at a time."""
    from edge_agent.detect.backends.openvino import import_openvino

    openvino = import_openvino()
    core = openvino.Core()
    frontend = openvino.frontend.FrontEndManager().load_by_framework("onnx")
    model = frontend.convert(frontend.load(str(path)))
    place = model.inputs[0]
    tensor = _pixels([1 if side.is_dynamic else side.get_length() for side in place.get_partial_shape()])
    model.reshape({place.any_name: list(tensor.shape)})
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads}
    if not any(op.get_type_name() == "FakeQuantize" for op in model.get_ops()):
        settings["INFERENCE_PRECISION_HINT"] = "f32"  # newer CPUs would calculate in bfloat16 unasked
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(tensor, shared_memory=True))
    return lambda: (request.start_async(), request.wait())


def tflite_runner(path: Path, threads: int = 1) -> Run:
    """One inference of a TFLite file in LiteRT on random pixels."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter: Any = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    place = interpreter.get_input_details()[0]
    tensor = _pixels(place["shape"].tolist())
    if place["dtype"] != np.float32:
        tensor = (tensor * 127).astype(place["dtype"])
    interpreter.set_tensor(place["index"], tensor)
    return interpreter.invoke


_RUNNERS = {"onnxruntime": onnx_runner, "openvino": openvino_runner, "litert": tflite_runner}
_PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai_edge_litert"}


def missing() -> list[str]:
    """Packages of runtimes that are not installed: they are left out of the table."""
    return [package for package in _PACKAGES.values() if importlib.util.find_spec(package) is None]


def files_of(paths: Sequence[Path]) -> list[Path]:
    """Network files: those named, and those in the folders named. Raises ValueError where there is none."""
    found: list[Path] = []
    for path in paths:
        found += sorted(p for p in path.iterdir() if p.suffix in RUNTIMES) if path.is_dir() else [path]
    for path in found:
        if path.suffix not in RUNTIMES:
            raise ValueError(f"{path}: give {' or '.join(RUNTIMES)} files, or a folder with some")
    if not found:
        raise ValueError(f"no {' or '.join(RUNTIMES)} file in {', '.join(map(str, paths))}")
    return found


def compare(runners: Mapping[Key, Run], rounds: int = 60, warm: int = 5) -> dict[Key, float]:
    """Milliseconds of each: the fastest quarter's mean, as only its own work slows it down there.

    One inference of each in every round, each after one that is not counted (so that all find warm caches, and threads of the
    one before that still spin have gone to sleep).
    """
    times: dict[Key, list[float]] = {name: [] for name in runners}
    for turn in range(rounds + warm):
        for name, call in runners.items():
            call()
            began = time.perf_counter()
            call()
            if turn >= warm:
                times[name].append((time.perf_counter() - began) * 1000)
    return {name: float(np.mean(sorted(values)[: max(1, len(values) // 4)])) for name, values in times.items()}


def measure_files(paths: Sequence[Path], size: int, threads: Sequence[int] = (1, 2), rounds: int = 60) -> list[Timing]:
    """Every file in every runtime that is here and takes it, for each number of threads in turns with the reference of ``size``."""
    from training.reference import export_reference

    absent, names = missing(), [path.name for path in paths]
    result: list[Timing] = []
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference.onnx"
        export_reference(reference, size)
        for count in threads:
            runners: dict[tuple[str, str], Run] = {("", ""): onnx_runner(reference, count)}
            for path in paths:
                name = path.name if names.count(path.name) == 1 else str(path)
                for runtime in RUNTIMES[path.suffix]:
                    if _PACKAGES[runtime] not in absent:
                        runners[name, runtime] = _RUNNERS[runtime](path, count)
            times = compare(runners, rounds)
            yardstick = times.pop(("", ""))
            result += [Timing(name, runtime, count, ms, yardstick) for (name, runtime), ms in times.items()]
    return result


def table(timings: Sequence[Timing]) -> str:
    """In Markdown."""
    head = "| file | runtime | threads | ms | against reference |\n|---|---|---|---|---|\n"
    return head + "".join(f"| {t.file} | {t.runtime} | {t.threads} | {t.ms:.1f} | {t.ratio:.2f} |\n" for t in timings)
