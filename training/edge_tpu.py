"""What Google documents about the Edge TPU's operations, and whether a TFLite file keeps to it.

Source: https://coral.ai/docs/edgetpu/models-intro/, "Model requirements" and "Supported operations" (table 1, known limitations).
The compiler itself has the last word: some limits depend on tensor sizes in a way that is not documented.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = "https://coral.ai/docs/edgetpu/models-intro/"
LIMITS = {
    "ADD": "",
    "AVERAGE_POOL_2D": "no fused activation function",
    "CONCATENATION": "no fused activation function; a constant input only as zero padding",
    "CONV_2D": "the same dilation in x and y",
    "DEPTHWISE_CONV_2D": "the same dilation in x and y",
    "FULLY_CONNECTED": "default format of weights; the output is one-dimensional",
    "LOGISTIC": "",
    "MAX_POOL_2D": "no fused activation function",
    "MEAN": "no reduction in the batch dimension",
    "MUL": "",
    "QUANTIZE": "",
    "RELU": "",
    "RELU6": "",
    "RESHAPE": "large tensors may stay on the CPU",
    "RESIZE_NEAREST_NEIGHBOR": "three-dimensional; some sizes may stay on the CPU, to keep their precision",
    "SOFTMAX": "one-dimensional input of at most 16000 elements",
}
"""Operations of table 1 that networks like ours are made of, and what limits them."""
SIZE_DEPENDENT = frozenset({"RESHAPE", "RESIZE_NEAREST_NEIGHBOR"})
_INT32, _INT8 = 2, 9  # schema.TensorType


@dataclass(frozen=True)
class Operation:
    """One kind of operation in a file: how many, its documented limit, and what is against it."""

    name: str
    count: int
    limit: str
    faults: tuple[str, ...]
    largest: tuple[int, ...]
    """Shape of its largest output."""


def inspect(path: Path) -> list[Operation]:
    """Every kind of operation in a TFLite file, by name."""
    from ai_edge_litert import schema_py_generated as schema

    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(path.read_bytes(), 0))
    (graph,) = model.subgraphs
    kinds = [names[max(c.builtinCode, c.deprecatedBuiltinCode)] for c in model.operatorCodes]
    found: dict[str, list[Any]] = {}
    for operator in graph.operators:
        found.setdefault(kinds[operator.opcodeIndex], []).append(operator)
    result = []
    for name, operators in sorted(found.items()):
        faults = [fault for operator in operators for fault in _faults(name, operator, graph, model.buffers)]
        shapes = [tuple(map(int, graph.tensors[operator.outputs[0]].shape)) for operator in operators]
        result.append(
            Operation(name, len(operators), LIMITS.get(name, ""), tuple(sorted(set(faults))), max(shapes, key=_volume))
        )
    return result


def faults(operations: list[Operation]) -> list[str]:
    """What is against the documentation, in sentences; empty where nothing is."""
    return [f"{operation.name}: {fault}" for operation in operations for fault in operation.faults]


def table(operations: list[Operation]) -> str:
    """For a report, in Markdown."""
    head = "| operation | count | largest output | documented limit | kept |\n|---|---|---|---|---|\n"
    return head + "".join(
        f"| {o.name} | {o.count} | {'×'.join(map(str, o.largest))} | {o.limit or 'none'} | {_verdict(o)} |\n"
        for o in operations
    )


def _verdict(operation: Operation) -> str:
    if operation.faults:
        return f"no: {', '.join(operation.faults)}"
    return "by size: the compiler decides" if operation.name in SIZE_DEPENDENT else "yes"


def _volume(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


def _faults(name: str, operator: Any, graph: Any, buffers: Any) -> Iterator[str]:
    if name not in LIMITS:
        yield "not among the supported operations"
    tensors = [graph.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0]
    constant = [bool(buffers[t.buffer].data is not None and len(buffers[t.buffer].data)) for t in tensors]
    for tensor, fixed in zip(tensors, constant, strict=True):
        if tensor.type != _INT8 and not (tensor.type == _INT32 and fixed):
            yield "a tensor that is no int8"
        if tensor.shapeSignature is not None and any(side < 0 for side in tensor.shapeSignature):
            yield "a tensor of open size"
        # Weights are not meant: a convolution's kernel has four dimensions by nature.
        if not fixed and any(side > 1 for side in tensor.shape[:-3]):
            yield "more than the three innermost dimensions above 1"
    check = _CHECKS.get(name)
    if check is not None:
        yield from check(operator.builtinOptions, constant)


def _convolution(options: Any, constant: list[bool]) -> Iterator[str]:
    if options.dilationWFactor != options.dilationHFactor:
        yield "different dilations"
    if not all(constant[1:-1]):
        yield "weights or biases that are no constants"


def _concatenation(options: Any, constant: list[bool]) -> Iterator[str]:
    if options.fusedActivationFunction:
        yield "a fused activation function"
    if any(constant):
        yield "a constant input"


def _pool(options: Any, _constant: list[bool]) -> Iterator[str]:
    if options.fusedActivationFunction:
        yield "a fused activation function"


_CHECKS: dict[str, Callable[[Any, list[bool]], Iterator[str]]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _convolution,
    "CONCATENATION": _concatenation,
    "AVERAGE_POOL_2D": _pool,
    "MAX_POOL_2D": _pool,
}
