"""The table of backends that ``test_backends.py`` goes through. A further backend is one more row here.

A case is one file of a network. The reference for all is ONNX Runtime itself, without a line of ours, on the plain float
file of the same network (``tests/onnx_networks/make.py``).
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_agent.config import DetectConfig
from edge_agent.detect.backends import BACKENDS, Backend, InputTensor, LoadRequest
from edge_agent.detect.backends.cpu import multiplies_bytes
from edge_agent.detect.manifest import BackendName, FilePart, InputSpec, Manifest, ModelFile, Network
from edge_agent.types import F32
from tests.tflite_fixtures import stand_in

ONNX = Path(__file__).parent.parent / "onnx_networks"
TFLITE = Path(__file__).parent.parent / "tflite_networks"
Files = Callable[[Path], list[Path]]
"""Puts a file and its parts into a folder."""


def copied(*names: str, source: Path = ONNX) -> Files:
    """Committed files."""
    return lambda folder: [Path(shutil.copy(source / name, folder)) for name in names]


def as_ir(name: str) -> Files:
    """An IR made of a committed ONNX file by OpenVINO itself."""

    def make(folder: Path) -> list[Path]:
        from edge_agent.detect.backends import openvino

        package = openvino.import_openvino()
        model = package.Core().read_model(str(ONNX / f"{name}.onnx"))
        package.save_model(model, str(folder / f"{name}.xml"), compress_to_fp16=False)
        return [folder / f"{name}.xml", folder / f"{name}.bin"]

    return make


@dataclass(frozen=True)
class Case:
    """One file of a network and what its manifest says. ``tolerance`` is relative to the largest value of an output."""

    name: str
    files: Files
    dtype: Literal["float32", "float16", "uint8", "int8"] = "float32"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    outputs: tuple[str, ...] = ("grid", "mean")
    tolerance: float = 1e-5
    input_name: str = "image"
    size: tuple[int, int] = (32, 24)
    device: Literal["any", "edgetpu"] = "any"
    backend: BackendName = "onnxruntime"
    reference: str = "float"
    answers: tuple[str, ...] = ("grid", "mean")
    """What the reference calls the outputs."""

    @property
    def shape(self) -> list[int]:
        """Of the input."""
        width, height = self.size
        return [1, 3, height, width] if self.layout == "NCHW" else [1, height, width, 3]


ONNX_CASES = (
    Case("float", copied("float.onnx")),
    Case("nhwc", copied("nhwc.onnx"), layout="NHWC"),
    Case("uint8", copied("uint8.onnx"), dtype="uint8", layout="NHWC"),
    Case("int8", copied("int8.onnx"), dtype="int8"),
    Case("float16", copied("float16.onnx"), dtype="float16", precision="fp16", tolerance=0.02),
    Case("dynamic", copied("dynamic.onnx")),
    Case("quantised", copied("quantised.onnx"), precision="int8", tolerance=0.03),
    Case("external", copied("external.onnx", "external.bin")),
)


def _cells(name: str, outputs: Sequence[str], **more: Any) -> Case:
    """A file of the TFLite network that finds light squares."""
    about: dict[str, Any] = {"backend": "tflite", "layout": "NHWC", "size": (64, 48), "reference": "cells"}
    about |= {"input_name": "images", "answers": tuple(outputs), "outputs": tuple(outputs)}
    return Case(name.replace("_", "-"), copied(f"{name}.tflite", source=TFLITE), **about | more)


_INT8: dict[str, Any] = {"precision": "int8", "tolerance": 0.02}
TFLITE_CASES = (
    _cells("int8_float_io", ("boxes", "scores"), **_INT8),
    _cells("float", ("output0",)),
    _cells("float_nchw", ("output0",), layout="NCHW"),
    _cells("int8", ("boxes", "scores"), dtype="int8", **_INT8),
    _cells("uint8", ("boxes", "scores"), dtype="uint8", **_INT8),
)
_COMPILED = replace(
    _cells("edgetpu", ("boxes", "scores"), dtype="int8", **_INT8),
    device="edgetpu",
    input_name="serving_default_images:0",
    outputs=("PartitionedCall:0", "PartitionedCall:1"),
)


@dataclass(frozen=True)
class Row:
    """A backend. The first case serves where one network is enough."""

    name: str
    backend: str
    cases: Sequence[Case]
    packages: tuple[str, ...]
    """Packages without which it cannot run."""
    install: str
    """What is said to whoever lacks them."""
    config: Callable[[], dict[str, Any]] = dict
    hardware: str = ""
    """Marker of the device it needs; empty where every box can run it."""
    prepare: Callable[[LoadRequest], object] = lambda _: None
    """What must be done once before a network can be loaded."""

    @property
    def detect(self) -> DetectConfig:
        """Its configuration."""
        return DetectConfig.model_validate(self.config())


def _build_engine(request: LoadRequest) -> None:
    from edge_agent.detect.backends.tensorrt import build, engine_ready

    if not engine_ready(request):
        build(request)


_SATURATED = 0.03 if multiplies_bytes() else 0.2
"""Of int8 files in OpenVINO: on x86 without VNNI its kernels add products of bytes in 16 bits and lose what does not fit (ADR 007)."""

ROWS = (
    Row("onnxruntime", "onnxruntime", ONNX_CASES, ("onnxruntime",), "pip install onnxruntime"),
    Row(
        "openvino",
        "openvino",
        (
            *(replace(case, tolerance=_SATURATED) if case.name == "quantised" else case for case in ONNX_CASES),
            Case("ir", as_ir("float"), backend="openvino"),
            Case("ir-int8", as_ir("quantised"), precision="int8", tolerance=_SATURATED, backend="openvino"),
        ),
        ("openvino",),
        "pip install openvino",
        lambda: {"openvino": {"device": "CPU"}},
    ),
    Row("tflite", "tflite", TFLITE_CASES, ("ai_edge_litert", "tflite_runtime"), "pip install ai-edge-litert"),
    Row(
        "edgetpu_stand_in",
        "tflite",
        (_COMPILED,),
        ("ai_edge_litert", "tflite_runtime"),
        "pip install ai-edge-litert",
        # Through the real delegate interface, to a library of ours that does what the chip would.
        lambda: {"tflite": {"delegate": stand_in(), "devices": ["usb:0", "pci:0"]}},
    ),
    Row(
        "tensorrt",
        "tensorrt",
        # GPUs multiply float32 with fewer bits (TF32).
        tuple(replace(c, tolerance=max(c.tolerance, 2e-3)) for c in ONNX_CASES if c.dtype in ("float32", "float16")),
        ("tensorrt",),
        "apt install python3-libnvinfer",
        lambda: {"tensorrt": {"precision": "fp32"}},
        hardware="gpu",
        prepare=_build_engine,
    ),
)


def network(case: Case, folder: Path, **change: Any) -> Network:
    """The case's files in ``folder`` under a manifest; ``change`` replaces fields of its input, or its ``outputs``."""
    folder.mkdir(exist_ok=True)
    files = case.files(folder)
    outputs = change.pop("outputs", case.outputs)
    spec = {"name": case.input_name, "size": case.size, "layout": case.layout, "dtype": case.dtype} | change
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    file = ModelFile(
        backend=case.backend,
        path=files[0].name,
        sha256=digests[0],
        precision=case.precision,
        device=case.device,
        parts=tuple(FilePart(path=f.name, sha256=d) for f, d in zip(files[1:], digests[1:], strict=True)),
    )
    manifest = Manifest(
        manifest=1,
        name="tiny",
        version="1",
        family="yolov8",
        licence="Apache-2.0",
        labels=("a",),
        input=InputSpec(colour="RGB", **spec),
        outputs=outputs,
        files=(file,),
    )
    return Network(manifest, file, folder)


