"""``model compile``: the file for a device. OpenVINO and Coral get a copy of the version with one more file in it.

A TensorRT engine fits one box only: it is built into the agent's cache, where the agent finds it, and is no part of a model.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from edge_agent.config import DetectConfig
from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.backends.choice import usable_files
from edge_agent.detect.child import Progress, run_child
from edge_agent.detect.manifest import Model, ModelFile, Network
from edge_agent.errors import HardwareError, ModelError, UsageError
from edge_agent.model_tools.merge import copy_files
from edge_agent.model_tools.sight import look, warnings
from edge_agent.model_tools.staging import free_place, publish, sha256, staging_folder, write_manifest

Target = Literal["tensorrt", "coral", "openvino"]
CONVERT_S = 1800.0
COMPILE_S = 3600.0
MAX_REPORT = 200_000
HOW_TO_GET_IT = (
    "edgetpu_compiler is not installed. Google gives it for 64-bit x86 Debian and Ubuntu only "
    "(coral.ai/docs/edgetpu/compiler): add the source 'deb https://packages.cloud.google.com/apt coral-edgetpu-stable main', "
    "then apt-get install edgetpu-compiler. On another machine run: edgetpu_compiler -s {path}, and give the result to "
    "`edge-agent model import`"
)


@dataclass(frozen=True, slots=True)
class CompileRequest:
    """What to make of which model. ``cache`` is the agent's own; ``version`` None: the old one and ``-target``."""

    model: Model
    target: Target
    models_dir: Path
    config: DetectConfig
    cache: Path
    version: str | None = None
    replace: bool = False
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class Compiled:
    """What came of it: the model version or the engine's place, a sentence, and what to know."""

    made: str
    text: str
    warnings: tuple[str, ...] = ()


def compile_model(request: CompileRequest) -> Compiled:
    """Raises ModelError (nothing to make it from, or it cannot be made), HardwareError (a tool or device is missing).

    UsageError: the version, or a file of that name in it, is there already.
    """
    return _TARGETS[request.target](request)


def _copy_with(
    request: CompileRequest,
    make: Callable[[Network, Path], tuple[dict[str, Any], str, tuple[str, ...]]],
    source: Network,
) -> Compiled:
    """A new version: all files of the old one, and first of them what ``make`` leaves in the folder."""
    manifest = request.model.manifest
    version = request.version or f"{manifest.version}-{request.target}"
    target = free_place(request.models_dir, manifest.name, version, replace=request.replace)
    with staging_folder(request.models_dir) as staging:
        folder = staging / manifest.name / version
        folder.mkdir(parents=True)
        copy_files(request.model, folder)
        entry, text, notes = make(source, folder)
        entry = ModelFile.model_validate(entry).model_dump(mode="json", exclude_defaults=True)
        fields = yaml.safe_load((request.model.folder / "manifest.yaml").read_text(encoding="utf-8"))
        write_manifest(folder, fields | {"version": version, "files": [entry, *fields["files"]]})
        publish(folder, target, staging, replace=request.replace)
    return Compiled(f"{manifest.name}@{version}", text, notes)


def _new(folder: Path, name: str) -> Path:
    """Where a file is to be made: in place of another of the same version it would not be what the manifest says of that."""
    if (folder / name).exists():
        raise UsageError(f"the model has a file {name} already: this one would be called so too")
    return folder / name


def _source(model: Model, backend: str, wanted: str, fits: Callable[[ModelFile], bool] = lambda _: True) -> Network:
    for file in model.manifest.files:
        if file.backend == backend and fits(file):
            return Network(model.manifest, file, model.folder)
    raise ModelError(f"{model.manifest.name}@{model.manifest.version} has no {wanted} to make it from")


# ---- OpenVINO


def _openvino(request: CompileRequest) -> Compiled:
    source = _source(request.model, "onnxruntime", "ONNX file")
    return _copy_with(request, _convert, source)


def _convert(source: Network, folder: Path) -> tuple[dict[str, Any], str, tuple[str, ...]]:
    path = _new(folder, f"{Path(source.file.path).stem}.xml")
    _new(folder, path.with_suffix(".bin").name)
    asked = {"onnx": str((folder / source.file.path).absolute()), "xml": str(path.absolute())}
    answer = run_child(
        "edge_agent.model_tools.convert", asked, what=f"conversion of {source.label}", timeout_s=CONVERT_S
    )
    assert answer is not None  # None is a cancelled child's answer
    weights = path.with_suffix(".bin")
    entry = {
        "backend": "openvino",
        "path": path.name,
        "sha256": sha256(path),
        "precision": "int8" if source.file.precision == "int8" else "fp16",
        "parts": [{"path": weights.name, "sha256": sha256(weights)}],
        **_overrides(source),
    }
    if list(source.outputs) != answer["outputs"] and set(source.outputs) - set(answer["outputs"]):
        raise ModelError(f"OpenVINO renamed the outputs to {answer['outputs']}: this file cannot be described")
    size = (path.stat().st_size + weights.stat().st_size) / 2**20
    return entry, f"OpenVINO IR with weights as FP16, {size:.1f} MiB", ()


