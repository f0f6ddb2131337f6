"""Makes the networks in this folder: small, untrained, of each family's real architecture, beside what an independent
implementation reads from them.

    python3.11 -m venv V
    V/bin/pip install torch==2.15.0 torchvision==0.29.2 transformers==5.23.0 timm onnx==1.23.2 onnxruntime==1.32.0 \
        onnxscript opencv-python-headless pyyaml ai-edge-litert==2.3.0 flatbuffers openvino openvino-model-api==0.4.7
    V/bin/pip install --no-deps libreyolo==1.6.0 requests loguru tabulate
    V/bin/pip install --no-deps --no-build-isolation yolox==0.3.0
    PYTHONPATH=. V/bin/python -m tests.decoder_networks.make [NAME ...]

All of these packages are under permissive licences (BSD, MIT, Apache-2.0); none of their code or weights is here. The
weights are random, normalised on the picture so that scores differ from place to place; the threshold lies in a gap of
the scores, so that rounding cannot move a box over it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
import yaml
from torch import nn

HERE = Path(__file__).parent
WIDTH, HEIGHT, CLASSES = 160, 128, 5
IOU = 0.6
Answer = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Boxes (N,4) xyxy input pixels, scores (N,), classes (N,): suppressed."""


@dataclass
class Made:
    """One network: ``reference`` answers for a score threshold."""

    family: str
    network: str
    checked_by: str
    reference: Callable[[float], Answer]
    outputs: list[str]
    input: dict[str, Any]
    decode: dict[str, Any] = field(default_factory=dict)
    file: str = "model.onnx"
    kind: str = "the upstream's own post-processing"
    tolerance_px: float = 0.01


RGB_01: dict[str, Any] = {"colour": "RGB", "std": [255.0, 255.0, 255.0]}
BGR_255: dict[str, Any] = {"colour": "BGR"}
IMAGENET: dict[str, Any] = {"colour": "RGB", "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}


def picture() -> np.ndarray:
    """(H,W,3) uint8 BGR: ellipses and noise."""
    rng = np.random.default_rng(11)
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    for _ in range(40):
        centre = tuple(int(v) for v in rng.integers(0, [WIDTH, HEIGHT]))
        axes = tuple(int(v) for v in rng.integers(4, 36, 2))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        cv2.ellipse(image, centre, axes, float(rng.integers(180)), 0, 360, colour, -1)
    noise = rng.normal(0, 12, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def tensor(spec: dict[str, Any]) -> torch.Tensor:
    """The picture as the network takes it (1,3,H,W)."""
    image = picture().astype(np.float32)
    if spec["colour"] == "RGB":
        image = image[..., ::-1]
    image = (image - np.array(spec.get("mean", [0, 0, 0]))) / np.array(spec.get("std", [1, 1, 1]))
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), np.float32))[None]


