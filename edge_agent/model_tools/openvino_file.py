"""Reads the structure of an OpenVINO IR: its XML is checked by a plain parser before OpenVINO opens it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any
from xml.parsers import expat

from edge_agent.detect.backends.openvino import import_openvino
from edge_agent.errors import ModelError
from edge_agent.model_tools.facts import MIB, Facts, Hints, Tensor
from edge_agent.model_tools.hints import read_hints

MAX_XML_BYTES = 64 * MIB
MAX_DEPTH = 64
MAX_METADATA_BYTES = 256 * 1024


def check_xml(path: Path) -> None:
    """Refuse what is no IR, is cut short, declares entities, or nests too deep. Raises ModelError."""
    if path.stat().st_size > MAX_XML_BYTES:
        raise ModelError(f"the XML is larger than {MAX_XML_BYTES // MIB} MiB: this is no network description")
    stack: list[str] = []
    parser = expat.ParserCreate()

    def start(name: str, _attributes: dict[str, str]) -> None:
        if not stack and name != "net":
            raise ModelError(f"it is no OpenVINO IR: its XML begins with <{name[:50]}>, not <net>")
        stack.append(name)
        if len(stack) > MAX_DEPTH:
            raise ModelError(f"its XML nests deeper than {MAX_DEPTH}: refused")

    def refuse(*_: object) -> None:
        raise ModelError("its XML has a document type (entities could be declared there): refused")

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _name: stack.pop()
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except expat.ExpatError as error:
        raise ModelError(f"it is no OpenVINO IR, or a damaged one: {error}") from error


def read_openvino(path: Path, beside: Path) -> tuple[Facts, Any]:
    """Facts and the model (not compiled). ``beside``: where an exporter's metadata.yaml may lie. Raises ModelError, HardwareError."""
    check_xml(path)
    openvino = import_openvino()
    weights = path.with_suffix(".bin")
    try:
        core = openvino.Core()
        model = core.read_model(str(path), str(weights))
        inputs, outputs = [_tensor(i) for i in model.inputs], [_tensor(o) for o in model.outputs]
        kinds = [op.get_element_type().get_type_name() for op in model.get_ops() if op.get_type_name() == "Constant"]
        quantised = any(op.get_type_name() == "FakeQuantize" for op in model.get_ops())
    except Exception as error:
        raise ModelError(f"OpenVINO cannot read it: {' '.join(str(error).split())[:1500]}") from error
    halves, whole = kinds.count("f16"), kinds.count("f32")
    facts = Facts(
        format="openvino",
        files=(path.name, weights.name),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        hints=_hints(beside / "metadata.yaml"),
        precision="int8" if quantised or {"i8", "u8"} & set(kinds) else "fp16" if halves > whole else "fp32",
    )
    return facts, (core, model)


_TYPES = {"f32": "float32", "f16": "float16", "u8": "uint8", "i8": "int8", "i32": "int32", "i64": "int64"}


def _tensor(port: Any) -> Tensor:
    shape = port.get_partial_shape()
    kind = port.get_element_type().get_type_name()
    name = port.get_any_name() if port.get_names() else port.get_node().get_friendly_name()
    lengths = tuple(d.get_length() if d.is_static else None for d in shape) if shape.rank.is_static else ()
    return Tensor(name=name, dtype=_TYPES.get(kind, kind), shape=lengths)


def _hints(path: Path) -> Hints:
    """What ultralytics writes beside an IR."""
    import yaml

    with contextlib.suppress(OSError, yaml.YAMLError, ValueError, RecursionError):
        if not path.is_symlink() and path.is_file() and path.stat().st_size <= MAX_METADATA_BYTES:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
            return read_hints(found) if isinstance(found, dict) else Hints()
    return Hints()