def _overrides(source: Network) -> dict[str, Any]:
    return source.file.model_dump(mode="json", include={"input", "outputs", "decode"}, exclude_none=True)


# ---- Coral


def _coral(request: CompileRequest) -> Compiled:
    source = _source(
        request.model,
        "tflite",
        "full-integer TFLite file (int8 weights and activations, not compiled yet)",
        lambda file: file.precision == "int8" and file.device == "any",
    )
    compiler = shutil.which("edgetpu_compiler")
    if compiler is None:
        raise HardwareError(HOW_TO_GET_IT.format(path=source.path))
    return _copy_with(request, lambda network, folder: _edgetpu(compiler, network, folder), source)


def _edgetpu(compiler: str, source: Network, folder: Path) -> tuple[dict[str, Any], str, tuple[str, ...]]:
    made = _new(folder, f"{Path(source.file.path).stem}_edgetpu.tflite")
    try:
        done = subprocess.run(  # noqa: S603 - no shell; the path comes from PATH, the name from a manifest
            [compiler, "-s", "-o", str(folder), str(folder / source.file.path)],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMPILE_S,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HardwareError(f"{compiler}: {error}") from error
    report = parse_report((done.stdout + done.stderr)[:MAX_REPORT])
    made.with_suffix(".log").unlink(missing_ok=True)
    if done.returncode or not made.is_file():
        raise ModelError(f"edgetpu_compiler cannot compile {source.file.path}: {report.last or 'it gives no reason'}")
    if not report.mapped:
        raise ModelError(
            f"edgetpu_compiler maps none of {source.file.path}'s operations: the Edge TPU would do nothing"
        )
    entry = {
        "backend": "tflite",
        "path": made.name,
        "sha256": sha256(made),
        "precision": "int8",
        "device": "edgetpu",
        **_overrides(source),
    }
    text = f"{report.mapped} of {report.mapped + report.on_cpu} operations run on the Edge TPU"
    return entry, text, report.warnings()


@dataclass(frozen=True, slots=True)
class EdgeTpuReport:
    """What ``edgetpu_compiler -s`` says. ``left`` are (operator, count, why it stays on the CPU)."""

    mapped: int
    on_cpu: int
    left: tuple[tuple[str, int, str], ...]
    off_chip: str
    last: str

    def warnings(self) -> tuple[str, ...]:
        """What slows it down."""
        lines = [f"{count} x {operator} stays on the CPU: {why}" for operator, count, why in self.left]
        if self.off_chip not in ("", "0.00B"):
            lines.append(
                f"{self.off_chip} of weights do not fit into the Edge TPU and are sent to it for every picture"
            )
        return tuple(lines)


_ROW = re.compile(r"^([A-Z][A-Z0-9_]+)\s+(\d+)\s+(\S.*?)\s*$", re.MULTILINE)


def parse_report(text: str) -> EdgeTpuReport:
    """Version 16's report (the last one made): totals where it gives them, else the sum of its table."""
    rows = [(name, int(count), status) for name, count, status in _ROW.findall(text)]
    on_tpu = sum(count for _, count, status in rows if status.startswith("Mapped to Edge TPU"))
    left = tuple(row for row in rows if not row[2].startswith("Mapped to Edge TPU"))
    off_chip = re.search(r"Off-chip memory used[^:]*: (\S+)", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return EdgeTpuReport(
        mapped=_total(text, "run on Edge TPU", on_tpu),
        on_cpu=_total(text, "run on CPU", sum(count for _, count, _ in left)),
        left=left,
        off_chip=off_chip[1] if off_chip else "",
        last=lines[-1][:500] if lines else "",
    )


def _total(text: str, what: str, otherwise: int) -> int:
    found = re.search(rf"Number of operations that will {what}: (\d+)", text)
    return int(found[1]) if found else otherwise


# ---- TensorRT


def _tensorrt(request: CompileRequest) -> Compiled:
    # The very file that the agent will take: in int8 that is another one.
    files = usable_files(request.model, request.config.model_copy(update={"backend": "tensorrt"}))
    source = files[0] if files else _source(request.model, "onnxruntime", "ONNX file")
    built = ensure_engine(LoadRequest(source, request.config, request.cache), request.progress)
    with tempfile.TemporaryDirectory(prefix="edge-agent-compile-") as work:
        sight = look(source, "tensorrt", request.config, None, Path(work), request.cache)
    how = "engine built" if built else "the engine was there already"
    text = f"{how}; it runs on {sight.device} in {sight.inference_ms:.1f} ms a picture"
    return Compiled(str(request.cache), text, warnings(sight))


def ensure_engine(request: LoadRequest, progress: Progress | None = None) -> bool:
    """Build the TensorRT engine that ``request`` needs; False where it is there. Raises ModelError, HardwareError."""
    from edge_agent.detect.backends import tensorrt

    if reason := tensorrt.available(request.config):
        raise HardwareError(reason)
    if tensorrt.engine_ready(request):
        return False
    request.cache.mkdir(parents=True, exist_ok=True)
    return tensorrt.build(request, progress)


_TARGETS: dict[Target, Callable[[CompileRequest], Compiled]] = {
    "openvino": _openvino,
    "coral": _coral,
    "tensorrt": _tensorrt,
}
