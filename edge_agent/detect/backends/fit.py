"""Whether a loaded file is what its manifest says: the same refusal, in the same words, from every backend."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from edge_agent.detect.backends import InputTensor
from edge_agent.detect.manifest import Network
from edge_agent.errors import ModelError


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """An input as the file has it: ``dtype`` is numpy's name for it (or the runtime's own), None is an open dimension."""

    name: str
    dtype: str
    shape: Sequence[int | None]


def expected_input(network: Network, scale: float = 1.0, zero_point: int = 0) -> InputTensor:
    """What the manifest says the network takes, batch 1."""
    spec = network.input
    width, height = spec.size
    shape = (1, 3, height, width) if spec.layout == "NCHW" else (1, height, width, 3)
    return InputTensor(shape, spec.layout, np.dtype(spec.dtype), scale, zero_point)


def check_fit(network: Network, inputs: Sequence[TensorFacts], outputs: Iterable[str]) -> None:
    """Compare names, shape and type with the manifest. Raises ModelError that names both sides."""
    wanted, names = expected_input(network), sorted(outputs)
    if [i.name for i in inputs] != [network.input.name] or not set(network.outputs) <= set(names):
        raise ModelError(
            f"model {network.label}: {network.file.path} has inputs {sorted(i.name for i in inputs)} and outputs {names}, "
            f"the manifest names {network.input.name!r} and {list(network.outputs)}"
        )
    [given] = inputs
    fits = len(given.shape) == 4 and all(
        have in (None, want) for have, want in zip(given.shape, wanted.shape, strict=True)
    )
    if not fits or given.dtype != wanted.dtype.name:
        shape = ["?" if side is None else side for side in given.shape]
        raise ModelError(
            f"model {network.label}: input {given.name!r} of {network.file.path} is {given.dtype} {shape}, "
            f"the manifest says {wanted.dtype.name} {list(wanted.shape)} ({wanted.layout})"
        )
