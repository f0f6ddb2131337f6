"""From labelled images to batches: images kept in memory, changed anew each time, made ready by a thread."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from training.adapters import F32, I32, DataError, Sample, check_classes, read_coco, read_yolo
from training.augment import Picture, compose
from training.settings import Augment, Settings, Source

U8 = NDArray[np.uint8]
Made = TypeVar("Made")
KEEP_SIDE = 640
"""Images are kept with their longer side no longer than this."""
_WHOLE = np.array([[0.0, 0.0, 1.0, 1.0]], np.float32)
"""An ignored box over the whole picture: nothing in it counts as right or wrong."""


@dataclass(frozen=True)
class Batch:
    """``images`` (B,H,W,3) uint8 RGB; ``boxes``, ``classes``, ``ignore``: one array for each image, pixels of the batch."""

    images: U8
    boxes: list[F32]
    classes: list[I32]
    ignore: list[NDArray[np.bool_]]


def read_source(source: Source) -> list[Sample]:
    """The samples of a data set, or its part. Raises DataError."""
    found = [s for s in _read(source) if not s.image.name.startswith(source.leave_out)]
    if not source.labelled:
        found = [Sample(s.image, _WHOLE, np.zeros(1, np.int32), np.ones(1, bool)) for s in found]
    if source.part == "all":
        return found
    return [s for i, s in enumerate(found) if (i % 5 == 4) == (source.part == "held_out")]


def own_images(folder: Path, labels: tuple[str, ...]) -> Source:
    """Somebody's labelled pictures, as ``finetune`` takes them. Raises DataError."""
    if not (folder / "images").is_dir():
        raise DataError(f"{folder}: no folder 'images' in it")
    whole = Source(path=folder.resolve(), origin="own images", licence="the owner's")
    annotations = whole.path / "annotations.json"
    if not annotations.exists():
        return whole
    coco = {"kind": "coco", "path": whole.path / "images", "annotations": annotations}
    return whole.model_copy(update=coco | {"categories": {label: number for number, label in enumerate(labels)}})


def _read(source: Source) -> list[Sample]:
    if source.kind == "coco":
        if source.annotations is None:
            raise DataError(f"{source.path}: a coco source needs 'annotations'")
        return list(read_coco(source.annotations, source.path, source.categories))
    return list(read_yolo(source.path, source.prefixes))


def read_image(sample: Sample) -> U8:
    """(h,w,3) uint8 RGB."""
    image = cv2.imread(str(sample.image), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{sample.image}: cannot be read as an image")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def letterbox(image: U8, size: int) -> tuple[U8, float]:
    """As the agent does it: the picture in the top left corner, 114 grey beside it; and the factor it was scaled by."""
    h, w = image.shape[:2]
    ratio = size / max(h, w)
    resized = cv2.resize(image, (max(1, round(w * ratio)), max(1, round(h * ratio))), interpolation=cv2.INTER_LINEAR)
    canvas = np.full((size, size, 3), 114, np.uint8)
    canvas[: resized.shape[0], : resized.shape[1]] = resized
    return canvas, ratio


class Pictures:
    """Training images in memory, drawn by weight."""

    def __init__(self, sources: Sequence[Source], labels: Sequence[str]) -> None:
        self.pictures: list[Picture] = []
        weights: list[float] = []
        for source in sources:
            for sample in check_classes(read_source(source), len(labels)):
                self.pictures.append(self._load(sample))
                weights.append(source.weight)
        if not weights:
            raise DataError("there is no image to train on")
        self.odds = np.array(weights) / sum(weights)

    @staticmethod
    def _load(sample: Sample) -> Picture:
        image = read_image(sample)
        h, w = image.shape[:2]
        ratio = min(1.0, KEEP_SIDE / max(h, w))
        if ratio < 1:
            image = np.asarray(cv2.resize(image, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA), np.uint8)
        size = np.array([image.shape[1], image.shape[0]] * 2, np.float32)
        return Picture(image, sample.boxes * size, sample.classes, sample.ignore)

    def batch(self, count: int, size: int, augment: Augment, rng: np.random.Generator) -> Batch:
        """``count`` changed pictures of ``size`` by ``size``."""
        made = []
        for _ in range(count):
            mosaic = rng.random() < augment.mosaic
            chosen = rng.choice(len(self.pictures), 4 if mosaic else 1, p=self.odds)
            made.append(compose([self.pictures[i] for i in chosen], size, augment, rng))
        return Batch(
            np.stack([p.image for p in made]),
            [p.boxes for p in made],
            [p.classes for p in made],
            [p.ignore for p in made],
        )


def batches(settings: Settings, seen: int) -> Generator[Batch, None, None]:
    """A detector's batches without end; ``seen`` images in, the stream is the same for the same seed."""
    schedule, pictures = settings.schedule, Pictures(settings.train, settings.labels)

    def make(rng: np.random.Generator) -> Batch:
        return pictures.batch(schedule.batch, int(rng.choice(schedule.sizes)), settings.augment, rng)

    return stream(make, settings.seed, seen // schedule.batch)


def stream(make: Callable[[np.random.Generator], Made], seed: int, step: int) -> Generator[Made, None, None]:
    """What ``make`` makes of the random numbers of ``step`` and those after it, prepared by one thread.

    Close the iterator to end the thread.
    """
    ready: queue.Queue[Made | Exception] = queue.Queue(4)
    stop = threading.Event()

    def put(item: Made | Exception) -> None:
        while not stop.is_set() and ready.full():
            time.sleep(0.02)
        ready.put(item, timeout=10.0)  # the only one who puts: there is room now

    def work() -> None:
        try:
            for number in itertools.count(step):
                if stop.is_set():
                    return
                put(make(np.random.default_rng((seed, number))))
        except Exception as error:  # noqa: BLE001 - raised again where the batch is taken
            put(error)

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stop.set()
        while not ready.empty():
            ready.get_nowait()
        thread.join(10)
