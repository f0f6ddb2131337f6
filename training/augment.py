"""Changes made to training images: placing, mosaic, colour, and what surveillance cameras do to a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.settings import Augment

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
GREY = 114
MIN_SIDE = 3.0
"""Pixels; what is narrower after scaling is ignored: no detector could tell."""
MIN_VISIBLE = 0.25
"""A box of which less is left inside the picture is ignored."""


@dataclass(frozen=True)
class Picture:
    """An image (h,w,3) uint8 RGB with its boxes (N,4) float32 xyxy in its pixels, classes (N,), ignore (N,)."""

    image: U8
    boxes: F32
    classes: NDArray[np.int32]
    ignore: NDArray[np.bool_]


def compose(pictures: Sequence[Picture], size: int, augment: Augment, rng: np.random.Generator) -> Picture:
    """One picture of ``size`` by ``size`` from one, or a mosaic from four (Bochkovskiy et al. 2020, fig. 3)."""
    canvas = np.full((size, size, 3), GREY, np.uint8)
    low, high = np.log(augment.scale)
    if len(pictures) == 1:
        windows = [(0, 0, size, size)]
    else:
        x, y = (int(v) for v in rng.uniform(0.3, 0.7, 2) * size)
        windows = [(0, 0, x, y), (x, 0, size, y), (0, y, x, size), (x, y, size, size)]
        high = min(high, 0.0) if low < 0 else high
    parts = [
        _place(canvas, picture, window, float(np.exp(rng.uniform(low, high))), rng=rng)
        for picture, window in zip(pictures, windows, strict=True)
    ]
    image = canvas
    if rng.random() < augment.colour:
        image = change_colour(image, rng)
    if rng.random() < augment.degrade:
        image = degrade(image, rng)
    if rng.random() < augment.grey:
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)
    return Picture(
        image,
        np.concatenate([p[0] for p in parts]),
        np.concatenate([p[1] for p in parts]),
        np.concatenate([p[2] for p in parts]),
    )


def _place(
    canvas: U8, picture: Picture, window: tuple[int, int, int, int], scale: float, *, rng: np.random.Generator
) -> tuple[F32, NDArray[np.int32], NDArray[np.bool_]]:
    """Draw the scaled, perhaps mirrored picture at a random place of the window; its boxes there."""
    x1, y1, x2, y2 = window
    h, w = picture.image.shape[:2]
    fx = scale * canvas.shape[0] / max(h, w)
    fy = fx * float(np.exp(rng.uniform(-0.12, 0.12)))
    nw, nh = max(8, round(w * fx)), max(8, round(h * fy))
    fx, fy = nw / w, nh / h
    resized = cv2.resize(picture.image, (nw, nh), interpolation=cv2.INTER_AREA if fx < 0.6 else cv2.INTER_LINEAR)
    boxes = picture.boxes * np.array([fx, fy, fx, fy], np.float32)
    if rng.random() < 0.5:
        resized = resized[:, ::-1]
        boxes = boxes[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], np.float32) + np.array([nw, 0, nw, 0], np.float32)
    # Where the picture's corner comes to lie: it covers the window if larger, lies inside it if smaller.
    ox, oy = (int(rng.integers(min(0, room), max(0, room) + 1)) for room in (x2 - x1 - nw, y2 - y1 - nh))
    sx, sy, dx, dy = max(0, -ox), max(0, -oy), x1 + max(0, ox), y1 + max(0, oy)
    cw, ch = min(nw - sx, x2 - dx), min(nh - sy, y2 - dy)
    canvas[dy : dy + ch, dx : dx + cw] = resized[sy : sy + ch, sx : sx + cw]
    boxes = boxes + np.array([x1 + ox, y1 + oy] * 2, np.float32)
    limits = np.array([dx, dy, dx + cw, dy + ch], np.float32)
    clipped = np.concatenate((np.maximum(boxes[:, :2], limits[:2]), np.minimum(boxes[:, 2:], limits[2:])), axis=1)
    sides, full = clipped[:, 2:] - clipped[:, :2], boxes[:, 2:] - boxes[:, :2]
    there = (sides > 1).all(axis=1)
    visible = sides.clip(0).prod(axis=1) / full.prod(axis=1).clip(1e-6)
    ignore = picture.ignore | (visible < MIN_VISIBLE) | (sides < MIN_SIDE).any(axis=1)
    return clipped[there].astype(np.float32), picture.classes[there], ignore[there]


def change_colour(image: U8, rng: np.random.Generator) -> U8:
    """Hue, saturation and brightness."""
    hue, saturation, value = rng.uniform(-1, 1, 3) * (0.02, 0.6, 0.45) + (0, 1, 1)
    x = np.arange(256)
    tables = (
        ((x + hue * 180) % 180).astype(np.uint8),
        np.clip(x * saturation, 0, 255).astype(np.uint8),
        np.clip(x * value, 0, 255).astype(np.uint8),
    )
    hsv = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    merged = cv2.merge([cv2.LUT(channel, table) for channel, table in zip(hsv, tables, strict=True)])
    return np.asarray(cv2.cvtColor(merged, cv2.COLOR_HSV2RGB), np.uint8)


def degrade(image: U8, rng: np.random.Generator) -> U8:
    """One of: blur, low resolution, JPEG blocks, darkness with noise."""
    size = image.shape[0]
    kind = int(rng.integers(4))
    if kind == 0:
        return np.asarray(cv2.GaussianBlur(image, (5, 5), float(rng.uniform(0.4, 1.4))), np.uint8)
    if kind == 1:
        small = round(size * float(rng.uniform(0.5, 0.85)))
        return np.asarray(cv2.resize(cv2.resize(image, (small, small)), (size, size)), np.uint8)
    if kind == 2:
        done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 60))])
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8) if done else image
    noise = rng.normal(0, rng.uniform(3, 14), (size, size, 1)).astype(np.float32)
    dark: U8 = np.clip(image * np.float32(rng.uniform(0.35, 0.9)) + noise, 0, 255).astype(np.uint8)
    return dark
