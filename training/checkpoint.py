"""Weights from where they are kept: a run's checkpoint, or an ONNX file that was exported from one."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training.classifier import Classifier
from training.graph import IMAGE_MEAN, IMAGE_STD, TRAINED_MEAN
from training.network import FULL_HIDDEN, Conv, Detector, NetworkSpec
from training.settings import Settings

SETTINGS_KEY = "edge_agent.training"
"""Key of an ONNX file's metadata under which the run's settings are, without which its weights fit nowhere."""


def spec_of(settings: Settings) -> NetworkSpec:
    """The network a run's settings ask for."""
    own = settings.network.model_dump()
    own["hidden"] = tuple(own["hidden"] or FULL_HIDDEN)
    return NetworkSpec(classes=len(settings.labels), **own)


def build(settings: Settings) -> Detector | Classifier:
    """That network, with weights of chance."""
    spec = spec_of(settings)
    return Classifier(spec, settings.size) if settings.task == "classify" else Detector(spec)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A run's state; tensors and plain values only, so that reading one cannot run code. Raises ValueError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError) as error:
        raise ValueError(
            f"{path}: not a checkpoint ({str(error).splitlines()[0][:200] if str(error) else 'empty'})"
        ) from error
    if not isinstance(state, dict) or state.get("format") != 1:
        raise ValueError(f"{path}: not a checkpoint of this program")
    return state


def load_model(path: Path) -> tuple[Detector | Classifier, Settings]:
    """The network of a checkpoint (its running average) or of an FP32 ONNX file of ours, for use. Raises ValueError."""
    if path.suffix == ".onnx":
        return _from_onnx(path)
    state = load_checkpoint(path)
    settings = Settings.model_validate_json(state["settings"])
    model = build(settings)
    model.load_state_dict(state["ema"])
    return model.eval().to(memory_format=torch.channels_last), settings


def _from_onnx(path: Path) -> tuple[Detector | Classifier, Settings]:
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import numpy_helper

    try:
        file = onnx.load(str(path))
    except DecodeError as error:
        raise ValueError(f"{path}: not an ONNX file") from error
    text = {p.key: p.value for p in file.metadata_props}.get(SETTINGS_KEY)
    if text is None:
        raise ValueError(f"{path}: not exported by this program (no {SETTINGS_KEY!r} in its metadata)")
    settings = Settings.model_validate_json(text)
    weights = {i.name: numpy_helper.to_array(i) for i in file.graph.initializer}
    model = build(settings).eval()
    for name, module in model.named_modules():
        layer = name.replace(".", "_")
        if f"{layer}.weight" in weights and isinstance(module, Conv | nn.Conv2d):
            _unfold(module, weights[f"{layer}.weight"], weights[f"{layer}.bias"], stem=name == "trunk.stem")
        elif isinstance(module, Conv):
            raise ValueError(f"{path}: no weights for {name}; only the FP32 file has them")
    return model.to(memory_format=torch.channels_last), settings


@torch.no_grad()
def _unfold(module: Conv | nn.Conv2d, weight: NDArray[Any], bias: NDArray[Any], *, stem: bool) -> None:
    """Folded weights back into a layer; its batch norm, if it has one, becomes the bias alone."""
    if stem:  # the inverse of what ``graph.trace`` does to take in its own input
        weight = weight.astype(np.float32) * np.float32(TRAINED_MEAN / IMAGE_STD)
        bias = bias - weight.sum(axis=(1, 2, 3)) * np.float32((IMAGE_MEAN - TRAINED_MEAN) / TRAINED_MEAN)
    conv = module.conv if isinstance(module, Conv) else module
    if conv.weight.shape != weight.shape:
        raise ValueError(f"a kernel {list(weight.shape)} where the network has {list(conv.weight.shape)}")
    conv.weight.copy_(torch.from_numpy(weight.astype(np.float32)))
    if isinstance(module, Conv) and isinstance(module.bn, nn.BatchNorm2d):
        module.bn.weight.fill_((1.0 + module.bn.eps) ** 0.5)
        module.bn.bias.copy_(torch.from_numpy(np.array(bias)))
    else:
        conv.bias.copy_(torch.from_numpy(np.array(bias)))
