"""The inspecting child process: copies a network file, reads what it declares, and runs it once on a picture.

It leaves the outputs as ``output-N.npy`` in the working folder. Nothing it reads is trusted, and nothing of it is loaded elsewhere.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edge_agent.detect.child import Say, serve
from edge_agent.errors import HardwareError, ModelError, UsageError
from edge_agent.model_tools import intake, sandbox
from edge_agent.model_tools.facts import MAX_FILE_BYTES, MAX_OUTPUT_BYTES, MAX_PARTS, MIB, Facts, Tensor
from edge_agent.model_tools.hints import read_hints
from edge_agent.model_tools.onnx_file import read_onnx
from edge_agent.model_tools.sample import sample_picture

Arrays = list[NDArray[Any]]
MAX_SIDE = 4096
TYPES = ("float32", "float16", "uint8", "int8", "int32", "int64")
DEFAULT_SIDE = 640
"""Tried where the file leaves its input size open."""


def _perform(asked: dict[str, Any], say: Say) -> dict[str, Any]:
    """The child's part."""
    sandbox.confine(asked)
    say("reading it")
    try:
        facts, outputs = _inspect(asked)
        for number, output in enumerate(outputs):
            np.save(Path(asked["work"]) / f"output-{number}.npy", output, allow_pickle=False)
    except MemoryError:
        raise ModelError(f"it needs more than {sandbox.MEMORY_MB} MiB of memory: refused") from None
    except ValidationError as error:
        fault = error.errors()[0]
        raise ModelError(f"it declares what no detection network has: {fault['msg']}") from error
    except (RecursionError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HardwareError(f"no room for a copy of it in the models directory: {error.strerror}") from error
        raise ModelError(f"it cannot be read: {type(error).__name__}: {error}") from error
    return facts.model_dump(mode="json")


def _inspect(asked: dict[str, Any]) -> tuple[Facts, Arrays]:
    source, folder = Path(asked["source"]), Path(asked["folder"])
    size = tuple(asked["size"]) if asked["size"] else None
    image = Path(asked["image"]) if asked["image"] else None
    kind, path = intake.take(source, folder)
    try:
        facts, run = _READERS[kind](path, intake.neighbours(source, folder))
    finally:
        intake.tidy(folder)
    _check_declared(facts)
    if facts.device == "edgetpu":
        return facts.model_copy(update={"not_run": "it is compiled for the Edge TPU"}), []
    try:
        return facts, _checked(run(_feeds(facts, size or facts.hints.size, image)))
    except (MemoryError, ModelError, UsageError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:1500]
        if "bad_alloc" in text or "memory" in text.lower() or "buffer size" in text.lower():
            raise MemoryError from error
        raise ModelError(f"it does not run on a picture: {text}") from error


def _check_declared(facts: Facts) -> None:
    if not facts.inputs or not facts.outputs:
        raise ModelError("it declares no input or no output")
    for tensor in (*facts.inputs, *facts.outputs):
        if any(n is not None and n > 1 << 24 for n in tensor.shape):
            raise ModelError(
                f"{tensor.name[:100]!r} is declared as {list(tensor.shape)}: larger than any picture, refused"
            )
    for tensor in facts.inputs:
        if tensor.dtype not in TYPES:
            raise ModelError(f"input {tensor.name[:100]!r} is of type {tensor.dtype[:50]}: this is no picture")
        if any(n is not None and n > MAX_SIDE for n in tensor.shape):
            raise ModelError(
                f"input {tensor.name[:100]!r} is declared as {list(tensor.shape)}; at most {MAX_SIDE} pixels a side"
            )


def _checked(outputs: Arrays) -> Arrays:
    if sum(o.nbytes for o in outputs) > MAX_OUTPUT_BYTES:
        raise ModelError(f"its outputs for one picture are larger than {MAX_OUTPUT_BYTES // MIB} MiB: refused")
    for output in outputs:
        if not np.isfinite(output).all():
            raise ModelError("its outputs for a picture are not finite (NaN or infinity): the network is damaged")
    return outputs


# ---- one reader for each format: what it declares, and how to run it once


def _read_onnx(path: Path, beside: Path) -> tuple[Facts, Callable[[Mapping[str, NDArray[Any]]], Arrays]]:
    found = read_onnx(path)
    if len(found.external) > MAX_PARTS:
        raise ModelError(f"its weights lie in {len(found.external)} files; at most {MAX_PARTS} are taken")
    total = path.stat().st_size
    for name in found.external:
        intake.take_beside(beside, name, path.parent)
        total += (path.parent / name).stat().st_size
        if total > MAX_FILE_BYTES:
            raise ModelError(f"with its weights it has more than {MAX_FILE_BYTES // MIB} MiB")
    facts = Facts(
        format="onnx",
        files=(path.name, *found.external),
        inputs=found.inputs,
        outputs=found.outputs,
        hints=read_hints(found.metadata),
        precision=found.precision,
    )
    try:
        import onnxruntime
    except ImportError as error:
        raise HardwareError("an ONNX file needs onnxruntime to be tried: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3

    def run(feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            if "bad_alloc" in str(error):
                raise MemoryError from error
            text = " ".join(str(error).replace(str(path), path.name).split())
            raise ModelError(f"ONNX Runtime cannot load it: {text[:1500]}") from error
        return [np.asarray(output) for output in session.run(None, dict(feeds))]

    return facts, run


def _read_tflite(path: Path, _beside: Path) -> tuple[Facts, Callable[[Mapping[str, NDArray[Any]]], Arrays]]:
    from edge_agent.model_tools.tflite_file import read_tflite

    facts, interpreter = read_tflite(path)

    def run(feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        indices = {d["name"]: d["index"] for d in interpreter.get_input_details()}
        for name, value in feeds.items():
            if tuple(interpreter.get_input_details()[0]["shape"]) != value.shape:
                interpreter.resize_tensor_input(indices[name], value.shape)
        interpreter.allocate_tensors()
        for name, value in feeds.items():
            interpreter.set_tensor(indices[name], value)
        interpreter.invoke()
        outputs = []
        for detail in interpreter.get_output_details():
            scale, zero_point = detail["quantization"]
            raw = interpreter.get_tensor(detail["index"])
            real = (raw.astype(np.float32) - zero_point) * np.float32(scale) if scale else raw
            outputs.append(np.array(real))
        return outputs

    return facts, run


def _read_openvino(path: Path, beside: Path) -> tuple[Facts, Callable[[Mapping[str, NDArray[Any]]], Arrays]]:
    from edge_agent.model_tools.openvino_file import read_openvino

    facts, (core, model) = read_openvino(path, beside)

    def run(feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        compiled = core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1})
        result = compiled(list(feeds.values()))
        return [np.array(result[i]) for i in range(len(facts.outputs))]

    return facts, run


_READERS = {"onnx": _read_onnx, "tflite": _read_tflite, "openvino": _read_openvino}


# ---- a picture for it


def _feeds(facts: Facts, size: tuple[int, int] | None, image: Path | None) -> dict[str, NDArray[Any]]:
    feeds = {tensor.name: _feed(tensor, size, image) for tensor in facts.inputs}
    if sum(value.nbytes for value in feeds.values()) > MAX_OUTPUT_BYTES:
        raise ModelError("its inputs are larger than any picture: refused")
    return feeds


def _feed(tensor: Tensor, size: tuple[int, int] | None, image: Path | None) -> NDArray[Any]:
    dtype = np.dtype(tensor.dtype)
    shape = tensor.shape
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        return np.ones([n or 1 for n in shape], dtype)
    first = shape[1] == 3
    side = shape[2:] if first else shape[1:3]
    width = side[1] or (size[0] if size else DEFAULT_SIDE)
    height = side[0] or (size[1] if size else DEFAULT_SIDE)
    picture = sample_picture((width, height), image)[None, :, :, ::-1]
    if first:
        picture = picture.transpose(0, 3, 1, 2)
    if np.issubdtype(dtype, np.integer):
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        # Integer input: 0 to 255 are spread over the range that its own quantisation gives.
        ready = picture.astype(np.float32) / 255 * (high - low) + low
        return np.ascontiguousarray(np.repeat(np.rint(ready).astype(dtype), shape[0] or 1, axis=0))
    scaled = (picture.astype(np.float32) / 255).astype(dtype)
    return np.ascontiguousarray(np.repeat(scaled, min(shape[0] or 1, 8), axis=0))


if __name__ == "__main__":
    serve(_perform)
