"""Samples as a data set in COCO's format (cocodataset.org, "Data format"): the pictures, and the agent's own boxes as annotations.

They are predictions that nobody has looked at, and say so: ``prediction`` and ``score``. What the model was not sure of, and what only the
tracker or a model in shadow says, is ``iscrowd``: training counts it neither as right nor as wrong.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from edge_agent import __version__
from edge_agent.durable import sync_disk
from edge_agent.errors import UsageError
from edge_agent.sample_store import Box, Sample, SampleStore, every
from edge_agent.types import rfc3339

ABOUT = "Predictions of edge-agent that nobody has looked at: correct them before they are trained on."


def export(store: SampleStore, folder: Path) -> tuple[int, int]:
    """Write ``folder/images`` and ``folder/annotations.json``; how many pictures and annotations. Raises UsageError.

    ``folder`` is new or empty, and is there as a whole or not at all.
    """
    work = folder.with_name(f".{folder.name}.new")
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder}: is not empty; name a new folder")
        shutil.rmtree(work, ignore_errors=True)
        (work / "images").mkdir(parents=True)
        document = _document(store, work / "images")
        (work / "annotations.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
        sync_disk(work)
        os.replace(work, folder)  # noqa: PTH105 - in the place of an empty folder
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return len(document["images"]), len(document["annotations"])


def _document(store: SampleStore, images: Path) -> dict[str, Any]:
    samples: list[tuple[str, Sample]] = []
    for name, sample in every(store):
        try:
            shutil.copyfile(store.picture(name), images / f"{name}.jpg")
        except FileNotFoundError:  # the agent has made room meanwhile
            continue
        samples.append((name, sample))
    labels = sorted({box.label for _, sample in samples for box in sample.boxes})
    numbers = {label: number for number, label in enumerate(labels, 1)}
    boxes = [(number, sample, box) for number, (_, sample) in enumerate(samples, 1) for box in sample.boxes]
    return {
        "info": {"description": ABOUT, "version": __version__},
        "licenses": [],
        "categories": [{"id": number, "name": label, "supercategory": ""} for label, number in numbers.items()],
        "images": [_image(number, name, sample) for number, (name, sample) in enumerate(samples, 1)],
        "annotations": [
            {"id": ident, "image_id": image, "category_id": numbers[box.label], **_annotation(box, sample)}
            for ident, (image, sample, box) in enumerate(boxes, 1)
        ],
    }


def _image(number: int, name: str, sample: Sample) -> dict[str, Any]:
    width, height = sample.size
    return {
        "id": number,
        "file_name": f"{name}.jpg",
        "width": width,
        "height": height,
        "date_captured": rfc3339(sample.utc),
        "camera": sample.camera,
        "reason": sample.reason,
        "model": sample.model,
        "shadow": sample.shadow,
        "pixelated": sample.pixelated,
    }


def _annotation(box: Box, sample: Sample) -> dict[str, Any]:
    x1, y1, x2, y2 = box.box
    return {
        "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
        "area": round((x2 - x1) * (y2 - y1), 2),
        "segmentation": [],
        "iscrowd": int(box.by != "model" or box.score < sample.sure),
        "prediction": True,
        "score": box.score,
        "by": box.by,
    }
