"""Find the persons on a data set's pictures, for heads that are cut out as the agent cuts them out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from training.adapters import F32, Sample, read_yolo
from training.data import read_image
from training.evaluation import Predict, detect
from training.heads import PERSONS

SURE = 0.4
"""Score from which a person counts as found."""
ABOUT = "about.json"


def find_persons(folder: Path, predict: Predict, size: int, weights: Path, person: int = 0) -> int:
    """Write ``folder/persons/X.txt`` for each ``folder/images/X.jpg``: ``0 xc yc w h`` in fractions. Gives their number.

    ``weights`` is where ``predict`` is from; its name and SHA-256 are written beside, with the score that was asked for.
    """
    out = folder / PERSONS
    out.mkdir(exist_ok=True)
    count = 0
    for sample in read_yolo(folder):
        boxes = _on(sample, predict, size, person)
        lines = ("0 " + " ".join(f"{v:.5f}" for v in (*(b[:2] + b[2:]) / 2, *(b[2:] - b[:2]))) for b in boxes)
        (out / f"{sample.image.stem}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        count += len(boxes)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    about = {"weights": weights.name, "sha256": digest, "score": SURE, "size": size}
    (out / ABOUT).write_text(json.dumps(about) + "\n", encoding="utf-8")
    return count


def _on(sample: Sample, predict: Predict, size: int, person: int) -> F32:
    """Persons on one picture, (N,4) xyxy in fractions."""
    image = read_image(sample)
    found = detect(predict, image, size)
    scale = np.array([image.shape[1], image.shape[0]] * 2, np.float32)
    return found.boxes[(found.scores >= SURE) & (found.classes == person)] / scale
