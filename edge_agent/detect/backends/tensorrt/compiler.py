"""From ONNX to a TensorRT engine, for TensorRT 8.6 to 11. Runs in a child process: it takes minutes and much memory.

Up to version 10 precision is a builder flag; from 11 on (and in TensorRT for RTX) the flags and the calibrator are gone,
and each tensor's type comes from the network: half precision is put into it (``half.py``), int8 must be in the ONNX file as
QuantizeLinear/DequantizeLinear. Both are told by what the module has, not by its version.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent.detect.backends.tensorrt.half import HalfNetwork, HalfRefused
from edge_agent.detect.backends.tensorrt.vendor import OUT_OF_MEMORY, dtype_name, load_tensorrt, logger_of, sizes
from edge_agent.detect.child import Say
from edge_agent.errors import HardwareError, ModelError

if TYPE_CHECKING:
    import tensorrt  # type: ignore[import-not-found, import-untyped, unused-ignore]

log = logging.getLogger(__name__)

MIB = 1 << 20
REPORT_S = 0.25
"""Progress is told no more often."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to build. ``shape`` is the input without the batch, ``dtype`` its type; ``where`` names model and file in errors."""

    where: str
    input: str
    dtype: str
    shape: tuple[int, ...]
    outputs: tuple[str, ...]
    precision: str
    max_batch: int = 1
    workspace_mb: int = 512
    external: str | None = None
    """Path of the ONNX file, where it has external data beside it."""
    calibrator: Callable[[], Any] | None = None
    """Makes an ``IInt8EntropyCalibrator2``; for int8 without quantisation in the file, in versions that have it."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A serialised engine, and the precision it really has."""

    plan: memoryview
    precision: str


