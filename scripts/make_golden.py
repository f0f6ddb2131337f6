"""Makes the golden pictures in training/golden/, which every bundled person detector carries: people whose places are known.

    python3 -m venv /tmp/golden && /tmp/golden/bin/pip install scikit-image matplotlib opencv-python-headless
    /tmp/golden/bin/python scripts/make_golden.py

Every ingredient is in the public domain or CC0 and comes inside scikit-image or matplotlib: training/golden/README.md says which.
People are cut out along the outlines below and put behind walls or at the picture's lower edge, so that what is expected of a
detector, the box around what of them can be seen, is known from the outline and not from any network. The same versions of these
packages give the same bytes; others may encode JPEG otherwise, and then golden.json has other hashes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

OUT = Path(__file__).parent.parent / "training" / "golden"
WIDTH, HEIGHT = 640, 480
JPEG_QUALITY = 82
MAX_BYTES = 60_000
F32 = NDArray[np.float32]

# Outlines in pixels of the source picture, drawn by hand over it, and the row below which the figure is not used.
OUTLINES: dict[str, tuple[str, int, list[tuple[int, int]]]] = {
    "collins": (
        "skimage/astronaut.png",
        338,
        [
            *((251, 19), (227, 16), (193, 29), (170, 40), (156, 58), (154, 92), (157, 104), (170, 116), (182, 132)),
            *((185, 166), (159, 171), (141, 190), (133, 190), (126, 202), (110, 206), (90, 227), (76, 235), (62, 250)),
            *((44, 282), (39, 306), (26, 345), (340, 345), (356, 320), (352, 287), (340, 262), (319, 243), (303, 233)),
            *((299, 219), (289, 203), (256, 172), (256, 163), (266, 137), (275, 134), (296, 107), (300, 92), (296, 58)),
            *((288, 43), (276, 31)),
        ],
    ),
    "varshney": (
        "skimage/camera.png",
        420,
        [
            *(
                (234, 71),
                (226, 66),
                (205, 65),
                (190, 70),
                (172, 87),
                (161, 106),
                (152, 106),
                (115, 126),
                (77, 142),
                (59, 164),
            ),
            *((38, 198), (20, 232), (0, 253), (0, 430), (149, 430), (141, 391), (141, 380), (173, 342), (204, 297)),
            *(
                (214, 297),
                (245, 310),
                (268, 302),
                (288, 287),
                (290, 262),
                (300, 228),
                (313, 226),
                (324, 201),
                (330, 196),
            ),
            *(
                (330, 176),
                (320, 169),
                (307, 182),
                (290, 182),
                (267, 172),
                (263, 155),
                (267, 140),
                (258, 140),
                (269, 128),
            ),
            *((269, 112), (255, 92)),
        ],
    ),
    "hopper": (
        "matplotlib/grace_hopper.jpg",
        428,
        [
            *((208, 43), (187, 57), (172, 62), (170, 86), (158, 102), (152, 112), (152, 215), (161, 228), (170, 261)),
            *((174, 288), (194, 298), (195, 320), (165, 344), (121, 360), (80, 368), (47, 387), (38, 409), (24, 434)),
            *(
                (508, 434),
                (492, 393),
                (464, 377),
                (422, 366),
                (376, 345),
                (330, 313),
                (330, 300),
                (336, 285),
                (350, 270),
            ),
            *((361, 262), (370, 223), (374, 188), (369, 183), (369, 129), (368, 95), (355, 80), (344, 65), (328, 51)),
            *((299, 41), (275, 25), (262, 23), (231, 27)),
        ],
    ),
}


@dataclass(frozen=True)
class Place:
    """Who stands where: the middle and the lower edge of the figure, and its height; in pixels of the picture."""

    who: str
    x: int
    foot: int
    tall: int
    mirrored: bool = False
    light: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factors for blue, green and red."""


def source(name: str) -> NDArray[np.uint8]:
    """A picture out of a package, BGR."""
    package, file = name.split("/")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is not installed")
    path = Path(spec.origin).parent / ("data" if package == "skimage" else "mpl-data/sample_data") / file
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise SystemExit(f"{path} cannot be read")
    return np.asarray(image, np.uint8)


