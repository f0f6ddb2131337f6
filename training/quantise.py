"""Integer arithmetic for a trained network: ranges from pictures, weights per channel, and what each layer loses.

One scheme serves TFLite and ONNX: weights int8, symmetric, a scale for each output channel; maps int8, one scale and zero point
each (TFLite's quantisation specification); biases int32 with the product of both scales (Jacob et al. 2018).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.graph import IMAGE_STD, INPUT, Graph, Layer, run

LOWEST_LOGIT = -7.0
"""Scores below 0.001 need not be told apart."""
LARGEST_BIAS = 2.0**30
"""Steps: the other half of 32 bits is for the products."""
TAIL = 1e-5
"""Share of a map's values that may be clipped at either end."""


@dataclass(frozen=True)
class Scale:
    """``real = (q - zero_point) * scale`` with q in [-128, 127]."""

    scale: float
    zero_point: int

    def fake(self, x: Tensor) -> Tensor:
        """What is left of ``x`` after being an int8."""
        q = (x / self.scale).round().add(self.zero_point).clamp(-128, 127)
        return (q - self.zero_point) * self.scale


@dataclass(frozen=True)
class Quantised:
    """A graph with a ``Scale`` for every map."""

    graph: Graph
    maps: dict[str, Scale]

    def kernel(self, layer: Layer) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Integer kernel (O,I,kh,kw) and its scales (O,)."""
        assert layer.weight is not None and layer.bias is not None
        scales = np.abs(layer.weight).reshape(len(layer.weight), -1).max(axis=1) / 127.0
        # Of a channel that is all bias (the trunk's stem has three) the bias, counted in steps of both scales, would fill 32 bits
        # and the sum run over: what is off in the network would come out as anything.
        least = np.abs(layer.bias) / (self.maps[layer.inputs[0]].scale * LARGEST_BIAS)
        scales = np.maximum(scales, np.maximum(least, 1e-8)).astype(np.float32)
        return np.rint(layer.weight / scales[:, None, None, None]).clip(-127, 127).astype(np.int8), scales

    def bias(self, layer: Layer) -> NDArray[np.int32]:
        """Integer bias (O,) in steps of input scale times kernel scale."""
        assert layer.bias is not None
        steps = self.maps[layer.inputs[0]].scale * self.kernel(layer)[1].astype(np.float64)
        return np.rint(layer.bias / steps).clip(-(2**31), 2**31 - 1).astype(np.int32)

    def simulated(self) -> Graph:
        """The graph with the values its integer weights stand for, to be run with ``fake`` on every map."""

        def rounded(layer: Layer) -> Layer:
            if layer.op != "conv":
                return layer
            kernel, scales = self.kernel(layer)
            steps = self.maps[layer.inputs[0]].scale * scales
            return dataclasses.replace(
                layer,
                weight=(kernel * scales[:, None, None, None]).astype(np.float32),
                bias=(self.bias(layer) * steps).astype(np.float32),
            )

        return dataclasses.replace(self.graph, layers=tuple(map(rounded, self.graph.layers)))


class _Ranges:
    """Lowest and highest of each map over several batches, tails cut off batch by batch."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[float, float]] = {}

    def see(self, name: str, value: Tensor) -> None:
        flat = value.flatten()
        count = max(1, round(len(flat) * TAIL))
        low, high = -float((-flat).topk(count).values[-1]), float(flat.topk(count).values[-1])
        old = self.found.get(name, (low, high))
        self.found[name] = (min(old[0], low), max(old[1], high))


def _scale(low: float, high: float) -> Scale:
    low, high = min(low, 0.0), max(high, 0.0)  # zero must be exact: it is the padding
    scale = max(high - low, 1e-6) / 255.0
    return Scale(scale, int(np.clip(round(-128 - low / scale), -128, 127)))


