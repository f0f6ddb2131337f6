"""One interpreter of a TensorFlow Lite network, and how those of a segmented one are joined."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.detect.backends.fit import expected_input
from edge_agent.detect.backends.tflite_delegates import Runtime, one_line
from edge_agent.detect.manifest import Network
from edge_agent.errors import EdgeAgentError, HardwareError, InferenceError, ModelError
from edge_agent.types import F32

log = logging.getLogger(__name__)

EDGETPU_OP = "edgetpu-custom-op"
CLOSE_S = 5.0
Place = tuple[int, int]
"""Segment, and output of it."""


@dataclass(frozen=True, slots=True, eq=False)
class TensorInfo:
    """An input or output. ``scale`` and ``zero`` broadcast over it; without a ``scale`` its values are real numbers."""

    index: int
    names: tuple[str, ...]
    """What it may be called: its name in the signature, then the tensor's own."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: F32 | None
    zero: F32

    def fits(self, other: TensorInfo) -> bool:
        """Whether the bytes of one mean the same in the other."""
        mine, theirs = (np.zeros(0) if t.scale is None else t.scale.ravel() for t in (self, other))
        return (
            self.shape == other.shape
            and self.dtype == other.dtype
            and np.array_equal(mine, theirs)
            and (self.scale is None or np.array_equal(self.zero.ravel(), other.zero.ravel()))
        )


class Stage:
    """An interpreter with its tensors. Hold ``lock`` from the first input written to the last output read."""

    def __init__(self, interpreter: Any, delegated: bool | None) -> None:
        self.lock = threading.Lock()
        self.delegated = delegated
        """Whether a delegate took an operation; None where there is none, or it cannot be found out."""
        self._interpreter = interpreter
        signature = _signature(interpreter)
        self.inputs = [_info(d, signature) for d in interpreter.get_input_details()]
        self.outputs = [_info(d, signature) for d in interpreter.get_output_details()]

    def view(self, tensor: TensorInfo) -> NDArray[Any]:
        """The tensor's own memory. Let go of it before ``invoke``: the interpreter refuses to run while somebody looks."""
        if self._interpreter is None:
            raise InferenceError("TensorFlow Lite: the network was closed")
        view: NDArray[Any] = self._interpreter.tensor(tensor.index)()
        return view

    def invoke(self) -> None:
        """Run it; other threads go on meanwhile."""
        if self._interpreter is None:
            raise InferenceError("TensorFlow Lite: the network was closed")
        self._interpreter.invoke()

    def close(self) -> None:
        """Let go of the interpreter and its device. One that hangs in its device is left alone: only the process's end helps."""
        if not self.lock.acquire(timeout=CLOSE_S):
            log.warning("an inference has not come back for %g s: its device is not released", CLOSE_S)
            return
        try:
            self._interpreter = None
        finally:
            self.lock.release()


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """Segments in order, and where each input and each result comes from."""

    stages: Sequence[Stage]
    feeds: Sequence[Sequence[Place | None]]
    """For each segment and input: the output that fills it, None for the image."""
    results: Sequence[Place]
    """The manifest's outputs, in its order."""
    forwarded: frozenset[Place]

    @property
    def image(self) -> TensorInfo:
        """The network's input."""
        return self.stages[0].inputs[0]

    def info(self, place: Place) -> TensorInfo:
        """The output at a place."""
        return self.stages[place[0]].outputs[place[1]]


def open_stage(
    runtime: Runtime,
    network: Network,
    segment: int,
    path: str,
    *,
    threads: int,
    library: str | None,
    options: Mapping[str, str],
) -> Stage:
    """Load and allocate one file. Raises ModelError and HardwareError."""
    name = network.file.path if segment == 0 else network.file.parts[segment - 1].path
    with _foreign(network, name, library):
        interpreter = runtime.open(path, threads, library, options)
        delegated = None if library is None else _has_delegate_node(interpreter)
        if segment == 0:
            _resize(network, interpreter)
        interpreter.allocate_tensors()
        return Stage(interpreter, delegated)


@contextlib.contextmanager
def _foreign(network: Network, name: str, library: str | None) -> Iterator[None]:
    where = f"model {network.label}: {name}"
    try:
        yield
    except EdgeAgentError:
        raise
    except Exception as error:
        text = one_line(error)
        if f"unresolved custom op: {EDGETPU_OP}" in text:
            took = "no delegate is configured" if library is None else f"delegate {library} did not take it"
            raise HardwareError(
                f"{where} was compiled for the Edge TPU, and {took}: plug one in, say `device: edgetpu` for this file in "
                f"the manifest, or use a model that was not compiled for it"
            ) from error
        if "unresolved custom op" in text or "Flex" in text:
            raise ModelError(f"{where} has an operation that TensorFlow Lite does not know: {text}") from error
        if library is not None and not isinstance(error, ValueError):
            fix = "; install the libedgetpu that fits the compiler" if "runtime version" in text else ""
            raise HardwareError(f"{where}: delegate {library} cannot run it: {text}{fix}") from error
        raise ModelError(f"{where}: TensorFlow Lite cannot load it: {text}") from error