def liven(
    model: nn.Module, spec: dict[str, Any], seed: int, training: Callable[[torch.Tensor], Any] | None = None
) -> nn.Module:
    """Random weights whose activations have about unit spread on the picture. ``training``: how to call it in training."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.normal_(module.bias, 0, 0.3)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.normal_(module.bias, 0, 0.3)
            module.momentum = None
    x = tensor(spec)
    model.train()
    with torch.no_grad():
        (training or model)(torch.cat((x, x.flip(2), x.flip(3), x * 0.7)))
    return model.eval()


def even(model: nn.Module, spec: dict[str, Any], last: list[nn.Module], *, middle: float = 0.0) -> None:
    """Rescale the ``last`` layers in place, so that each channel has mean ``middle`` and unit spread on the picture."""

    def rescale(layer: Any, _: Any, out: torch.Tensor) -> torch.Tensor:
        channel = -1 if isinstance(layer, nn.Linear) else 1
        table = out.movedim(channel, 0).flatten(1)
        mean, spread = table.mean(1), table.std(1).clamp(min=1e-6)
        layer.weight.data /= spread.view(-1, *[1] * (layer.weight.dim() - 1))
        layer.bias.data = (layer.bias.data - mean) / spread + middle
        return out

    hooks = [layer.register_forward_hook(rescale) for layer in last]
    with torch.no_grad():
        model(tensor(spec))
    for hook in hooks:
        hook.remove()


def export(model: nn.Module, spec: dict[str, Any], folder: Path, outputs: list[str]) -> None:
    with torch.no_grad():
        torch.onnx.export(
            model.eval(),
            (tensor(spec),),
            str(folder / "model.onnx"),
            input_names=["images"],
            output_names=outputs,
            opset_version=17,
            dynamo=False,
        )


class Wrapped(nn.Module):  # type: ignore[misc]
    """A network and what its export does after it."""

    def __init__(self, model: nn.Module, after: Callable[[Any], Any]) -> None:
        super().__init__()
        self.model, self.after = model, after

    def forward(self, x: torch.Tensor) -> Any:
        return self.after(self.model(x))


def numpy_answer(boxes: Any, scores: Any, classes: Any) -> Answer:
    return (
        np.asarray(boxes, np.float64).reshape(-1, 4),
        np.asarray(scores, np.float64).reshape(-1),
        np.asarray(classes, np.int64).reshape(-1),
    )


def of_dict(found: dict[str, Any]) -> Answer:
    return numpy_answer(found["boxes"], found["scores"], found["classes" if "classes" in found else "labels"])


def versions(*packages: str) -> str:
    return ", ".join(f"{p} {version(p)}" for p in packages)


def threshold_in_a_gap(scores: np.ndarray) -> float:
    """Between two scores far apart, with 12 to 40 above."""
    ordered = np.sort(scores)[::-1][:45]
    low, high = min(12, len(ordered) - 2), min(40, len(ordered) - 1)
    at = low + int(np.argmax(ordered[low:high] - ordered[low + 1 : high + 1]))
    return round(float(ordered[at] + ordered[at + 1]) / 2, 5)


def write(name: str, made: Made, folder: Path) -> None:
    """The manifest, so that the agent loads the folder like any model, and the reference answer."""
    for stray in folder.glob("*.data"):
        raise SystemExit(f"{stray}: the weights should be inside the model")
    threshold = threshold_in_a_gap(made.reference(0.02)[1])
    boxes, scores, classes = made.reference(threshold)
    order = np.argsort(-scores, kind="stable")
    path = folder / made.file
    manifest = {
        "manifest": 1,
        "name": name,
        "version": "1",
        "family": made.family,
        "licence": "Apache-2.0",
        "description": f"Untrained, for tests. {made.network}",
        "labels": [f"label{i}" for i in range(CLASSES)],
        "input": {"name": "images", "size": [WIDTH, HEIGHT], "fit": "stretch", **made.input},
        "outputs": made.outputs,
        "decode": made.decode,
        "files": [
            {
                "backend": "tflite" if made.file.endswith("tflite") else "onnxruntime",
                "path": made.file,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "precision": "fp32",
            }
        ],
    }
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False, width=120), encoding="utf-8")
    found = {
        "network": made.network,
        "checked_by": made.checked_by,
        "kind": made.kind,
        "tolerance_px": made.tolerance_px,
        "threshold": threshold,
        "iou": IOU,
        "boxes": np.round(boxes[order], 4).tolist(),
        "scores": np.round(scores[order], 6).tolist(),
        "classes": classes[order].tolist(),
    }
    (folder / "reference.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(
        f"{name}: {path.stat().st_size / 1024:.0f} KB, threshold {threshold}, {len(scores)} objects, classes {set(classes.tolist())}"
    )


def shorten(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Give the tensors short names and the nodes none: they take up more room than small weights do."""

    def short(name: str) -> str:
        return names.setdefault(name, f"t{len(names)}") if name else ""

    del graph.metadata_props[:], graph.value_info[:]
    for value in (*graph.initializer, *graph.input, *graph.output):
        value.name = short(value.name)
    for node in graph.node:
        node.name = node.doc_string = ""
        del node.metadata_props[:]
        node.input[:] = [short(name) for name in node.input]
        node.output[:] = [short(name) for name in node.output]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                shorten(attribute.g, names)


def main(names: list[str]) -> None:
    from tests.decoder_networks import anchor_free, anchors, lists
    from tests.decoder_networks.tflite_ssd import ssd

    makers: dict[str, Callable[[Path], Made]] = {
        maker.__name__: maker
        for maker in (
            anchor_free.yolov8_layout,
            anchor_free.yolov9_corners,
            anchor_free.yolov9_split,
            anchor_free.yolox_raw,
            anchor_free.yolox_decoded,
            anchor_free.yolov10_layout,
            anchor_free.yolonas,
            anchors.yolov7,
            anchors.yolov4,
            ssd,
            lists.faster_rcnn,
            lists.retinanet,
            lists.rtdetr,
            lists.dfine,
        )
    }
    cv2.imwrite(str(HERE / "picture.png"), picture())
    for name in names or list(makers):
        folder = HERE / name / "1"
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        made = makers[name](folder)
        if made.file == "model.onnx":
            model = onnx.load(folder / "model.onnx")
            shorten(model.graph, {name: name for name in ["images", *made.outputs]})
            onnx.save(model, folder / "model.onnx")
        write(name, made, folder)


if __name__ == "__main__":
    main(sys.argv[1:])
