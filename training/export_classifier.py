"""What is different about a bundle that holds a classifier: its pictures are crops, and its manifest says of what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from training.attributes import Verdict, measure_heads, read_held
from training.crops import HeadCrops, cut
from training.export_onnx import SCORES
from training.graph import to_input
from training.heads import ABOVE, SIDE
from training.runtimes import file_judge
from training.settings import Settings

CALIBRATION_CROPS = 512
"""Many, as they are small and differ in more than pictures do."""
_BATCH = 16


def crop_calibration(settings: Settings) -> list[Tensor]:
    """Training crops as the agent would show them, drawn by weight; a fixed choice by the run's seed."""
    heads, rng = HeadCrops(settings.train, settings.labels), np.random.default_rng(settings.seed)
    chosen = rng.choice(len(heads.crops), CALIBRATION_CROPS, p=heads.odds)
    crops = [cut(heads.crops[i].image, heads.crops[i].square, settings.size) for i in chosen]
    return [to_input(np.stack(crops[i : i + _BATCH])) for i in range(0, len(crops), _BATCH)]


def measure_crops(settings: Settings, files: Mapping[str, Path], rounds: int) -> dict[str, dict[str, Verdict]]:
    """Every file on the run's validation sets, by kind, then by ``TITLE: ATTRIBUTE``."""
    held = read_held(settings.validate_on, settings.labels, settings.size)
    return {kind: measure_heads(file_judge(path), held, settings.labels, rounds) for kind, path in files.items()}


def classifier_manifest(settings: Settings) -> dict[str, Any]:
    """The manifest's entries that differ from a detector's."""
    return {
        "family": "classifier",
        "description": f"{', '.join(settings.labels)} on head crops, each by itself; {settings.size} px; "
        "trained by this project's own pipeline",
        "outputs": [SCORES],
        "crop": {"label": "person", "side": SIDE, "above": ABOVE},
    }