def _resize(network: Network, interpreter: Any) -> None:
    """Give an input with open dimensions the manifest's size."""
    details = interpreter.get_input_details()
    wanted = expected_input(network).shape
    signature = [int(side) for side in details[0]["shape_signature"]]
    if len(details) != 1 or -1 not in signature or len(signature) != len(wanted):
        return
    if all(have in (-1, want) for have, want in zip(signature, wanted, strict=True)):
        interpreter.resize_tensor_input(details[0]["index"], wanted, strict=True)


def _has_delegate_node(interpreter: Any) -> bool | None:
    # Before tensors are allocated: then the runtime adds its own delegate for the CPU to the list. No public way is known.
    try:
        return any("delegate" in str(op["op_name"]).lower() for op in interpreter._get_ops_details())
    except Exception:  # noqa: BLE001 - a status text is not worth a failure
        return None


def _signature(interpreter: Any) -> dict[int, str]:
    """Names in the model's one signature by tensor index; older runtimes and many files have none."""
    with contextlib.suppress(AttributeError, ValueError, KeyError):
        keys = list(interpreter.get_signature_list())
        if len(keys) == 1:
            runner = interpreter.get_signature_runner(keys[0])
            details = runner.get_input_details() | runner.get_output_details()
            return {int(tensor["index"]): str(name) for name, tensor in details.items()}
    return {}


def _info(details: Mapping[str, Any], signature: Mapping[int, str]) -> TensorInfo:
    quantisation = details["quantization_parameters"]
    scales = np.asarray(quantisation["scales"], np.float32)
    zeros = np.asarray(quantisation["zero_points"], np.float32)
    shape = tuple(int(side) for side in details["shape"])
    dtype = np.dtype(details["dtype"])
    index, own = int(details["index"]), str(details["name"])
    names = (signature[index], own) if index in signature else (own,)
    if dtype.kind == "f" or not scales.size or not scales.any():
        return TensorInfo(index, names, shape, dtype, None, np.zeros(1, np.float32))
    if scales.size > 1:
        across = [1] * len(shape)
        across[int(quantisation["quantized_dimension"])] = scales.size
        scales, zeros = scales.reshape(across), np.broadcast_to(zeros, scales.shape).reshape(across)
    return TensorInfo(index, names, shape, dtype, scales, zeros)


def connect(network: Network, stages: Sequence[Stage]) -> Chain:
    """Join segments by tensor names, or where none fits in order, as their compiler wrote them. Raises ModelError."""
    where = f"model {network.label}"
    if len(stages[0].inputs) != 1:
        names = [tensor.names[0] for tensor in stages[0].inputs]
        raise ModelError(f"{where}: {network.file.path} has inputs {names}, one image is expected")
    feeds: list[list[Place | None]] = [[None]]
    for number, stage in enumerate(stages[1:], 1):
        feeds.append([_source(where, place, stage, stages[:number]) for place in range(len(stage.inputs))])
        for tensor, source in zip(stage.inputs, feeds[-1], strict=True):
            given = stages[0].inputs[0] if source is None else stages[source[0]].outputs[source[1]]
            if not given.fits(tensor):
                raise ModelError(
                    f"{where}: segment {number + 1} takes {tensor.names[-1]!r} as {tensor.dtype} {list(tensor.shape)}, the "
                    f"segments before give {given.names[-1]!r} as {given.dtype} {list(given.shape)}, or with another "
                    f"quantisation: are they of one compilation and in order?"
                )
    results = [_result(name, stages) for name in network.outputs]
    if None in results:
        there = sorted({output.names[0] for stage in stages for output in stage.outputs})
        raise ModelError(f"{where}: the file has outputs {there}, the manifest names {list(network.outputs)}")
    forwarded = frozenset(place for feed in feeds for place in feed if place is not None)
    return Chain(stages, feeds, [place for place in results if place is not None], forwarded)


def _source(where: str, place: int, stage: Stage, before: Sequence[Stage]) -> Place | None:
    """The nearest output with the name of an input, None for the image."""
    tensor = stage.inputs[place]
    for number in reversed(range(len(before))):
        for output, other in enumerate(before[number].outputs):
            if set(tensor.names) & set(other.names):
                return number, output
    if set(tensor.names) & set(before[0].inputs[0].names):
        return None
    if len(stage.inputs) != len(before[-1].outputs):
        raise ModelError(
            f"{where}: no segment before number {len(before) + 1} gives {tensor.names[-1]!r}: are the parts complete and in order?"
        )
    return len(before) - 1, place


def _result(name: str, stages: Sequence[Stage]) -> Place | None:
    for number in reversed(range(len(stages))):
        for alias in (0, -1):
            for place, output in enumerate(stages[number].outputs):
                if output.names[alias] == name:
                    return number, place
    return None
