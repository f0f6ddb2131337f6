"""Labelled images from where people keep them: YOLO text and COCO JSON, which the agent writes too. Needs numpy only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
MAX_LABEL_BYTES = 4 * 1024 * 1024
MAX_JSON_BYTES = 1024 * 1024 * 1024


class DataError(ValueError):
    """A data set that cannot be read as what it was said to be; the message names file and line."""


@dataclass(frozen=True)
class Sample:
    """One labelled image. ``boxes`` (N,4) float32 xyxy in fractions of it; ``classes`` (N,) int32; ``ignore`` (N,) bool.

    Whatever lies in an ignored box is neither right nor wrong: crowds, uncertain labels.
    """

    image: Path
    boxes: F32
    classes: I32
    ignore: NDArray[np.bool_]


def _sample(image: Path, rows: list[tuple[int, float, float, float, float, bool]]) -> Sample:
    boxes = np.array([r[1:5] for r in rows], np.float32).reshape(-1, 4).clip(0.0, 1.0)
    classes, ignore = np.array([r[0] for r in rows], np.int32), np.array([r[5] for r in rows], bool)
    real = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(axis=1)
    return Sample(image, boxes[real], classes[real], ignore[real])


def read_yolo(folder: Path, prefixes: Iterable[str] = (), labels: str = "labels") -> Iterator[Sample]:
    """``folder/images/X.jpg`` with ``folder/labels/X.txt``: lines ``class xc yc w h`` in fractions.

    An image without a label file has no objects. ``prefixes`` picks images by the start of their names; ``labels`` is the
    folder with the label files.
    """
    if not (folder / "images").is_dir():
        raise DataError(f"{folder}: no folder 'images' in it")
    wanted = tuple(prefixes)
    for image in sorted((folder / "images").iterdir()):
        if image.suffix.lower() in IMAGE_SUFFIXES and (not wanted or image.name.startswith(wanted)):
            yield _sample(image, list(_yolo_rows(folder / labels / f"{image.stem}.txt")))


def _yolo_rows(path: Path) -> Iterator[tuple[int, float, float, float, float, bool]]:
    if not path.exists():
        return
    if path.stat().st_size > MAX_LABEL_BYTES:
        raise DataError(f"{path}: larger than {MAX_LABEL_BYTES} bytes, these are no labels")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            label, (x, y, w, h) = int(words[0]), map(float, words[1:])
        except ValueError:
            raise DataError(f"{path}:{number}: {line[:80]!r} is not 'class xc yc w h'") from None
        if label < 0 or not np.isfinite([x, y, w, h]).all():
            raise DataError(f"{path}:{number}: {line[:80]!r}: negative class or number that is none")
        yield label, x - w / 2, y - h / 2, x + w / 2, y + h / 2, False


def read_coco(annotations: Path, images: Path, categories: Mapping[str, int]) -> Iterator[Sample]:
    """COCO's ``instances_*.json``; ``categories`` maps its category names to our classes, others are left out.

    ``iscrowd`` boxes are ignored ones.
    """
    if annotations.stat().st_size > MAX_JSON_BYTES:
        raise DataError(f"{annotations}: larger than {MAX_JSON_BYTES} bytes")
    try:
        document = json.loads(annotations.read_bytes())
        known = {c["id"]: categories[c["name"]] for c in document["categories"] if c["name"] in categories}
        rows: dict[Any, list[tuple[int, float, float, float, float, bool]]] = {i["id"]: [] for i in document["images"]}
        sizes = {i["id"]: (float(i["width"]), float(i["height"])) for i in document["images"]}
        for a in document["annotations"]:
            if a["category_id"] in known and a["image_id"] in rows:
                (x, y, w, h), (width, height) = a["bbox"], sizes[a["image_id"]]
                box = (x / width, y / height, (x + w) / width, (y + h) / height)
                rows[a["image_id"]].append((known[a["category_id"]], *box, bool(a.get("iscrowd", 0))))
        names = {i["id"]: str(i["file_name"]) for i in document["images"]}
    except (KeyError, TypeError, ValueError, ZeroDivisionError, RecursionError) as error:
        raise DataError(f"{annotations}: not COCO's instances format ({error!r})") from error
    for key, found in rows.items():
        path = images / names[key]
        if not path.resolve().is_relative_to(images.resolve()):
            raise DataError(f"{annotations}: image {names[key]!r} lies outside {images}")
        yield _sample(path, found)


def check_classes(samples: Iterable[Sample], count: int) -> Iterator[Sample]:
    """The same samples; raises DataError at one with a class at or above ``count``."""
    for sample in samples:
        if len(sample.classes) and int(sample.classes.max()) >= count:
            raise DataError(f"{sample.image}: class {int(sample.classes.max())}, but there are only {count} labels")
        yield sample
