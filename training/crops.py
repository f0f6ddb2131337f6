"""Head crops for a classifier: kept in memory a little larger than they are, cut out and changed anew each time."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.adapters import F32, DataError
from training.augment import change_colour, degrade
from training.data import letterbox, read_image, stream
from training.heads import I8, read_heads, squares
from training.settings import Crops, Settings, Source

U8 = NDArray[np.uint8]
SMALLEST = 12.0
"""Pixels of a square's side: heads that are smaller are no use to learn from."""
KEEP_SIDE = 128
"""Squares are kept with a side no longer than this in pixels."""
MARGIN = 0.35
"""Of the side, kept around a square to move it in."""
GREY_SPREAD = 3.0
"""A crop whose channels differ by less than this in the mean counts as grey."""


@dataclass(frozen=True)
class CropBatch:
    """``images`` (B,S,S,3) uint8 RGB, ``attributes`` (B,A) int8: 1, 0 or -1 for unknown."""

    images: U8
    attributes: I8


@dataclass(frozen=True)
class Crop:
    """A part of a picture with the square (4,) xyxy in its pixels, and what is known of the head in it."""

    image: U8
    square: F32
    attributes: I8


def cut(image: U8, square: F32, size: int) -> U8:
    """What the network sees: the square's part inside the picture, letterboxed to (size,size,3) as the agent does it."""
    h, w = image.shape[:2]
    x1, y1 = (int(v) for v in np.floor(square[:2]).clip(0, (w - 1, h - 1)))
    x2, y2 = (int(v) for v in np.ceil(square[2:]).clip((x1 + 1, y1 + 1), (w, h)))
    return letterbox(image[y1:y2, x1:x2], size)[0]


def read_crops(source: Source, labels: Sequence[str], smallest: float = SMALLEST) -> list[list[Crop]]:
    """A data set's heads, image by image. Raises DataError."""
    assert source.heads is not None
    out = []
    for labelled in read_heads(source):
        image = read_image(labelled.sample)
        found, attributes = squares(labelled, source.heads, labels, (image.shape[1], image.shape[0]))
        if source.heads.grey:
            image = in_grey(image)
        big = found[:, 2] - found[:, 0] >= smallest
        out.append([_keep(image, s, a) for s, a in zip(found[big], attributes[big], strict=True)])
    return out


def in_grey(image: U8) -> U8:
    """The same without colour, still (H,W,3)."""
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)


def _keep(image: U8, square: F32, attributes: I8) -> Crop:
    h, w = image.shape[:2]
    side = float(square[2] - square[0])
    x1, y1 = (int(v) for v in np.floor(square[:2] - MARGIN * side).clip(0, (w - 1, h - 1)))
    x2, y2 = (int(v) for v in np.ceil(square[2:] + MARGIN * side).clip((x1 + 1, y1 + 1), (w, h)))
    part = image[y1:y2, x1:x2]
    ratio = min(1.0, KEEP_SIDE / side)
    if ratio < 1:
        size = max(1, round(part.shape[1] * ratio)), max(1, round(part.shape[0] * ratio))
        part = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8)
    moved = (square - np.array([x1, y1, x1, y1], np.float32)) * np.float32(ratio)
    return Crop(part.copy(), moved.astype(np.float32), attributes)


class HeadCrops:
    """Training crops in memory. A source's ``weight`` is how often a crop of it is drawn, against 1."""

    def __init__(self, sources: Sequence[Source], labels: Sequence[str]) -> None:
        self.crops: list[Crop] = []
        weights: list[float] = []
        for source in sources:
            found = [crop for image in read_crops(source, labels) for crop in image]
            self.crops += found
            weights += [source.weight] * len(found)
        if not weights:
            raise DataError("there is no head to train on")
        self.odds = np.array(weights) / sum(weights)
        self.shares = self._shares(labels)
        """Of the heads drawn of which an attribute is known, those that have it: (A,) float32."""

    def _shares(self, labels: Sequence[str]) -> F32:
        known = np.stack([crop.attributes for crop in self.crops])
        with_it, without = (self.odds @ (known == value) for value in (1, 0))
        if one_sided := [n for n, a, b in zip(labels, with_it, without, strict=True) if not a or not b]:
            raise DataError(f"{', '.join(one_sided)}: heads with and heads without are needed to train on")
        return np.asarray(with_it / (with_it + without), np.float32)

    def batch(self, count: int, size: int, settings: Crops, rng: np.random.Generator) -> CropBatch:
        """``count`` changed crops of ``size`` by ``size``."""
        chosen = [self.crops[i] for i in rng.choice(len(self.crops), count, p=self.odds)]
        images = np.stack([change(crop, size, settings, rng) for crop in chosen])
        return CropBatch(images, np.stack([crop.attributes for crop in chosen]))


def change(crop: Crop, size: int, settings: Crops, rng: np.random.Generator) -> U8:
    """A crop moved, scaled, mirrored, made coarse, discoloured: (size,size,3)."""
    x1, y1, x2, y2 = crop.square
    side = float(x2 - x1)
    middle = np.array([x1 + x2, y1 + y2]) / 2 + rng.uniform(-1, 1, 2) * settings.shift * side
    half = side / 2 * float(np.exp(rng.uniform(*np.log(settings.scale))))
    image = cut(crop.image, np.concatenate((middle - half, middle + half)).astype(np.float32), size)
    if rng.random() < 0.5:
        image = image[:, ::-1].copy()
    if rng.random() < settings.coarse:
        small = int(rng.integers(min(settings.coarsest, size - 1), size))
        few = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
        image = np.asarray(cv2.resize(few, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)
    return _discolour(image, settings, rng)


def _discolour(image: U8, settings: Crops, rng: np.random.Generator) -> U8:
    if rng.random() < settings.colour:
        image = change_colour(image, rng)
    if rng.random() < settings.degrade:
        image = degrade(image, rng)
    if rng.random() < settings.grey:
        image = in_grey(image)
    if rng.random() < settings.tint and float(np.ptp(image, axis=2).mean()) < GREY_SPREAD:
        image = _tint(image, rng)
    return image


def _tint(image: U8, rng: np.random.Generator) -> U8:
    """Colour for a grey picture: one for the dark parts, one for the light ones, one that changes across it."""
    grey = image[..., :1].astype(np.float32) / 255
    dark, light, across = (rng.normal(0, strength, 3) for strength in (18, 22, 14))
    slope = np.linspace(-1, 1, image.shape[1])[None, :, None]
    if rng.random() < 0.5:
        slope = slope.transpose(1, 0, 2)
    coloured = image + (1 - grey) * dark + grey * light + slope * across
    return np.asarray(coloured.clip(0, 255), np.uint8)


def crop_batches(settings: Settings, crops: HeadCrops, seen: int) -> Generator[CropBatch, None, None]:
    """A classifier's batches without end; ``seen`` crops in, the stream is the same for the same seed."""
    batch = settings.schedule.batch

    def make(rng: np.random.Generator) -> CropBatch:
        return crops.batch(batch, settings.size, settings.crops, rng)

    return stream(make, settings.seed, seen // batch)
