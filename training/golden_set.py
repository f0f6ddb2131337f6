"""The golden pictures of a model: which, and how well its files must do on them. Judged as ``edge-agent model verify`` does it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_agent.config import DetectConfig
from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.detector import ModelDetector
from edge_agent.detect.manifest import Manifest, Network
from edge_agent.detect.trial import seen_of
from edge_agent.model_tools.golden import judge
from edge_agent.types import Frame
from training.adapters import Sample

FOLDER = Path(__file__).parent / "golden"
MARGIN = 0.15
"""Below the FP32 file's AP50. The bundled pictures show eleven people, each worth 0.09: integers or another accelerator's rounding
may lose one who was found narrowly, and be sure of a wrong box besides. What is broken (overflow, a wrong type, a delegate that
answers nonsense) loses nearly all. Swapped colours and the like lose as little as rounding does: those show in ``model parity``.
"""
LOWEST = 0.5
"""An FP32 file that does worse has no golden pictures: what it does on them says too little of whether it works."""
SIDE = 640
"""Pictures of a user's own are reduced to this."""


@dataclass(frozen=True)
class Pictures:
    """Files and what is in them: ``entries`` as in a manifest's ``golden.images``. ``origin`` and ``licence`` are for the card."""

    entries: tuple[dict[str, Any], ...]
    contents: Mapping[str, bytes]
    origin: str
    licence: str


@dataclass(frozen=True)
class Outcome:
    """What the files did: AP50 by file name. ``min_ap50`` None: the FP32 file was not good enough, there are no golden pictures."""

    origin: str
    licence: str
    images: int
    objects: int
    ap50: Mapping[str, float] = field(default_factory=dict)
    min_ap50: float | None = None


def bundled() -> Pictures:
    """Those in ``training/golden``: people, made of photographs in the public domain."""
    entries = json.loads((FOLDER / "golden.json").read_bytes())["images"]
    contents = {entry["path"]: (FOLDER / entry["path"]).read_bytes() for entry in entries}
    origin = (
        "composed of E. Collins (NASA), G. Hopper (US Navy), a photographer (L. Varshney) and backgrounds; "
        "training/golden/README.md of the project has each one's origin"
    )
    return Pictures(tuple(entries), contents, origin, "public domain and CC0")


def of_samples(samples: Sequence[Sample], labels: Sequence[str], count: int) -> Pictures:
    """``count`` of a user's own pictures, spread evenly: reduced, and without the data that cameras write into files.

    Only pictures with objects and without uncertain boxes. Raises ValueError where there is none.
    """
    usable = [s for s in samples if len(s.boxes) and not s.ignore.any()]
    if not usable:
        raise ValueError("--golden: none of the held-out pictures has objects and only certain boxes")
    chosen = [usable[i] for i in sorted(set(np.linspace(0, len(usable) - 1, count).round().astype(int).tolist()))]
    entries, contents = [], {}
    for number, sample in enumerate(chosen, 1):
        image = cv2.imread(str(sample.image), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError(f"{sample.image}: cannot be read as an image")
        ratio = min(1.0, SIDE / max(image.shape[:2]))
        image = cv2.resize(image, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA) if ratio < 1 else image
        name, content = f"golden-{number}.jpg", cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
        size = np.array([image.shape[1], image.shape[0]] * 2, np.float32)
        objects = [
            {"box": [round(float(v), 1) for v in box], "label": labels[label]}
            for box, label in zip(sample.boxes * size, sample.classes, strict=True)
        ]
        entries.append({"path": name, "sha256": hashlib.sha256(content).hexdigest(), "objects": objects})
        contents[name] = content
    return Pictures(tuple(entries), contents, "of the held-out pictures, by their owner's wish", "the owner's")


def attach(folder: Path, manifest: dict[str, Any], pictures: Pictures) -> Outcome:
    """Put ``pictures`` into the model and its ``manifest``. Raises ValueError where a file falls below what is asked of it."""
    for name, content in pictures.contents.items():
        (folder / name).write_bytes(content)
    parsed = Manifest.model_validate(manifest | {"golden": {"min_ap50": 1.0, "images": list(pictures.entries)}})
    found = {file.path: _ap50(Network(parsed, file, folder)) for file in parsed.files}
    exact = next((found[file.path] for file in parsed.files if file.precision == "fp32"), 0.0)
    objects = sum(len(entry["objects"]) for entry in pictures.entries)
    outcome = Outcome(pictures.origin, pictures.licence, len(pictures.entries), objects, found)
    if exact < LOWEST:
        for name in pictures.contents:
            (folder / name).unlink()
        return outcome
    floor = round(exact - MARGIN, 3)
    if bad := {name: ap50 for name, ap50 in found.items() if ap50 < floor}:
        said = ", ".join(f"{name} has AP50 {ap50:.3f}" for name, ap50 in bad.items())
        raise ValueError(f"golden pictures: {said}, the FP32 file {exact:.3f}: not exported; see quantisation.md")
    manifest["golden"] = {"min_ap50": floor, "images": list(pictures.entries)}
    return dataclasses.replace(outcome, min_ap50=floor)


def _ap50(network: Network) -> float:
    golden = network.manifest.golden
    assert golden is not None
    detector = ModelDetector(network.file.backend, LoadRequest(network, DetectConfig(), network.folder))
    try:
        seen = []
        for number, image in enumerate(golden.images):
            picture = cv2.imread(str(network.folder / image.path), cv2.IMREAD_COLOR)
            seen.append(seen_of(detector.detect(Frame("golden", number, 0.0, 0.0, np.asarray(picture, np.uint8)))))
    finally:
        detector.close()
    return judge(golden, network.labels, seen).ap50
