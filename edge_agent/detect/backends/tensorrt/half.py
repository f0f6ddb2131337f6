"""FP16 for TensorRT versions that have no flag for it: the types are put into the network instead.

TensorRT 11 takes each tensor's type from the network ("strongly typed") and dropped ``BuilderFlag.FP16``. What costs time
is everything up to the last convolution or matrix product: that runs in half precision. What follows is the arithmetic of
boxes, where half precision is half a pixel at 640: that stays as it is, as do the network's inputs and outputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edge_agent.detect.backends.tensorrt.vendor import load_tensorrt
from edge_agent.errors import ModelError

if TYPE_CHECKING:
    import tensorrt  # type: ignore[import-not-found, import-untyped, unused-ignore]

HEAVY = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
SOURCES = ("CONSTANT", "CAST", "FILL", "QUANTIZE", "DEQUANTIZE", "DYNAMIC_QUANTIZE")
"""Layers that say themselves what comes out: their output is cast."""
PRECISE = ("NORMALIZATION", "REDUCE", "SOFTMAX")
"""Layers that add up many numbers, or squares, and overflow: they stay in single precision wherever they are, as do powers."""
REFUSED = (
    "LOOP_OUTPUT",
    "TRIP_LIMIT",
    "RECURRENCE",
    "ITERATOR",
    "CONDITION",
    "CONDITIONAL_INPUT",
    "CONDITIONAL_OUTPUT",
)
REFUSED_ENDS = ("PLUGIN", "PLUGIN_V2", "PLUGIN_V3", "NMS", "ATTENTION_INPUT", "ATTENTION_OUTPUT")
LARGEST = float(np.finfo(np.float16).max)


class HalfRefused(ModelError):
    """The network cannot be put in half precision."""


class HalfNetwork:
    """Rewrites one strongly typed network. ``weights`` must live until the engine is built: TensorRT keeps no copy."""

    def __init__(self, module: str, network: tensorrt.INetworkDefinition) -> None:
        self._trt = load_tensorrt(module)
        self._network = network
        self._layers = [network.get_layer(i) for i in range(network.num_layers)]
        self._outputs = [network.get_output(i) for i in range(network.num_outputs)]
        self._casts: dict[tuple[str, str], Any] = {}
        self.weights: list[Any] = []

    def convert(self) -> int:
        """Put the network's trunk in half precision; how many layers that are. Raises HalfRefused."""
        chosen = self._trunk()
        # Before the first change: from then on types follow from one another.
        floats = {t.name for layer in self._layers for t in self._tensors(layer) if self._is_float(t)}
        made = {self._layers[i].get_output(k).name for i in chosen for k in range(self._layers[i].num_outputs)}
        for position, layer in enumerate(self._layers):
            inside = position in chosen
            for index in range(layer.num_inputs):
                tensor = layer.get_input(index)
                if tensor is None or tensor.name not in floats or (tensor.name in made) == inside:
                    continue
                layer.set_input(index, self._cast(tensor, "HALF" if inside else "FLOAT"))
            if inside:
                self._convert_weights(layer)
        for output in self._outputs:
            if output.name in made & floats:
                self._restore(output)
        return len(chosen)

    def _trunk(self) -> set[int]:
        """Positions of the layers from which a heavy one can be reached through float tensors, and the heavy ones."""
        kinds = {self._kind(layer) for layer in self._layers}
        if refused := kinds & {*REFUSED, *REFUSED_ENDS}:
            raise HalfRefused(f"a network with {', '.join(sorted(refused)).lower()} layers stays in single precision")
        maker = {layer.get_output(k).name: i for i, layer in enumerate(self._layers) for k in range(layer.num_outputs)}
        open_ = [i for i, layer in enumerate(self._layers) if self._kind(layer) in HEAVY]
        seen: set[int] = set()
        while open_:
            position = open_.pop()
            layer = self._layers[position]
            floats = [t.name for t in self._inputs(layer) if self._is_float(t)]
            if position in seen or self._kind(layer) in SOURCES or not floats:
                continue
            seen.add(position)
            open_ += [maker[name] for name in floats if name in maker]
        return {position for position in seen if not self._is_precise(self._layers[position])}

    def _cast(self, tensor: Any, kind: str) -> Any:
        """The tensor in another type: one cast for all who want it."""
        key = (tensor.name, kind)
        if key not in self._casts:
            layer = self._network.add_cast(tensor, getattr(self._trt.DataType, kind))
            layer.name = f"{tensor.name}_as_{kind.lower()}"
            self._casts[key] = layer.get_output(0)
        return self._casts[key]

    def _restore(self, output: Any) -> None:
        """Give a network output that became half its old type, under its own name."""
        name = output.name
        self._network.unmark_output(output)
        full = self._cast(output, "FLOAT")
        output.name = f"{name}_half"
        full.name = name
        self._network.mark_output(full)

    def _convert_weights(self, layer: Any) -> None:
        kind = self._kind(layer)
        if kind not in ("CONVOLUTION", "DECONVOLUTION"):
            return
        typed = self._trt.IConvolutionLayer if kind == "CONVOLUTION" else self._trt.IDeconvolutionLayer
        # The list of layers gives the base class only; this is how the binding is told what it is.
        layer.__class__ = typed
        for name in ("kernel", "bias"):
            values = np.asarray(getattr(layer, name))
            if values.dtype != np.float32 or not values.size:  # none, or given as a tensor
                continue
            if np.abs(values).max() > LARGEST:
                raise HalfRefused(f"layer {layer.name} has weights too large for half precision")
            half = np.ascontiguousarray(values, np.float16)
            self.weights.append(half)
            setattr(layer, name, half)

    def _is_precise(self, layer: Any) -> bool:
        if self._kind(layer) == "ELEMENTWISE":
            layer.__class__ = self._trt.IElementWiseLayer
            return bool(layer.op == self._trt.ElementWiseOperation.POW)
        return self._kind(layer) in PRECISE

    def _kind(self, layer: Any) -> str:
        return str(layer.type).rsplit(".", maxsplit=1)[-1]

    def _is_float(self, tensor: Any) -> bool:
        return bool(tensor.dtype == self._trt.DataType.FLOAT)

    def _inputs(self, layer: Any) -> list[Any]:
        return [t for k in range(layer.num_inputs) if (t := layer.get_input(k)) is not None]

    def _tensors(self, layer: Any) -> list[Any]:
        return self._inputs(layer) + [layer.get_output(k) for k in range(layer.num_outputs)]
