"""Writes the tiny ONNX files beside it, all but one the same convolution with another kind of input or output.

Run it where the ``onnx`` package is (the tests themselves do not need it): ``python tests/onnx_networks/make.py``. The
input is 32 pixels wide and 24 high, so that swapped sides show. Outputs: ``grid`` (1,4,12,16) and ``mean`` (1,4).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

HERE = Path(__file__).parent
WIDTH, HEIGHT = 32, 24
F32 = TensorProto.FLOAT
_random = np.random.default_rng(7)
WEIGHTS = _random.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32)
BIAS = np.asarray([0.1, -0.2, 0.3, 0.0], np.float32)
NCHW: list[int | str] = [1, 3, HEIGHT, WIDTH]
NHWC: list[int | str] = [1, HEIGHT, WIDTH, 3]
GRID: list[int | str] = [1, 4, HEIGHT // 2, WIDTH // 2]


def graph(
    nodes: list[NodeProto],
    *,
    shape: list[int | str] = NCHW,
    dtype: int = F32,
    outputs: dict[str, tuple[int, list[int | str]]] | None = None,
    name: str = "image",
) -> GraphProto:
    """A graph of ``nodes`` that ends in the convolution of tensor ``x`` to ``grid`` and ``mean``."""
    work = TensorProto.FLOAT16 if dtype == TensorProto.FLOAT16 else F32
    kind = np.float16 if work == TensorProto.FLOAT16 else np.float32
    body = [
        helper.make_node("Conv", ["x", "weights", "bias"], ["raw"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["raw"], ["grid"]),
        helper.make_node("GlobalAveragePool", ["grid"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["mean"]),
    ]
    declared = outputs or {"grid": (work, GRID), "mean": (work, [1, 4])}
    return helper.make_graph(
        [*[n for n in nodes if "grid" not in n.input], *body, *[n for n in nodes if "grid" in n.input]],
        "tiny",
        [helper.make_tensor_value_info(name, dtype, shape)],
        [helper.make_tensor_value_info(key, *value) for key, value in declared.items()],
        [numpy_helper.from_array(WEIGHTS.astype(kind), "weights"), numpy_helper.from_array(BIAS.astype(kind), "bias")],
    )


def model(made: GraphProto) -> ModelProto:
    """The graph with an old opset and IR version, which every runtime reads."""
    made_model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8, producer_name="tests"
    )
    onnx.checker.check_model(made_model)
    return made_model


def same(name: str = "image") -> NodeProto:
    """``x`` is the input itself."""
    return helper.make_node("Identity", [name], ["x"])


def quantised() -> ModelProto:
    """Input and weights go through QuantizeLinear and DequantizeLinear, as a quantised export has them."""
    made = graph(
        [
            helper.make_node("QuantizeLinear", ["image", "s_in", "z_in"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s_in", "z_in"], ["x"]),
        ]
    )
    scale = np.abs(WEIGHTS).max(axis=(1, 2, 3)) / np.float32(127)
    levels = np.clip(np.round(WEIGHTS / scale[:, None, None, None]), -127, 127).astype(np.int8)
    del made.initializer[0]
    made.initializer.extend(
        numpy_helper.from_array(np.asarray(value), key)
        for key, value in {
            "levels": levels,
            "s_w": scale,
            "z_w": np.zeros(4, np.int8),
            "s_in": np.float32(1 / 255),
            "z_in": np.uint8(0),
        }.items()
    )
    made.node.insert(0, helper.make_node("DequantizeLinear", ["levels", "s_w", "z_w"], ["weights"], axis=0))
    return model(made)


def cells() -> ModelProto:
    """The network of ``tests/tflite_networks``, as reference for it: light 8x8 squares in a picture of 64x48, from -1 to 1."""
    y, x = np.mgrid[0:6, 0:8]
    centre = np.stack(((x + 0.5) * 8, (y + 0.5) * 8)).reshape(1, 2, 48)
    nodes = [
        helper.make_node("Conv", ["image", "first", "one"], ["mean"], strides=[4, 4]),
        helper.make_node("Relu", ["mean"], ["light"]),
        helper.make_node("Conv", ["light", "second", "below"], ["logits"], strides=[2, 2]),
        helper.make_node("Sigmoid", ["logits"], ["sure"]),
        helper.make_node("Reshape", ["sure", "row"], ["scores"]),
        helper.make_node("Identity", ["places"], ["boxes"]),
        helper.make_node("Concat", ["boxes", "scores"], ["output0"], axis=1),
    ]
    values = {
        "first": np.full((4, 3, 4, 4), 1 / 48, np.float32),
        "one": np.ones(4, np.float32),
        "second": np.full((1, 4, 2, 2), 8 / 16, np.float32),
        "below": np.asarray([-12], np.float32),
        "row": np.asarray([1, 1, 48], np.int64),
        "places": np.concatenate((centre, np.full((1, 2, 48), 8)), 1).astype(np.float32),
    }
    sizes = {"boxes": 4, "scores": 1, "output0": 5}
    made = helper.make_graph(
        nodes,
        "cells",
        [helper.make_tensor_value_info("image", F32, [1, 3, 48, 64])],
        [helper.make_tensor_value_info(name, F32, [1, rows, 48]) for name, rows in sizes.items()],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return model(made)


def main() -> None:
    """Write all files."""
    cast = helper.make_node("Cast", ["image"], ["x"], to=F32)
    swap = helper.make_node("Transpose", ["image"], ["x"], perm=[0, 3, 1, 2])
    grid: tuple[int, list[int | str]] = (F32, GRID)
    made = {
        "float": graph([same()]),
        "nhwc": graph([swap], shape=NHWC),
        "uint8": graph(
            [
                helper.make_node("Cast", ["image"], ["f"], to=F32),
                helper.make_node("Transpose", ["f"], ["x"], perm=[0, 3, 1, 2]),
            ],
            shape=NHWC,
            dtype=TensorProto.UINT8,
        ),
        "int8": graph([cast], dtype=TensorProto.INT8),
        "float16": graph([same()], dtype=TensorProto.FLOAT16),
        "dynamic": graph(
            [same()],
            shape=["batch", 3, "height", "width"],
            outputs={"grid": (F32, ["batch", 4, "rows", "columns"]), "mean": (F32, ["batch", 4])},
        ),
        # A number of class for each cell, and the cells above a threshold: integers, as many as there are.
        "labels": graph(
            [
                same(),
                helper.make_node("ArgMax", ["grid"], ["best"], axis=1, keepdims=0),
                helper.make_node("NonZero", ["grid"], ["found"]),
            ],
            outputs={
                "grid": grid,
                "best": (TensorProto.INT64, [1, HEIGHT // 2, WIDTH // 2]),
                "found": (TensorProto.INT64, [4, "count"]),
            },
        ),
    }
    for name, each in made.items():
        (HERE / f"{name}.onnx").write_bytes(model(each).SerializeToString())
    (HERE / "quantised.onnx").write_bytes(quantised().SerializeToString())
    (HERE / "cells.onnx").write_bytes(cells().SerializeToString())
    two = graph([helper.make_node("Add", ["image", "other"], ["x"])])
    two.input.append(helper.make_tensor_value_info("other", F32, NCHW))
    (HERE / "two_inputs.onnx").write_bytes(model(two).SerializeToString())
    (HERE / "external.bin").unlink(missing_ok=True)
    onnx.save_model(
        model(graph([same()])),
        HERE / "external.onnx",
        save_as_external_data=True,
        location="external.bin",
        size_threshold=0,
    )


if __name__ == "__main__":
    main()
