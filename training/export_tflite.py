"""TFLite files of our networks, float or full-integer, written operator by operator with the format's own schema.

No converter is between the network and the file: what an Edge TPU gets is exactly the list of layers, with int8 input and outputs.
Outputs are ``boxes`` (1,N,4) and ``scores`` (1,N,C), raw; a classifier's is ``scores`` (1,C).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from numpy.typing import NDArray

from training.export_onnx import BOXES, SCORES, stored
from training.graph import INPUT, Graph, Layer
from training.network import STRIDES
from training.quantise import Quantised, Scale

_VERSIONS = {"CONV_2D": (1, 3), "DEPTHWISE_CONV_2D": (1, 3), "ADD": (1, 2), "RESIZE_NEAREST_NEIGHBOR": (1, 2)}
_VERSIONS |= {"CONCATENATION": (1, 2), "RESHAPE": (1, 1), "DEQUANTIZE": (3, 3)}


class _Writer:
    def __init__(self, graph: Graph, size: int, quantised: Quantised | None) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema: Any = schema
        self.graph, self.size, self.quantised = graph, size, quantised
        self.buffers: list[Any] = [schema.BufferT()]
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.codes: dict[str, int] = {}
        self.index: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        data: NDArray[Any] | None = None,
        scales: NDArray[np.float32] | None = None,
        *,
        zero_point: int = 0,
        axis: int = 0,
    ) -> int:
        """Add one; its type is that of ``data``, or that of the maps."""
        kinds = {"float32": 0, "float16": 1, "int32": 2, "int8": 9}  # schema.TensorType
        t = self.schema.TensorT()
        t.name, t.shape = name.encode(), list(shape)
        t.type = kinds[str(data.dtype)] if data is not None else kinds["int8" if self.quantised else "float32"]
        t.buffer = 0
        if data is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            t.buffer = len(self.buffers)
            self.buffers.append(buffer)
        if scales is not None:
            t.quantization = self.schema.QuantizationParametersT()
            t.quantization.scale = [float(s) for s in scales]
            t.quantization.zeroPoint = [zero_point] * len(scales)
            t.quantization.quantizedDimension = axis
        self.tensors.append(t)
        self.index[name], self.shapes[name] = len(self.tensors) - 1, shape
        return self.index[name]

    def map(self, name: str, shape: tuple[int, ...], scale: Scale | None) -> int:
        """Add a map, with its scale in an integer file."""
        if scale is None:
            return self.tensor(name, shape)
        return self.tensor(name, shape, None, np.array([scale.scale], np.float32), zero_point=scale.zero_point)

    def scale(self, name: str) -> Scale | None:
        return self.quantised.maps[name] if self.quantised else None

    def operator(self, kind: str, inputs: list[int], output: int, options: Any) -> None:
        o = self.schema.OperatorT()
        o.opcodeIndex = self.codes.setdefault(kind, len(self.codes))
        o.inputs, o.outputs = inputs, [output]
        o.builtinOptionsType = getattr(self.schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        o.builtinOptions = options
        self.operators.append(o)

    def convolution(self, layer: Layer) -> None:
        assert layer.weight is not None and layer.bias is not None
        order = (1, 2, 3, 0) if layer.depthwise else (0, 2, 3, 1)
        kernel: NDArray[Any] = layer.weight
        bias: NDArray[Any] = layer.bias
        scales = steps = None
        if self.quantised:
            kernel, scales = self.quantised.kernel(layer)
            bias, steps = self.quantised.bias(layer), scales * np.float32(self.quantised.maps[layer.inputs[0]].scale)
        kernel = kernel.transpose(order)
        if layer.depthwise:
            kernel = kernel.reshape(1, *kernel.shape[1:])
        _, h, w, _ = self.shapes[layer.inputs[0]]
        if self.quantised:
            weights = self.tensor(
                f"{layer.name}/kernel", kernel.shape, kernel, scales, axis=3 if layer.depthwise else 0
            )
        else:
            halves = self.tensor(f"{layer.name}/halves", kernel.shape, stored(kernel))
            weights = self.tensor(f"{layer.name}/kernel", kernel.shape)
            self.operator("DEQUANTIZE", [halves], weights, self.schema.DequantizeOptionsT())
        inputs = [self.index[layer.inputs[0]], weights, self.tensor(f"{layer.name}/bias", bias.shape, bias, steps)]
        kind = "DEPTHWISE_CONV_2D" if layer.depthwise else "CONV_2D"
        options = self.schema.DepthwiseConv2DOptionsT() if layer.depthwise else self.schema.Conv2DOptionsT()
        options.padding = 0  # SAME
        options.strideH = options.strideW = layer.stride
        options.fusedActivationFunction = 3 if layer.relu6 else 0
        if layer.depthwise:
            options.depthMultiplier = 1
        shape = (1, -(-h // layer.stride), -(-w // layer.stride), len(layer.weight))
        self.operator(kind, inputs, self.map(layer.name, shape, self.scale(layer.name)), options)

    def layer(self, layer: Layer) -> None:
        first = self.shapes[layer.inputs[0]]
        if layer.op == "conv":
            self.convolution(layer)
        elif layer.op == "add":
            inputs = [self.index[n] for n in layer.inputs]
            out = self.map(layer.name, first, self.scale(layer.name))
            self.operator("ADD", inputs, out, self.schema.AddOptionsT())
        else:
            _, h, w, c = first
            target = self.tensor(f"{layer.name}/size", (2,), np.array([2 * h, 2 * w], np.int32))
            out = self.map(layer.name, (1, 2 * h, 2 * w, c), self.scale(layer.name))
            inputs = [self.index[layer.inputs[0]], target]
            self.operator("RESIZE_NEAREST_NEIGHBOR", inputs, out, self.schema.ResizeNearestNeighborOptionsT())

    def _reshape(self, part: str, name: str, shape: tuple[int, ...], scale: Scale | None) -> int:
        wanted = self.tensor(f"{part}/shape", (len(shape),), np.array(shape, np.int32))
        options = self.schema.ReshapeOptionsT()
        options.newShape = list(shape)
        out = self.map(name, shape, scale)
        self.operator("RESHAPE", [self.index[part], wanted], out, options)
        return out

    def joined(self, name: str, parts: list[str], channels: int) -> None:
        """Flatten the levels' maps and put them one after the other."""
        flat, total, scale = [], 0, self.scale(parts[0])
        if not self.graph.boxes:
            self._reshape(parts[0], name, (1, channels), scale)
            return
        for part in parts:
            _, h, w, c = self.shapes[part]
            flat.append(self._reshape(part, f"{part}/flat", (1, h * w, c), scale))
            total += h * w
        options = self.schema.ConcatenationOptionsT()
        options.axis = 1
        self.operator("CONCATENATION", flat, self.map(name, (1, total, channels), scale), options)

    def model(self, description: str) -> bytes:
        self.map(INPUT, (1, self.size, self.size, 3), self.scale(INPUT))
        for layer in self.graph.layers:
            self.layer(layer)
        if self.graph.boxes:
            self.joined(BOXES, self.graph.boxes, 4)
        self.joined(SCORES, self.graph.scores, self.graph.classes)
        model = self.schema.ModelT()
        model.version, model.description, model.buffers = 3, description.encode(), self.buffers
        model.operatorCodes = [self._code(kind) for kind in self.codes]
        subgraph = self.schema.SubGraphT()
        outputs = [BOXES, SCORES] if self.graph.boxes else [SCORES]
        subgraph.name = b"detector" if self.graph.boxes else b"classifier"
        subgraph.tensors, subgraph.operators = self.tensors, self.operators
        subgraph.inputs, subgraph.outputs = [self.index[INPUT]], [self.index[name] for name in outputs]
        model.subgraphs = [subgraph]
        builder = flatbuffers.Builder(1 << 22)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _code(self, kind: str) -> Any:
        code = self.schema.OperatorCodeT()
        code.builtinCode = getattr(self.schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = _VERSIONS[kind][1 if self.quantised else 0]
        return code


def export_tflite(
    graph: Graph, size: int, path: Path, quantised: Quantised | None = None, description: str = ""
) -> None:
    """Write the file: full-integer with ``quantised``, else float."""
    if graph.boxes and size % STRIDES[-1]:
        raise ValueError(f"size {size} is no multiple of {STRIDES[-1]}")
    path.write_bytes(_Writer(graph, size, quantised).model(description))
