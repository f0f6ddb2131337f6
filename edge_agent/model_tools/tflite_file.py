"""Reads the structure of a TFLite file: what its interpreter says, and the texts in the archive appended to it."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from pathlib import Path
from typing import Any

from edge_agent.errors import HardwareError, ModelError
from edge_agent.model_tools.facts import Facts, Hints, Tensor
from edge_agent.model_tools.hints import literal, read_hints
from edge_agent.model_tools.labels import MAX_LABEL_BYTES, parse_labels

MAX_TEXTS = 32
EDGE_TPU_OP = b"edgetpu-custom-op"


def interpreter_class() -> Any:
    """LiteRT's interpreter, or the one of the older package. Raises HardwareError."""
    with contextlib.suppress(ImportError):
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter
    with contextlib.suppress(ImportError):
        from tflite_runtime.interpreter import Interpreter as Older

        return Older
    raise HardwareError("a TFLite file needs LiteRT to be read: pip install ai-edge-litert")


def read_tflite(path: Path) -> tuple[Facts, Any]:
    """Facts and the interpreter (no memory allocated yet). Raises ModelError, HardwareError."""
    make = interpreter_class()
    try:
        interpreter = make(model_path=str(path), num_threads=1)
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        tensors = interpreter.get_tensor_details()
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"it is no TFLite file, or a damaged one: {error}") from error
    kinds = {str(t["dtype"].__name__) for t in tensors if t["quantization_parameters"]["scales"].size}
    halves = any(t["dtype"].__name__ == "float16" for t in tensors)
    edge_tpu = EDGE_TPU_OP in path.read_bytes()
    facts = Facts(
        format="tflite",
        files=(path.name,),
        inputs=tuple(map(_tensor, inputs)),
        outputs=tuple(map(_tensor, outputs)),
        hints=_texts(path),
        precision="int8" if edge_tpu or kinds & {"int8", "uint8"} else "fp16" if halves else "fp32",
        device="edgetpu" if edge_tpu else "any",
    )
    return facts, interpreter


def _tensor(detail: dict[str, Any]) -> Tensor:
    shape = detail.get("shape_signature", detail["shape"])
    scale, zero_point = detail["quantization"]
    return Tensor(
        name=detail["name"],
        dtype=detail["dtype"].__name__,
        shape=tuple(int(n) if n > 0 else None for n in shape),
        scale=float(scale) or 1.0,
        zero_point=int(zero_point),
    )


def _texts(path: Path) -> Hints:
    """TFLite's metadata writer and ultralytics append a zip archive of texts to the file; a damaged one says nothing."""
    hints = Hints()
    with contextlib.suppress(zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist()[:MAX_TEXTS]:
                if entry.file_size > MAX_LABEL_BYTES or not entry.filename.lower().endswith((".txt", ".json")):
                    continue
                with archive.open(entry) as file:
                    text = file.read(MAX_LABEL_BYTES).decode("utf-8", "replace")
                hints = _add(hints, text, entry.filename)
    return hints


def _add(hints: Hints, text: str, name: str) -> Hints:
    if text.lstrip().startswith("{"):
        found = literal(text)
        return read_hints(found) if isinstance(found, dict) else hints
    if hints.labels:
        return hints
    with contextlib.suppress(ModelError):
        return hints.model_copy(update={"labels": parse_labels(text, name)})
    return hints
