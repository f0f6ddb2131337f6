"""Make the channels of a map equally loud before it gets one scale for all: what int8 keeps of the quiet ones depends on it.

After Nagel et al. 2019 (Data-Free Quantization, §4.1): a channel is multiplied where it is written and divided where it is
read. Exact for maps without activation (the trunk's residual streams, scaled as a whole); for ReLU6 it is for a
channel that never comes near 6 on the calibration pictures, and only such are touched.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from training.graph import F32, INPUT, Graph, Layer, run

LOUD = 5.0
"""What a quiet ReLU6 channel is raised to at most: room for pictures louder than those seen."""
MOST = 64.0


def equalise(graph: Graph, pictures: Iterable[Tensor]) -> Graph:
    """The same network with other weights; its maps' channels differ less."""
    loudest = _loudest(graph, pictures)
    layers = {layer.name: layer for layer in graph.layers}
    readers: dict[str, list[Layer]] = {}
    for layer in graph.layers:
        for name in layer.inputs:
            readers.setdefault(name, []).append(layer)
    factors: dict[str, F32] = {}
    for members in _streams(graph):
        first = layers[members[0]]
        convs = [r for name in members for r in readers.get(name, []) if r.op == "conv"]
        ends = {name for pair in graph.outputs for name in pair}
        if ends & set(members) or not convs:
            continue
        loud = np.max([loudest[name] for name in members], axis=0)
        activated = [layers[name].relu6 for name in members if layers[name].op == "conv"]
        if any(activated):
            if len(members) > 1 or any(r.op != "conv" for r in readers[first.name]):
                continue  # it meets another map, whose channels would have to go along
            wanted = np.where(loud < LOUD, LOUD / np.maximum(loud, LOUD / MOST), 1.0)
        else:
            wanted = loud.max() / np.maximum(loud, loud.max() / MOST)
        # A depthwise reader has a scale for each channel and can take it all; another's kernel would get uneven in turn.
        power = 1.0 if all(r.depthwise for r in convs) else 0.5
        factors.update(dict.fromkeys(members, (wanted**power).astype(np.float32)))
    return dataclasses.replace(graph, layers=tuple(_scaled(layer, factors) for layer in graph.layers))


@torch.no_grad()
def _loudest(graph: Graph, pictures: Iterable[Tensor]) -> dict[str, F32]:
    found: dict[str, F32] = {}
    for x in pictures:
        for name, value in run(graph, x).items():
            loud = value.abs().amax((0, 2, 3)).numpy()
            found[name] = np.maximum(found.get(name, loud), loud)
    return found


def _streams(graph: Graph) -> list[list[str]]:
    """Maps that must share their channels' scales: those an addition or a doubling joins."""
    of: dict[str, list[str]] = {}
    for layer in graph.layers:
        mine = [layer.name]
        if layer.op != "conv":
            for name in layer.inputs:
                if of[name] is not mine:
                    mine += of[name]
                    for member in of[name]:
                        of[member] = mine
        for member in mine:
            of[member] = mine
    return list({id(members): members for members in of.values()}.values())


def _scaled(layer: Layer, factors: dict[str, F32]) -> Layer:
    if layer.op != "conv":
        return layer
    assert layer.weight is not None and layer.bias is not None
    weight, bias = layer.weight, layer.bias
    if layer.inputs[0] != INPUT and layer.inputs[0] in factors:
        read = factors[layer.inputs[0]]
        weight = weight / (read[:, None, None, None] if layer.depthwise else read[None, :, None, None])
    if layer.name in factors:
        written = factors[layer.name]
        weight, bias = weight * written[:, None, None, None], bias * written
    return dataclasses.replace(layer, weight=weight.astype(np.float32), bias=bias.astype(np.float32))