@torch.no_grad()
def quantise(graph: Graph, pictures: Iterable[Tensor]) -> Quantised:
    """Choose every map's scale on ``pictures`` (B,3,H,W each, as ``graph.to_input`` makes them)."""
    ranges = _Ranges()
    for x in pictures:
        run(graph, x, ranges.see)
    found = ranges.found
    # Levels are joined without requantising: one scale for all scores, one for all boxes.
    for names, floor in zip(zip(*graph.outputs, strict=True), (LOWEST_LOGIT, -np.inf), strict=False):
        joint = (max(min(found[n][0] for n in names), floor), max(found[n][1] for n in names))
        found.update(dict.fromkeys(names, joint))
    maps = {name: _scale(*limits) for name, limits in found.items()}
    maps[INPUT] = Scale(1 / IMAGE_STD, 0)  # a pixel's value less 128, exactly
    for layer in graph.layers:
        if layer.op == "double":  # copies values: TFLite wants the same scale on both sides
            maps[layer.name] = maps[layer.inputs[0]]
    return Quantised(graph, maps)


@torch.no_grad()
def centred(quantised: Quantised, pictures: Iterable[Tensor]) -> Quantised:
    """With output biases that make up for what rounding shifts each score and box number by, in the mean over ``pictures``.

    Nagel et al. 2019 (Data-Free Quantization, §4.2), of the last layers only: they are what a threshold is held against.
    """
    ends = {name for level in quantised.graph.outputs for name in level}
    rough = quantised.simulated()
    shifts: dict[str, list[Tensor]] = {name: [] for name in ends}
    for x in pictures:
        exact = run(quantised.graph, x)
        found = run(rough, x, lambda name, value: quantised.maps[name].fake(value))
        for name in ends:
            shifts[name].append((exact[name] - found[name]).mean((0, 2, 3)))

    def moved(layer: Layer) -> Layer:
        if layer.name not in ends or layer.bias is None:
            return layer
        return dataclasses.replace(layer, bias=layer.bias + torch.stack(shifts[layer.name]).mean(0).numpy())

    graph = dataclasses.replace(quantised.graph, layers=tuple(map(moved, quantised.graph.layers)))
    return Quantised(graph, quantised.maps)


@dataclass(frozen=True)
class Loss:
    """What integers cost one map. ``sqnr_db`` counts everything up to there, ``own_db`` only this layer's rounding."""

    name: str
    low: float
    high: float
    scale: float
    zero_point: int
    sqnr_db: float
    own_db: float
    kernel_spread: float
    """Largest kernel scale over the smallest: what one scale for the whole kernel would have cost."""


def _db(signal: Tensor, noise: Tensor) -> float:
    power, error = float(signal.double().pow(2).mean()), float(noise.double().pow(2).mean())
    return 99.0 if error == 0 else float(10 * np.log10(max(power, 1e-12) / error))


@torch.no_grad()
def layer_report(quantised: Quantised, pictures: Tensor) -> list[Loss]:
    """Layer by layer, on a few pictures."""
    exact = run(quantised.graph, pictures)
    rough = run(quantised.simulated(), pictures, lambda name, x: quantised.maps[name].fake(x))
    kernels = {layer.name: quantised.kernel(layer)[1] for layer in quantised.graph.layers if layer.op == "conv"}
    out = []
    for name, value in exact.items():
        scale, spread = quantised.maps[name], kernels.get(name, np.ones(1, np.float32))
        out.append(
            Loss(
                name,
                (-128 - scale.zero_point) * scale.scale,
                (127 - scale.zero_point) * scale.scale,
                scale.scale,
                scale.zero_point,
                round(_db(value, value - rough[name]), 1),
                round(_db(value, value - scale.fake(value)), 1),
                round(float(spread.max() / spread.min()), 1),
            )
        )
    return out


def report_table(losses: Sequence[Loss]) -> str:
    """The report as a Markdown table."""
    head = (
        "| layer | low | high | scale | zero | SQNR dB | own dB | kernel spread |\n|---|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(
        f"| {x.name} | {x.low:.3g} | {x.high:.3g} | {x.scale:.3g} | {x.zero_point} | {x.sqnr_db} | {x.own_db} | {x.kernel_spread} |\n"
        for x in losses
    )


def worst(losses: Sequence[Loss], count: int = 5) -> str:
    """The maps that integers cost most, in words."""
    return ", ".join(f"{x.name} ({x.sqnr_db} dB)" for x in sorted(losses, key=lambda x: x.sqnr_db)[:count])
