"""Reads the structure of an ONNX file without its weights, before any runtime opens it.

Only the fields that are needed are declared (numbers from onnx.proto3, stable by its own rules); the parser is protobuf's,
which comes with onnxruntime and limits nesting to 100.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.errors import HardwareError, ModelError
from edge_agent.model_tools.facts import Tensor

MAX_GRAPHS = 10_000
MAX_NODES = 200_000
DTYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}
EXTERNAL = 1

_SCHEMA = {
    "Model": "graph:7:Graph metadata:14*Entry training:20*Training functions:25*Function",
    "Graph": "node:1*Node initializer:5*Tensor input:11*Value output:12*Value sparse:15*Sparse",
    "Node": "input:1*string op_type:4:string attribute:5*Attribute domain:7:string",
    "Attribute": "t:5:Tensor g:6:Graph tensors:10*Tensor graphs:11*Graph sparse:22:Sparse sparses:23*Sparse",
    "Tensor": "dims:1*int64 data_type:2:int32 name:8:string external:13*Entry location:14:int32",
    "Sparse": "values:1:Tensor indices:2:Tensor",
    "Value": "name:1:string type:2:Type",
    "Type": "tensor:1:TensorType",
    "TensorType": "elem_type:1:int32 shape:2:Shape",
    "Shape": "dim:1*Dim",
    "Dim": "value:1:int64 param:2:string",
    "Entry": "key:1:string value:2:string",
    "Training": "initialization:1:Graph algorithm:2:Graph",
    "Function": "node:7*Node",
}
"""Message: ``field:number:type``, a star before the type where it repeats."""


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """What the file says. ``external`` are the places of weights outside it, as written."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    metadata: dict[str, str]
    external: tuple[str, ...]
    precision: str


def read_onnx(path: Path) -> OnnxFile:
    """Parse ``path``. Raises ModelError (damaged, not ONNX) and HardwareError (protobuf is not installed)."""
    model = _model_class()()
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:
        raise ModelError(f"it is no ONNX file, or a damaged one: {error}") from error
    if not model.HasField("graph") or not model.graph.output:
        raise ModelError("it is no ONNX file, or a truncated one: it holds no network with outputs")
    given = {t.name for t in model.graph.initializer}
    tensors = list(_tensors(model))
    ops = {node.op_type for node in model.graph.node}
    return OnnxFile(
        inputs=tuple(_tensor(v) for v in model.graph.input if v.name not in given),
        outputs=tuple(_tensor(v) for v in model.graph.output),
        metadata={e.key[:2000]: e.value for e in list(model.metadata)[:200] if len(e.value) <= 200_000},
        external=tuple(sorted({_location(t) for t in tensors if t.location == EXTERNAL or len(t.external)})),
        precision=_precision(model.graph.node, ops, tensors),
    )


def _precision(nodes: Iterable[Any], ops: set[str], tensors: list[Any]) -> str:
    """What it calculates in: weights that are only kept in 16 bits, and widened before use, do not count."""
    if any(op.startswith("QLinear") or op == "DequantizeLinear" for op in ops):
        return "int8"
    widened = {name for node in nodes if node.op_type == "Cast" for name in node.input}
    weights = [t for t in tensors if t.name not in widened]
    halves = sum(1 for t in weights if DTYPES.get(t.data_type) == "float16" and len(t.dims) > 1)
    whole = sum(1 for t in tensors if DTYPES.get(t.data_type) == "float32" and len(t.dims) > 1)
    return "fp16" if halves > whole else "fp32"


def _tensor(value: Any) -> Tensor:
    kind = value.type.tensor
    shape = tuple(d.value if d.value > 0 else None for d in kind.shape.dim)
    if len(shape) > 8:
        raise ModelError(f"tensor {value.name!r} has {len(shape)} dimensions; a detection network's have at most 4")
    return Tensor(name=value.name, dtype=DTYPES.get(kind.elem_type, f"type {kind.elem_type}"), shape=shape)


def _location(tensor: Any) -> str:
    for entry in tensor.external:
        if entry.key == "location":
            return str(entry.value)
    raise ModelError(f"weights {tensor.name[:100]!r} are said to lie in another file, but not in which")


def _tensors(model: Any) -> Iterator[Any]:
    """Every constant anywhere in the file: initialisers, attributes, subgraphs, functions, training graphs."""
    graphs = [model.graph, *(g for t in model.training for g in (t.initialization, t.algorithm))]
    nodes = [node for function in model.functions for node in function.node]
    seen = 0
    while graphs or nodes:
        while graphs:
            graph = graphs.pop()
            seen += 1
            if seen > MAX_GRAPHS:
                raise ModelError(f"it nests more than {MAX_GRAPHS} graphs: this is no detection network")
            yield from graph.initializer
            for sparse in graph.sparse:
                yield from (sparse.values, sparse.indices)
            nodes.extend(graph.node)
            if len(nodes) > MAX_NODES:
                raise ModelError(f"it has more than {MAX_NODES} operations: this is no detection network")
        while nodes:
            for attribute in nodes.pop().attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                for sparse in (*attribute.sparses, *([attribute.sparse] if attribute.HasField("sparse") else [])):
                    yield from (sparse.values, sparse.indices)
                graphs.extend([*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])])


@functools.cache
def _model_class() -> Any:
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as error:
        raise HardwareError(f"protobuf is not installed ({error}): pip install protobuf") from error
    file = descriptor_pb2.FileDescriptorProto(name="edge_agent_onnx.proto", package="edge_agent_onnx", syntax="proto3")
    plain = {"string": 9, "int64": 3, "int32": 5}
    for message, fields in _SCHEMA.items():
        kind = file.message_type.add(name=message)
        for text in fields.split():
            repeated = "*" in text
            name, number, type_name = text.replace("*", ":").split(":")
            field = kind.field.add(name=name, number=int(number), label=3 if repeated else 1)
            if type_name in plain:
                field.type = plain[type_name]
            else:
                field.type, field.type_name = 11, f".edge_agent_onnx.{type_name}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("edge_agent_onnx.Model"))
