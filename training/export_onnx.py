"""ONNX files of our networks, written layer by layer: SAME padding stays inside the convolutions.

An exporter that pads with a node of its own costs ONNX Runtime a third of its time (it leaves its blocked layout for it).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from training.graph import INPUT, Graph, Layer

OPSET = 13
BOXES, SCORES = "boxes", "scores"


def _conv(layer: Layer, initializers: list[onnx.TensorProto]) -> list[onnx.NodeProto]:
    assert layer.weight is not None and layer.bias is not None
    initializers += [
        numpy_helper.from_array(layer.weight, f"{layer.name}.weight"),
        numpy_helper.from_array(layer.bias, f"{layer.name}.bias"),
    ]
    before, after = layer.pads
    raw = f"{layer.name}.raw" if layer.relu6 else layer.name
    nodes = [
        helper.make_node(
            "Conv",
            [layer.inputs[0], f"{layer.name}.weight", f"{layer.name}.bias"],
            [raw],
            layer.name,
            kernel_shape=layer.weight.shape[2:],
            strides=[layer.stride] * 2,
            pads=[before, before, after, after],
            group=layer.weight.shape[0] if layer.depthwise else 1,
        )
    ]
    if layer.relu6:
        nodes.append(helper.make_node("Clip", [raw, "zero", "six"], [layer.name], f"{layer.name}.relu6"))
    return nodes


def build(graph: Graph, size: int, description: str = "") -> onnx.ModelProto:
    """``images`` (batch,3,size,size) to ``boxes`` (batch,4,N) and ``scores`` (batch,classes,N), raw, finest level first."""
    initializers = [
        numpy_helper.from_array(np.float32(0), "zero"),
        numpy_helper.from_array(np.float32(6), "six"),
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "twice"),
        numpy_helper.from_array(np.array([0, 4, -1], np.int64), "flat4"),
        numpy_helper.from_array(np.array([0, graph.classes, -1], np.int64), "flat"),
    ]
    nodes: list[onnx.NodeProto] = []
    for layer in graph.layers:
        if layer.op == "conv":
            nodes += _conv(layer, initializers)
        elif layer.op == "add":
            nodes.append(helper.make_node("Add", layer.inputs, [layer.name], layer.name))
        else:
            nodes.append(
                helper.make_node(
                    "Resize",
                    [layer.inputs[0], "", "twice"],
                    [layer.name],
                    layer.name,
                    mode="nearest",
                    coordinate_transformation_mode="asymmetric",
                    nearest_mode="floor",
                )
            )
    for place, (name, shape) in enumerate(((SCORES, "flat"), (BOXES, "flat4"))):
        flat = [f"{pair[place]}.flat" for pair in graph.outputs]
        nodes += [
            helper.make_node("Reshape", [pair[place], shape], [out], out)
            for pair, out in zip(graph.outputs, flat, strict=True)
        ]
        nodes.append(helper.make_node("Concat", flat, [name], name, axis=2))
    cells = sum((size // s) ** 2 for s in (8, 16, 32))
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "detector",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", 3, size, size])],
            [
                helper.make_tensor_value_info(BOXES, TensorProto.FLOAT, ["batch", 4, cells]),
                helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, ["batch", graph.classes, cells]),
            ],
            initializers,
        ),
        producer_name="edge-agent training",
        opset_imports=[helper.make_opsetid("", OPSET)],
        doc_string=description,
    )
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


def export_onnx(graph: Graph, size: int, path: Path, description: str = "") -> None:
    """Write the file."""
    path.write_bytes(build(graph, size, description).SerializeToString())
