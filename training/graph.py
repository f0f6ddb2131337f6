"""A trained network as a plain list of layers with folded weights: what every exporter and the quantiser work from."""

from __future__ import annotations

import copy
import dataclasses
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812

from training.classifier import Classifier
from training.network import Conv, Detector

F32 = NDArray[np.float32]
INPUT = "images"
IMAGE_MEAN = IMAGE_STD = 128.0
"""How a graph's input is made of pixels."""
TRAINED_MEAN = 127.5
"""Mean and standard deviation in training."""


@dataclass(frozen=True)
class Layer:
    """``conv`` (kernel (O,I/groups,kh,kw), bias (O,)), ``add`` of two maps, or ``double``: nearest-neighbour doubling."""

    name: str
    op: Literal["conv", "add", "double"]
    inputs: tuple[str, ...]
    weight: F32 | None = None
    bias: F32 | None = None
    stride: int = 1
    relu6: bool = False

    @property
    def depthwise(self) -> bool:
        """One filter for each channel."""
        return self.weight is not None and self.weight.shape[1] == 1 and self.weight.shape[0] > 1

    @property
    def pads(self) -> tuple[int, int]:
        """Rows (and columns) of zeros before and after: TensorFlow's SAME for an even side."""
        total = 0 if self.weight is None else max(self.weight.shape[2] - self.stride, 0)
        return total // 2, total - total // 2


@dataclass(frozen=True)
class Graph:
    """Layers in order of execution; ``outputs`` are the names of (score map, box map) for each stride, finest first.

    A classifier's is one score map of one cell, without a box map.

    The input is ``(value - 128) / 128``, other than in training: as an int8 that is the pixel less 128, exactly.
    """

    layers: tuple[Layer, ...]
    outputs: tuple[tuple[str, ...], ...]
    classes: int

    @property
    def scores(self) -> list[str]:
        """Score maps, finest first."""
        return [level[0] for level in self.outputs]

    @property
    def boxes(self) -> list[str]:
        """Box maps, finest first; none of a classifier."""
        return [level[1] for level in self.outputs if len(level) > 1]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        """Our convolution is one layer, whatever it is made of."""
        return isinstance(module, Conv | nn.Conv2d)


def _folded(module: Conv | nn.Conv2d) -> tuple[F32, F32]:
    conv = module.conv if isinstance(module, Conv) else module
    weight = conv.weight.detach().float()
    bias = torch.zeros(len(weight)) if conv.bias is None else conv.bias.detach().float()
    if isinstance(module, Conv) and isinstance(module.bn, nn.BatchNorm2d):
        bn = module.bn
        factor = bn.weight.detach() / torch.sqrt(bn.running_var + bn.eps)
        weight, bias = weight * factor[:, None, None, None], (bias - bn.running_mean) * factor + bn.bias.detach()
    return weight.contiguous().numpy().copy(), bias.numpy().copy()


def trace(model: Detector | Classifier) -> Graph:
    """The layers of a network in evaluation mode, batch norm folded into its convolutions."""
    model = copy.deepcopy(model).eval()
    model.trunk.frozen = 0
    traced, modules = _Tracer().trace(model), dict(model.named_modules())
    layers: list[Layer] = []
    for node in traced.nodes:
        inputs = tuple(INPUT if n.op == "placeholder" else n.name for n in node.all_input_nodes)
        if node.op == "call_module":
            module = modules[str(node.target)]
            assert isinstance(module, Conv | nn.Conv2d)
            conv = module.conv if isinstance(module, Conv) else module
            weight, bias = _folded(module)
            relu6 = isinstance(module, Conv) and isinstance(module.act, nn.ReLU6)
            layers.append(Layer(node.name, "conv", inputs, weight, bias, conv.stride[0], relu6))
        elif node.target is operator.add:
            layers.append(Layer(node.name, "add", inputs))
        elif node.target is F.interpolate:
            layers.append(Layer(node.name, "double", inputs))
        elif node.op not in ("placeholder", "output"):
            raise ValueError(f"{node.name}: {node.op} {node.target} cannot be exported")
    layers[0] = _with_own_input(layers[0])
    (result,) = (n.args[0] for n in traced.nodes if n.op == "output")
    outputs = tuple(tuple(part.name for part in level) for level in result)
    return Graph(tuple(layers), outputs, model.spec.classes)


def _with_own_input(stem: Layer) -> Layer:
    """Training's ``(value - 127.5) / 127.5`` is a multiple of ours and a constant; the first layer takes both in."""
    assert stem.weight is not None and stem.bias is not None
    shift = (IMAGE_MEAN - TRAINED_MEAN) / TRAINED_MEAN
    return dataclasses.replace(
        stem,
        weight=stem.weight * np.float32(IMAGE_STD / TRAINED_MEAN),
        bias=stem.bias + stem.weight.sum(axis=(1, 2, 3)) * np.float32(shift),
    )


def to_input(images: NDArray[np.uint8]) -> Tensor:
    """(B,H,W,3) uint8 RGB to a graph's (B,3,H,W)."""
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() - IMAGE_MEAN) / IMAGE_STD


def run(graph: Graph, x: Tensor, see: Callable[[str, Tensor], Tensor | None] | None = None) -> dict[str, Tensor]:
    """Every layer's output for input (B,3,H,W). ``see(name, map)`` is shown each and may return one to go on with."""
    return dict(_steps(graph, x, see or (lambda _name, _map: None)))


def _steps(graph: Graph, x: Tensor, see: Callable[[str, Tensor], Any]) -> Iterator[tuple[str, Tensor]]:
    maps: dict[str, Tensor] = {}

    def keep(name: str, value: Tensor) -> tuple[str, Tensor]:
        changed = see(name, value)
        maps[name] = value if changed is None else changed
        return name, maps[name]

    yield keep(INPUT, x)
    for layer in graph.layers:
        first = maps[layer.inputs[0]]
        if layer.op == "conv":
            assert layer.weight is not None and layer.bias is not None
            before, after = layer.pads
            groups = layer.weight.shape[0] if layer.depthwise else 1
            first = F.pad(first, (before, after, before, after))
            y = F.conv2d(
                first, torch.from_numpy(layer.weight), torch.from_numpy(layer.bias), layer.stride, groups=groups
            )
            yield keep(layer.name, y.clamp(0, 6) if layer.relu6 else y)
        elif layer.op == "add":
            yield keep(layer.name, first + maps[layer.inputs[1]])
        else:
            yield keep(layer.name, F.interpolate(first, scale_factor=2.0, mode="nearest"))
