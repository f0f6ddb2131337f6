"""Golden pictures: a model's own proof that it sees. What is in them is known, so a few of them tell in a second whether this file
on this accelerator finds it: after an update, a new driver, a conversion.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_agent.config import DetectConfig
from edge_agent.detect.manifest import Golden, GoldenImage
from edge_agent.detect.trial import Seen
from edge_agent.errors import ModelError
from edge_agent.model_tools.matching import Truth, mean_average_precision
from edge_agent.types import Detections

MAX_IMAGE_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """Average precision at IoU 0.5 over the labels (0 to 1), and what it must be at least."""

    ap50: float
    min_ap50: float
    images: int
    objects: int
    passed: bool

    @property
    def text(self) -> str:
        """In a sentence."""
        seen = f"AP50 {self.ap50:.3f} on {self.images} pictures with {self.objects} objects"
        return f"{seen}; must be {self.min_ap50:.3f} or more"


def read_image(folder: Path, image: GoldenImage) -> bytes:
    """The file's content, its SHA-256 checked. Raises ModelError."""
    path = folder / image.path
    try:
        with path.open("rb") as file:
            content = file.read(MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}; the manifest names this file, is the model complete?") from error
    if len(content) > MAX_IMAGE_BYTES:
        raise ModelError(f"{path}: larger than {MAX_IMAGE_BYTES >> 20} MiB, too large for a golden picture")
    digest = hashlib.sha256(content).hexdigest()
    if digest != image.sha256:
        raise ModelError(
            f"{path}: SHA-256 is {digest}, the manifest says {image.sha256}: the file is damaged or was replaced"
        )
    return content


def unpack(folder: Path, golden: Golden, work: Path) -> list[Path]:
    """Copies of a model's golden pictures in ``work``: what was checked is what gets looked at. Raises ModelError, OSError."""
    paths = []
    for image in golden.images:
        path = work / image.path
        path.write_bytes(read_image(folder, image))
        paths.append(path)
    return paths


def usual_thresholds(config: DetectConfig) -> DetectConfig:
    """``config`` with the thresholds that every model is judged by: what an operator sets there says nothing about the model."""
    own = {"score_threshold", "nms_iou", "max_detections"}
    return config.model_copy(update=DetectConfig().model_dump(include=own))


def judge(golden: Golden, labels: tuple[str, ...], found: Sequence[Sequence[Seen]]) -> GoldenResult:
    """How well ``found`` (what was seen in each picture, with ``usual_thresholds``) fits what is there."""
    truths = [
        Truth(
            np.array([o.box for o in image.objects], np.float32).reshape(-1, 4), tuple(o.label for o in image.objects)
        )
        for image in golden.images
    ]
    precision = mean_average_precision(truths, [_detections(seen, labels) for seen in found])
    assert precision is not None  # a manifest without objects in its golden pictures is refused
    ap50, objects = precision.ap50 / 100, sum(len(truth.labels) for truth in truths)
    return GoldenResult(round(ap50, 4), golden.min_ap50, len(truths), objects, passed=ap50 >= golden.min_ap50)


def _detections(seen: Sequence[Seen], labels: tuple[str, ...]) -> Detections:
    return Detections(
        np.array([s.box for s in seen], np.float32).reshape(-1, 4),
        np.array([s.score for s in seen], np.float32),
        np.array([labels.index(s.label) for s in seen], np.int32),
        labels,
    )
