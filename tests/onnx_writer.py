"""Writes ONNX files byte by byte, well-formed ones and others: no library would write what the hostile tests need.

Field numbers are those of onnx.proto3. ``network`` makes a tiny network that answers with given numbers and a little noise
that depends on the picture, so that a family's outputs can be had in a few kilobytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

TYPES = {np.dtype(np.float32): 1, np.dtype(np.uint8): 2, np.dtype(np.int8): 3, np.dtype(np.int64): 7}
TYPES |= {np.dtype(np.float16): 10, np.dtype(np.int32): 6}


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | float | str | bytes) -> bytes:
    """One field: varint, float, or with its length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def entry(key: str, value: str) -> bytes:
    return field(1, key) + field(2, value)


def tensor(name: str, value: NDArray[Any]) -> bytes:
    dims = b"".join(field(1, n) for n in value.shape)
    return dims + field(2, TYPES[value.dtype]) + field(8, name) + field(9, np.ascontiguousarray(value).tobytes())


def external(name: str, shape: Sequence[int], location: str) -> bytes:
    """A float tensor whose numbers lie in another file."""
    dims = b"".join(field(1, n) for n in shape)
    return dims + field(2, 1) + field(8, name) + field(13, entry("location", location)) + field(14, 1)


def value_info(name: str, dtype: int, shape: Sequence[int | str]) -> bytes:
    dims = b"".join(field(1, field(1, n) if isinstance(n, int) else field(2, n)) for n in shape)
    return field(1, name) + field(2, field(1, field(1, dtype) + field(2, dims)))


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: int | Sequence[int] | bytes) -> bytes:
    """``bytes`` attributes are graphs."""
    data = b"".join(field(1, i) for i in inputs) + b"".join(field(2, o) for o in outputs) + field(4, op)
    for name, value in attributes.items():
        if isinstance(value, bytes):
            body = field(6, value) + field(20, 5)
        elif isinstance(value, int):
            body = field(3, value) + field(20, 2)
        else:
            body = b"".join(field(8, n) for n in value) + field(20, 7)
        data += field(5, field(1, name) + body)
    return data


def graph(
    nodes: Sequence[bytes], inputs: Sequence[bytes], outputs: Sequence[bytes], tensors: Sequence[bytes] = ()
) -> bytes:
    parts = [(1, n) for n in nodes] + [(5, t) for t in tensors] + [(11, i) for i in inputs] + [(12, o) for o in outputs]
    return field(2, "g") + b"".join(field(number, part) for number, part in parts)


def model(graph_bytes: bytes, metadata: Mapping[str, str] | None = None, opset: int = 13) -> bytes:
    notes = b"".join(field(14, entry(key, value)) for key, value in (metadata or {}).items())
    return field(1, 8) + field(8, field(1, "") + field(2, opset)) + field(7, graph_bytes) + notes


def network(
    answers: Mapping[str, NDArray[Any]],
    *,
    size: tuple[int, int] = (64, 64),
    noise: float = 0.0,
    layout: str = "NCHW",
    open_size: bool = False,
    metadata: Mapping[str, str] | None = None,
    name: str = "images",
) -> bytes:
    """Answers with ``answers`` by output name, floats with ``noise`` that the picture's mean colour decides."""
    width, height = size
    rng = np.random.default_rng(5)
    nodes = [] if layout == "NCHW" else [node("Transpose", [name], ["x"], perm=[0, 3, 1, 2])]
    first = name if layout == "NCHW" else "x"
    nodes += [node("GlobalAveragePool", [first], ["pooled"]), node("Flatten", ["pooled"], ["mean"])]
    tensors, declared = [], []
    for key, answer in answers.items():
        if answer.dtype == np.float32:
            weights = (rng.normal(0, noise, (3, answer.size)) if noise else np.zeros((3, answer.size))).astype(
                np.float32
            )
            tensors += [tensor(f"{key}_w", weights), tensor(f"{key}_b", answer.reshape(-1))]
            tensors.append(tensor(f"{key}_s", np.array(answer.shape, np.int64)))
            nodes += [
                node("MatMul", ["mean", f"{key}_w"], [f"{key}_m"]),
                node("Add", [f"{key}_m", f"{key}_b"], [f"{key}_f"]),
                node("Reshape", [f"{key}_f", f"{key}_s"], [key]),
            ]
        else:
            tensors.append(tensor(f"{key}_c", answer))
            nodes.append(node("Identity", [f"{key}_c"], [key]))
        declared.append(value_info(key, TYPES[answer.dtype], answer.shape))
    sides: list[int | str] = ["h", "w"] if open_size else [height, width]
    shape = [1, 3, *sides] if layout == "NCHW" else [1, *sides, 3]
    return model(graph(nodes, [value_info(name, 1, shape)], declared, tensors), metadata)
