"""A picture with four people to try a network on: drawn here, so that nobody's photograph and no licence is involved."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_agent.detect.crop import CropSpec
from edge_agent.errors import UsageError
from edge_agent.types import F32, U8

SIZE = (640, 480)
MAX_PICTURE_BYTES = 64 << 20
Colour = tuple[int, int, int]

# x and foot line as fractions, height in pixels of the double-size drawing, then shirt, trousers, hair (BGR) and stride.
_PEOPLE: tuple[tuple[float, float, int, Colour, Colour, Colour, float], ...] = (
    (0.22, 0.72, 250, (60, 50, 140), (90, 70, 50), (30, 30, 40), 1.0),
    (0.50, 0.90, 380, (120, 85, 50), (50, 50, 55), (20, 35, 60), 0.5),
    (0.74, 0.66, 220, (70, 110, 70), (60, 60, 70), (60, 70, 90), -1.0),
    (0.88, 0.95, 400, (60, 60, 65), (110, 90, 70), (25, 25, 30), 0.8),
)
PEOPLE = len(_PEOPLE)


def sample_picture(size: tuple[int, int], image: Path | None = None) -> U8:
    """``image``, or else the drawing, stretched to ``size`` = (width, height): (height, width, 3) uint8 BGR. Raises UsageError."""
    import cv2

    return np.asarray(cv2.resize(read_picture(image), size, interpolation=cv2.INTER_AREA), np.uint8)


def read_picture(image: Path | None) -> U8:
    """``image`` at its own size, or the drawing at 640x480. Raises UsageError where it is no picture."""
    import cv2

    if image is None:
        return _draw()
    if not image.is_file() or image.stat().st_size > MAX_PICTURE_BYTES:
        raise UsageError(f"--image {image}: no such file, or larger than {MAX_PICTURE_BYTES >> 20} MiB")
    picture = cv2.imread(str(image), cv2.IMREAD_COLOR)
    if picture is None:
        raise UsageError(f"--image {image}: OpenCV cannot read it as a picture")
    return np.asarray(picture, np.uint8)


def drawn_crop(crop: CropSpec) -> U8:
    """What a classifier is shown of the tallest person in the drawing but one, who stands free on all sides: (H,W,3) BGR."""
    picture, (place, foot, tall, *_) = _draw(), _PEOPLE[1]
    # A drawn person is as wide as a hand on each side, 14 hundredths of the height.
    x, y, height = place * SIZE[0], foot * SIZE[1], tall / 2
    left, top, right, bottom = (round(v) for v in crop.square((x - 0.14 * height, y - height, x + 0.14 * height, y)))
    return np.ascontiguousarray(picture[max(top, 0) : max(bottom, 1), max(left, 0) : max(right, 1)])


def _draw() -> U8:
    import cv2

    width, height = 2 * SIZE[0], 2 * SIZE[1]
    canvas = np.zeros((height, width, 3), np.float32)
    horizon = round(height * 0.32)
    canvas[:horizon] = np.linspace(150, 175, horizon)[:, None, None]
    canvas[horizon:] = np.linspace(128, 108, height - horizon)[:, None, None]
    for x in range(60, width, 230):
        cv2.rectangle(canvas, (x, 40), (x + 130, horizon - 60), (105, 95, 85), -1)
    for place, foot, tall, shirt, trousers, hair, stride in _PEOPLE:
        _Person(canvas, place * width, foot * height, tall / 100).draw(shirt, trousers, hair, stride)
    noise = np.random.default_rng(3).normal(0, 1, canvas.shape).astype(np.float32)
    canvas = cv2.GaussianBlur(canvas, (0, 0), 2.2) + cv2.GaussianBlur(noise, (0, 0), 1.5) * 12
    return np.asarray(
        cv2.resize(np.clip(canvas, 0, 255).astype(np.uint8), SIZE, interpolation=cv2.INTER_AREA), np.uint8
    )


class _Person:
    """Draws in units of a hundredth of the person's height, from the point between the feet."""

    def __init__(self, canvas: F32, x: float, foot: float, scale: float) -> None:
        self._canvas, self._x, self._foot, self._scale = canvas, x, foot, scale

    def draw(self, shirt: Colour, trousers: Colour, hair: Colour, stride: float) -> None:
        self._oval((6, 0), (22, 4), (85, 87, 90))
        for side, light in ((-1, 0.8), (1, 1.0)):
            knee, foot = (3 * side + 3 * stride * side, 26), (3 * side + 6 * stride * side, 3)
            self._limb([(3 * side, 50), knee, foot], (9, 7), trousers, light)
            self._oval((foot[0] + 2, 2), (5, 2.5), (35, 35, 40))
        self._torso(shirt)
        for side, light in ((-1, 0.75), (1, 0.85)):
            hand = (12 * side - 4 * stride * side + 3, 48)
            self._limb([(10 * side, 80), (13 * side, 63), hand], (6, 5), shirt, light)
            self._oval(hand, (2.6, 2.6), (120, 150, 195))
        self._limb([(0, 86), (0, 82)], (5,), (110, 140, 185), 1.0)
        self._oval((0, 92), (5.5, 7.2), (130, 160, 205))
        self._oval((-0.5, 95), (6, 5), hair)

    def _at(self, point: tuple[float, float]) -> tuple[int, int]:
        return int(self._x + point[0] * self._scale), int(self._foot - point[1] * self._scale)

    def _px(self, length: float) -> int:
        return max(1, int(length * self._scale))

    def _oval(self, centre: tuple[float, float], radii: tuple[float, float], colour: Colour) -> None:
        import cv2

        cv2.ellipse(self._canvas, self._at(centre), (self._px(radii[0]), self._px(radii[1])), 0, 0, 360, colour, -1)

    def _limb(self, points: list[tuple[float, float]], widths: tuple[float, ...], colour: Colour, light: float) -> None:
        import cv2

        shade = tuple(c * light for c in colour)
        for start, end, width in zip(points, points[1:], widths, strict=False):
            cv2.line(self._canvas, self._at(start), self._at(end), shade, self._px(width))

    def _torso(self, colour: Colour) -> None:
        import cv2

        corners = np.array([self._at(p) for p in ((-11, 82), (11, 82), (9, 47), (-9, 47))], np.int32)
        cv2.fillPoly(self._canvas, [corners], colour)
        self._oval((0, 81), (11, 4), colour)