def figure(place: Place) -> tuple[F32, F32]:
    """The person (h,w,3) and how much of each pixel he or she covers (h,w), at the size of ``place``."""
    name, last, outline = OUTLINES[place.who]
    image = source(name)
    cover = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(cover, [np.array(outline, np.int32)], 255)
    # A hair inside the outline, so that nothing of the old background shines at the rim.
    cover = cv2.GaussianBlur(cv2.erode(cover, np.ones((3, 3), np.uint8)), (0, 0), 1.5)[:last]
    columns, rows = np.flatnonzero(cover.max(0) > 127), np.flatnonzero(cover.max(1) > 127)
    box = np.s_[rows[0] :, columns[0] : columns[-1] + 1]
    scale = place.tall / (last - rows[0])
    size = (round((columns[-1] + 1 - columns[0]) * scale), place.tall)
    person = cv2.resize(image[:last][box].astype(np.float32), size, interpolation=cv2.INTER_AREA)
    alpha = cv2.resize(cover[box].astype(np.float32) / 255, size, interpolation=cv2.INTER_AREA)
    if place.mirrored:
        person, alpha = person[:, ::-1], alpha[:, ::-1]
    return person * np.array(place.light, np.float32), alpha


def put(canvas: F32, place: Place) -> list[float]:
    """Draw a person; gives the box of what lies inside the picture, xyxy."""
    person, alpha = figure(place)
    h, w = alpha.shape
    x, y = place.x - w // 2, place.foot - h
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, WIDTH), min(y + h, HEIGHT)
    inner = np.s_[top - y : bottom - y, left - x : right - x]
    here = canvas[top:bottom, left:right]
    here += alpha[inner][..., None] * (person[inner] - here)
    seen = alpha[inner] >= 0.5
    columns, rows = np.flatnonzero(seen.any(0)) + left, np.flatnonzero(seen.any(1)) + top
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