def load(row: Row, network: Network) -> Backend:
    """Load as the agent does, with a cache folder of its own beside the model's folder."""
    request = LoadRequest(network, row.detect, network.folder.parent / "cache")
    row.prepare(request)
    return BACKENDS[row.backend](request)


def available(row: Row) -> str:
    """What the backend's module says."""
    return str(importlib.import_module(f"edge_agent.detect.backends.{row.backend}").available(row.detect))


def picture(wanted: InputTensor, seed: int) -> tuple[NDArray[Any], F32]:
    """A random input as the backend wants it, and the same as real numbers in NCHW."""
    random = np.random.default_rng(seed)
    if wanted.dtype.kind == "f":
        tensor = random.random(wanted.shape, np.float32).astype(wanted.dtype)
        real = tensor.astype(np.float32)
    else:
        info = np.iinfo(wanted.dtype)
        tensor = random.integers(info.min, info.max + 1, wanted.shape, wanted.dtype)
        real = ((tensor.astype(np.float32) - wanted.zero_point) * wanted.scale).astype(np.float32)
    return tensor, real if wanted.layout == "NCHW" else np.ascontiguousarray(real.transpose(0, 3, 1, 2))


@functools.cache
def _session(name: str) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(ONNX / f"{name}.onnx", providers=["CPUExecutionProvider"])


def reference(case: Case, real: F32) -> list[F32]:
    """The outputs as ONNX Runtime has them for real numbers in NCHW."""
    answers: list[F32] = _session(case.reference).run(case.answers, {"image": real})
    return answers


def assert_close(case: Case, given: Sequence[F32], expected: Sequence[F32]) -> None:
    """Equal within the case's tolerance."""
    assert [g.shape for g in given] == [e.shape for e in expected]
    for ours, theirs in zip(given, expected, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=case.tolerance * max(1.0, float(np.abs(theirs).max())))
