"""ONNX files of our networks, written layer by layer: SAME padding stays inside the convolutions.

An exporter that pads with a node of its own costs ONNX Runtime a third of its time (it leaves its blocked layout for it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from training.graph import INPUT, Graph, Layer
from training.network import STRIDES
from training.quantise import Quantised

OPSET = 13
BOXES, SCORES = "boxes", "scores"


def stored(weight: NDArray[np.float32]) -> NDArray[np.float16]:
    """A kernel as float files keep it. Raises ValueError where a weight is too large.

    Calculated is in 32 bits: every runtime widens the constants once, when it loads the file, which is half as large for it.
    """
    with np.errstate(over="ignore"):
        halves = weight.astype(np.float16)
    if not np.isfinite(halves).all():
        raise ValueError(f"a weight of {np.abs(weight).max():.3g} does not fit 16 bits")
    return halves


class _Builder:
    """Nodes and constants of one file. In an integer file each map goes through an int8 (QuantizeLinear, DequantizeLinear)."""

    def __init__(self, graph: Graph, quantised: Quantised | None) -> None:
        self.graph, self.quantised = graph, quantised
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.names = {INPUT: INPUT}

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add one, unless it is there."""
        self.constants.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add one; gives its output."""
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def quantise(self, name: str) -> None:
        """Let everyone who reads the map ``name`` read what an integer leaves of it."""
        if self.quantised is None:
            return
        scale = self.quantised.maps[name]
        # uint8, not int8: ONNX Runtime's x86 kernels multiply uint8 maps by int8 kernels fastest.
        limits = [
            self.constant(f"{name}/scale", np.array(scale.scale, np.float32)),
            self.constant(f"{name}/zero", np.array(scale.zero_point + 128, np.uint8)),
        ]
        integer = self.node("QuantizeLinear", [name, *limits], f"{name}/q")
        self.names[name] = self.node("DequantizeLinear", [integer, *limits], f"{name}/dq")

    def _integers(self, name: str, value: NDArray[Any], steps: NDArray[np.float32]) -> str:
        constants = [
            self.constant(f"{name}/q", value),
            self.constant(f"{name}/scale", steps),
            self.constant(f"{name}/zero", np.zeros(len(steps), value.dtype)),
        ]
        return self.node("DequantizeLinear", constants, name, axis=0)

    def conv(self, layer: Layer) -> None:
        """A convolution and its ReLU6."""
        assert layer.weight is not None and layer.bias is not None
        kernel, bias = f"{layer.name}.weight", f"{layer.name}.bias"
        if self.quantised is None:
            halves = self.constant(kernel, stored(layer.weight))
            kernel = self.node("Cast", [halves], f"{kernel}/real", to=TensorProto.FLOAT)
            self.constant(bias, layer.bias)
        else:
            integers, scales = self.quantised.kernel(layer)
            self._integers(kernel, integers, scales)
            steps = scales * np.float32(self.quantised.maps[layer.inputs[0]].scale)
            self._integers(bias, self.quantised.bias(layer), steps)
        before, after = layer.pads
        # An integer map of a ReLU6 spans 0 to 6 or less and clips by itself; a Clip between would keep it from being one kernel.
        clip = layer.relu6 and self.quantised is None
        self.node(
            "Conv",
            [self.names[layer.inputs[0]], kernel, bias],
            f"{layer.name}.raw" if clip else layer.name,
            kernel_shape=layer.weight.shape[2:],
            strides=[layer.stride] * 2,
            pads=[before, before, after, after],
            group=layer.weight.shape[0] if layer.depthwise else 1,
        )
        if clip:
            limits = [self.constant("zero", np.array(0, np.float32)), self.constant("six", np.array(6, np.float32))]
            self.node("Clip", [f"{layer.name}.raw", *limits], layer.name)

    def layer(self, layer: Layer) -> None:
        """Any layer."""
        if layer.op == "conv":
            self.conv(layer)
        elif layer.op == "add":
            self.node("Add", [self.names[n] for n in layer.inputs], layer.name)
        else:
            twice = self.constant("twice", np.array([1, 1, 2, 2], np.float32))
            self.node(
                "Resize",
                [self.names[layer.inputs[0]], "", twice],
                layer.name,
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        self.names[layer.name] = layer.name
        self.quantise(layer.name)

    def joined(self, name: str, parts: list[str], channels: int) -> None:
        """Flatten the levels' maps and put them one after the other; a classifier's one cell is its answer."""
        if not self.graph.boxes:
            whole = self.constant(f"{name}/shape", np.array([0, channels], np.int64))
            self.node("Reshape", [self.names[parts[0]], whole], name)
            return
        shape = self.constant(f"{name}/shape", np.array([0, channels, -1], np.int64))
        flat = [self.node("Reshape", [self.names[part], shape], f"{part}.flat") for part in parts]
        self.node("Concat", flat, name, axis=2)


def build(
    graph: Graph, size: int, quantised: Quantised | None = None, metadata: Mapping[str, str] | None = None
) -> onnx.ModelProto:
    """``images`` (batch,3,size,size) to ``boxes`` (batch,4,N) and ``scores`` (batch,classes,N), raw, finest level first.

    A classifier's is ``scores`` (batch,classes).
    """
    builder = _Builder(graph, quantised)
    builder.quantise(INPUT)
    for layer in graph.layers:
        builder.layer(layer)
    shapes: dict[str, list[str | int]] = {SCORES: ["batch", graph.classes]}
    if graph.boxes:
        builder.joined(BOXES, graph.boxes, 4)
        cells = sum((size // s) ** 2 for s in STRIDES)
        shapes = {BOXES: ["batch", 4, cells], SCORES: ["batch", graph.classes, cells]}
    builder.joined(SCORES, graph.scores, graph.classes)
    model = helper.make_model(
        helper.make_graph(
            builder.nodes,
            "detector" if graph.boxes else "classifier",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", 3, size, size])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
            list(builder.constants.values()),
        ),
        producer_name="edge-agent training",
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    model.ir_version = 8
    helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model, full_check=True)
    return model


def export_onnx(
    graph: Graph,
    size: int,
    path: Path,
    quantised: Quantised | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the file: with integers inside where ``quantised`` is given, else float."""
    path.write_bytes(build(graph, size, quantised, metadata).SerializeToString())