def wall(canvas: F32, top: int, bottom: int, bricks: float, colour: tuple[int, int, int]) -> None:
    """A brick wall across the picture with a coping of stone; ``bricks`` is the texture's scale, ``colour`` BGR its mean."""
    # The photograph looks along a pavement whose joints meet above x = 215: made parallel, and turned to lie.
    corners = np.array([(64, 0), (423, 0), (512, 512), (0, 512)], np.float32)
    square = np.array([(0, 0), (512, 0), (512, 512), (0, 512)], np.float32)
    flat = cv2.warpPerspective(source("skimage/brick.png"), cv2.getPerspectiveTransform(corners, square), (512, 512))
    texture = cv2.cvtColor(np.ascontiguousarray(np.rot90(flat)), cv2.COLOR_BGR2GRAY).astype(np.float32)
    texture = cv2.resize(texture, None, fx=bricks, fy=bricks, interpolation=cv2.INTER_AREA)
    times = (-(-(bottom - top) // texture.shape[0]), -(-WIDTH // texture.shape[1]))
    # Every second copy the other way round: the seams meet.
    texture = np.vstack([np.hstack([texture[::y, ::x] for x in _turns(times[1])]) for y in _turns(times[0])])
    texture = texture[: bottom - top, :WIDTH] / texture.mean()
    canvas[top:bottom] = texture[..., None] * np.array(colour, np.float32)
    edge = max(3, (bottom - top) // 12)
    canvas[top : top + edge] = np.array((150, 158, 165), np.float32) + canvas[top : top + edge] * 0.15
    canvas[top + edge : top + edge + 2] *= 0.5


def _turns(count: int) -> list[int]:
    return [1 if i % 2 == 0 else -1 for i in range(count)]


def sky(canvas: F32, bottom: int) -> None:
    """A pale sky down to a row."""
    t = np.linspace(0, 1, bottom, dtype=np.float32)[:, None, None]
    canvas[:bottom] = (1 - t) * np.array((215, 180, 150), np.float32) + t * np.array((228, 222, 214), np.float32)


def ground(canvas: F32, top: int, bottom: int) -> None:
    """Gravel, smaller far away."""
    gravel = source("skimage/gravel.png").astype(np.float32)
    corners = np.array([(0, 0), (512, 0), (512, 512), (0, 512)], np.float32)
    target = np.array([(0, top), (WIDTH, top), (WIDTH * 1.6, bottom), (-WIDTH * 0.6, bottom)], np.float32)
    turned = cv2.warpPerspective(
        gravel, cv2.getPerspectiveTransform(corners, target), (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT
    )
    canvas[top:bottom] = turned[top:bottom] * np.array((0.85, 0.92, 0.97), np.float32)


def finished(canvas: F32, seed: int) -> NDArray[np.uint8]:
    """The camera's own blur and noise over everything alike."""
    noise = np.random.default_rng(seed).normal(0, 2.0, canvas.shape).astype(np.float32)
    return np.asarray(np.clip(cv2.GaussianBlur(canvas, (0, 0), 0.6) + noise, 0, 255), np.uint8)


Scene = tuple[F32, list[list[float]]]
SUN = (0.97, 1.0, 1.04)
DUSK = (0.85, 0.72, 0.66)


def terraces(*, people: bool) -> Scene:
    """Three rows behind walls, 45 to 170 pixels high; or the same place without anybody."""
    canvas = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    sky(canvas, 130)
    rows: list[tuple[tuple[int, int], float, tuple[int, int, int], list[Place]]] = [
        (
            (118, 190),
            0.22,
            (78, 92, 128),
            [
                Place("hopper", 96, 121, 47, light=SUN),
                Place("varshney", 330, 121, 58, light=SUN),
                Place("collins", 548, 121, 52, mirrored=True, light=SUN),
            ],
        ),
        (
            (262, 345),
            0.4,
            (95, 112, 140),
            [
                Place("collins", 190, 266, 84, light=SUN),
                Place("hopper", 300, 266, 72, mirrored=True, light=SUN),
                Place("varshney", 470, 266, 98, mirrored=True, light=SUN),
            ],
        ),
        (
            (440, HEIGHT),
            0.7,
            (70, 84, 122),
            [
                Place("hopper", 110, 444, 140, light=SUN),
                Place("collins", 560, 444, 165, mirrored=True, light=SUN),
            ],
        ),
    ]
    boxes = []
    for (top, bottom), bricks, colour, standing in rows:
        for place in standing if people else []:
            x1, y1, x2, _ = put(canvas, place)
            boxes.append([x1, y1, x2, float(top)])
        wall(canvas, top, bottom, bricks, colour)
        ground(canvas, bottom, min(bottom + 110, HEIGHT))
    return canvas, boxes


def launch_pad() -> Scene:
    """Two people close by, at dusk, before a rocket."""
    rocket = source("skimage/rocket.jpg").astype(np.float32)
    canvas = np.ascontiguousarray(cv2.resize(rocket, None, fx=1.125, fy=1.125)[:HEIGHT, 40 : 40 + WIDTH])
    canvas = cv2.GaussianBlur(canvas, (0, 0), 1.5)
    places = [
        Place("collins", 200, HEIGHT, 250, light=DUSK),
        Place("hopper", 470, HEIGHT, 200, light=DUSK),
    ]
    return canvas, [put(canvas, place) for place in places]


def photographer() -> Scene:
    """One large person in a real, grey scene: the picture as it is, but for its size."""
    image = cv2.resize(source("skimage/camera.png"), None, fx=1.25, fy=1.25).astype(np.float32)
    top = 40
    _, _, outline = OUTLINES["varshney"]
    x1, y1 = 0.0, min(y for _, y in outline) * 1.25 - top
    x2 = max(x for x, _ in outline) * 1.25
    return np.ascontiguousarray(image[top : top + HEIGHT]), [[x1, round(y1, 1), round(x2, 1), float(HEIGHT)]]


def main() -> None:
    """Write the pictures and golden.json."""
    scenes = {
        "golden-terraces.jpg": terraces(people=True),
        "golden-launch-pad.jpg": launch_pad(),
        "golden-photographer.jpg": photographer(),
        "golden-nobody.jpg": terraces(people=False),
    }
    images: list[dict[str, Any]] = []
    for seed, (name, (canvas, boxes)) in enumerate(scenes.items()):
        whole, encoded = cv2.imencode(".jpg", finished(canvas, seed), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        content = encoded.tobytes()
        if not whole or len(content) > MAX_BYTES:
            raise SystemExit(f"{name}: {len(content)} bytes, at most {MAX_BYTES} are wanted")
        (OUT / name).write_bytes(content)
        objects = [{"box": box, "label": "person"} for box in boxes]
        images.append({"path": name, "sha256": hashlib.sha256(content).hexdigest(), "objects": objects})
        print(f"{name}: {len(content)} bytes, {len(boxes)} people")  # noqa: T201
    (OUT / "golden.json").write_text(json.dumps({"images": images}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