class Compiler:
    """Builds with one TensorRT module. ``say`` hears what it does; may be called from TensorRT's threads."""

    def __init__(self, module: str, say: Say) -> None:
        self._module = module
        self._trt = load_tensorrt(module)
        self._say = say
        self._logger, self._messages = logger_of(module)
        self.typed = not hasattr(self._trt.BuilderFlag, "FP16")
        """Whether this version takes types from the network only."""

    def compile(self, onnx: bytes, recipe: Recipe) -> Compiled:
        """Build. Raises ModelError (the file, or int8 that cannot be had), HardwareError (memory, GPU)."""
        try:
            return self._build(onnx, recipe, recipe.precision)
        except HalfRefused as error:
            log.warning("%s: fp16 does not work (%s): it is built as it is", recipe.where, error)
            return self._build(onnx, recipe, "fp32")

    def _build(self, onnx: bytes, recipe: Recipe, precision: str) -> Compiled:
        trt = self._trt
        builder = trt.Builder(self._logger)
        network = self._parse(builder, onnx, recipe)
        quantised = self._is_quantised(network)
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, recipe.workspace_mb * MIB)
        self._set_profile(builder, network, config, recipe)
        # Half weights must outlive the build.
        half = HalfNetwork(self._module, network)
        if self.typed:
            if precision == "int8" and not quantised:
                raise ModelError(f"{recipe.where}: {NEEDS_QDQ.format(version=trt.__version__)}")
            if precision == "fp16" and not quantised:
                half.convert()
        else:
            self._set_flags(network, config, recipe, precision, quantised)
        if hasattr(trt, "IProgressMonitor"):
            config.progress_monitor = progress_monitor(self._module, self._say)
        self._say(f"building the {precision} engine", None if hasattr(trt, "IProgressMonitor") else 0.0)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise self._failure(
                f"{recipe.where}: TensorRT {trt.__version__} cannot build it", halved=bool(half.weights)
            )
        del half
        return Compiled(memoryview(plan), precision)

    def _parse(self, builder: tensorrt.Builder, onnx: bytes, recipe: Recipe) -> tensorrt.INetworkDefinition:
        """The network, its input and outputs checked against the recipe."""
        trt = self._trt
        flags = trt.NetworkDefinitionCreationFlag
        # Version 8 knows networks with an implicit batch, too; later ones have but one kind and may lack the flag.
        wanted = getattr(flags, "STRONGLY_TYPED" if self.typed else "EXPLICIT_BATCH", None)
        network = builder.create_network(0 if wanted is None else 1 << int(wanted))
        parser = trt.OnnxParser(network, self._logger)
        self._say("reading the ONNX file", None)
        if not (parser.parse(onnx, recipe.external) if recipe.external else parser.parse(onnx)):
            errors = [parser.get_error(i) for i in range(min(parser.num_errors, 3))]
            text = "; ".join(f"node {e.node()}: {' '.join(str(e.desc()).split())[:300]}" for e in errors)
            raise ModelError(
                f"{recipe.where}: TensorRT {trt.__version__} cannot read it: {text or self._messages.take()}"
            )
        self._check(network, recipe)
        # Outputs that nobody reads need not be calculated.
        for tensor in [network.get_output(i) for i in range(network.num_outputs)]:
            if tensor.name not in recipe.outputs:
                network.unmark_output(tensor)
        return network

    def _check(self, network: tensorrt.INetworkDefinition, recipe: Recipe) -> None:
        inputs = [network.get_input(i) for i in range(network.num_inputs)]
        outputs = {network.get_output(i).name for i in range(network.num_outputs)}
        names = sorted(tensor.name for tensor in inputs)
        if names != [recipe.input] or not set(recipe.outputs) <= outputs:
            raise ModelError(
                f"{recipe.where}: the file has inputs {names} and outputs {sorted(outputs)}, "
                f"the manifest names {recipe.input!r} and {list(recipe.outputs)}"
            )
        shape = sizes(inputs[0].shape)
        wanted = (1, *recipe.shape)
        if len(shape) != 4 or any(have not in (-1, want) for have, want in zip(shape, wanted, strict=True)):
            raise ModelError(
                f"{recipe.where}: input {recipe.input!r} is {list(shape)}, the manifest says {list(wanted)}"
            )
        kind = dtype_name(inputs[0].dtype)
        if kind != recipe.dtype:
            raise ModelError(f"{recipe.where}: input {recipe.input!r} is {kind}, the manifest says {recipe.dtype}")

    def _set_profile(
        self,
        builder: tensorrt.Builder,
        network: tensorrt.INetworkDefinition,
        config: tensorrt.IBuilderConfig,
        recipe: Recipe,
    ) -> None:
        """Batch 1 to the largest where the file leaves it open; it is made fastest for one picture."""
        shape = sizes(network.get_input(0).shape)
        if -1 not in shape:
            if recipe.max_batch > 1:
                log.warning("%s has a fixed batch of 1: tensorrt.max_batch is ignored", recipe.where)
            return
        largest = recipe.max_batch if shape[0] == -1 else 1
        profile = builder.create_optimization_profile()
        one = self._trt.Dims([1, *recipe.shape])
        profile.set_shape(recipe.input, one, one, self._trt.Dims([largest, *recipe.shape]))
        config.add_optimization_profile(profile)

    def _set_flags(
        self,
        network: tensorrt.INetworkDefinition,
        config: tensorrt.IBuilderConfig,
        recipe: Recipe,
        precision: str,
        quantised: bool,
    ) -> None:
        """Precision in versions that have flags for it."""
        flag = self._trt.BuilderFlag
        if precision == "fp32":
            # TF32 has ten bits of mantissa, as half precision has.
            config.clear_flag(flag.TF32)
        if precision != "fp32" or network.get_input(0).dtype == self._trt.DataType.HALF:
            config.set_flag(flag.FP16)  # a file in half precision is refused without
        if quantised:
            config.set_flag(flag.INT8)
        elif precision == "int8":
            if recipe.calibrator is None or not hasattr(self._trt, "IInt8EntropyCalibrator2"):
                raise ModelError(f"{recipe.where}: {NEEDS_PICTURES}")
            config.set_flag(flag.INT8)
            config.int8_calibrator = recipe.calibrator()

    def _is_quantised(self, network: tensorrt.INetworkDefinition) -> bool:
        kinds = self._trt.LayerType
        return any(network.get_layer(i).type in (kinds.QUANTIZE, kinds.DEQUANTIZE) for i in range(network.num_layers))

    def _failure(self, text: str, *, halved: bool) -> HardwareError:
        reason = self._messages.take()
        if OUT_OF_MEMORY.search(reason):
            return HardwareError(f"{text}: not enough memory: {reason}")
        return (HalfRefused if halved else ModelError)(f"{text}: {reason}")


NEEDS_QDQ = (
    "int8 with TensorRT {version} needs an ONNX file with quantisation inside (QuantizeLinear, DequantizeLinear); "
    "calibration pictures are for TensorRT up to 10"
)
NEEDS_PICTURES = (
    "int8 needs an ONNX file with quantisation inside (QuantizeLinear, DequantizeLinear), or "
    "tensorrt.calibration_images: a folder of a few hundred pictures as the camera sees them"
)


def progress_monitor(module: str, say: Say) -> Any:
    """An ``IProgressMonitor`` that tells ``say`` how far the outermost phase is. Its threads are TensorRT's."""
    trt = load_tensorrt(module)

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._lock = threading.Lock()
            self._steps: dict[str, int] = {}
            self._outermost = ""
            self._said = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._steps[phase_name] = max(1, num_steps)
                if not parent_phase:
                    self._outermost = phase_name

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._steps.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                now = time.monotonic()
                if phase_name == self._outermost and now - self._said >= REPORT_S:
                    self._said = now
                    steps = self._steps.get(phase_name, 1)
                    say(f"building the engine ({phase_name})", min(1.0, (step + 1) / steps))
            return True

    return Monitor()


def read_onnx(paths: list[str], folder: Path, name: str) -> tuple[bytes, str | None]:
    """The file's bytes, and its path where external data belongs to it (TensorRT looks beside that path)."""
    return Path(paths[0]).read_bytes(), str(folder / name) if len(paths) > 1 else None
