"""Detectors to be updated to: a good one, whose golden picture shows what it answers, and what may be wrong with others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from tests import model_networks
from tests.model_networks import BOXES, CLASSES, LABELS, SCORES, SIZE
from tests.onnx_writer import network

NAME = "eyes"
ROWS = 50


def answers(rows: Any) -> bytes:
    """A network that always answers with these rows: x1, y1, x2, y2, score, class."""
    return network({"output0": np.asarray(rows, np.float32)[None]}, size=SIZE)


def _everywhere() -> bytes:
    rng = np.random.default_rng(1)
    corners = rng.uniform((0, 0), (SIZE[0] - 20, SIZE[1] - 20), (ROWS, 2))
    sizes = rng.uniform(4, 20, (ROWS, 2))
    labels = rng.integers(0, len(LABELS), (ROWS, 1))
    return answers(np.concatenate((corners, corners + sizes, np.full((ROWS, 1), 0.99), labels), axis=1))


BAD: dict[str, Callable[[], bytes]] = {
    "its outputs are no numbers": lambda: answers(np.full((ROWS, 6), np.nan)),
    "it detects nothing": lambda: answers(np.zeros((ROWS, 6))),
    "it detects everywhere": _everywhere,
    "its output has another shape": lambda: network({"output0": np.zeros((1, 3), np.float32)}, size=SIZE),
    "it has another output": lambda: network({"other": np.zeros((1, ROWS, 6), np.float32)}, size=SIZE),
    "it is no network": lambda: b"not a network at all" * 100,
}


def good() -> bytes:
    """Sees the two objects of ``model_networks``."""
    return model_networks.yolov10()


def write_detector(
    models: Path, version: str, content: bytes, *, golden: bool = True, labels: tuple[str, ...] = LABELS, **changes: Any
) -> Path:
    """The folder of a model version with ``content`` as its ONNX file."""
    folder = models / NAME / version
    folder.mkdir(parents=True)
    (folder / "network.onnx").write_bytes(content)
    manifest = {
        "manifest": 1,
        "name": NAME,
        "version": version,
        "family": "yolov10",
        "licence": "Apache-2.0",
        "labels": list(labels),
        "input": {"name": "images", "size": list(SIZE), "colour": "RGB", "fit": "stretch"},
        "outputs": ["output0"],
        "files": [
            {"backend": "onnxruntime", "path": "network.onnx", "sha256": _sha256(content), "precision": "fp32"},
        ],
    }
    if golden:
        picture = cv2.imencode(".png", np.full((SIZE[1], SIZE[0], 3), 90, np.uint8))[1].tobytes()
        (folder / "golden.png").write_bytes(picture)
        objects = [
            {"box": [float(x) for x in box], "label": labels[number]}
            for box, number, _ in zip(BOXES, CLASSES, SCORES, strict=True)
        ]
        image = {"path": "golden.png", "sha256": _sha256(picture), "objects": objects}
        manifest["golden"] = {"min_ap50": 0.9, "images": [image]}
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest | changes, sort_keys=False))
    return folder


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
