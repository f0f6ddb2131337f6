"""What reading codes costs: ms of one core for one picture, by its size. ``python -m benchmarks.codes [--json]``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

import cv2
import numpy as np

from edge_agent.codes import token
from edge_agent.codes.reader import Reader

SIZES = ((640, 360), (1280, 720), (1920, 1080))
RUNS = 7


def main() -> int:
    """Print the table; exit code 1 where a code that is there is not read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    cv2.setNumThreads(1)  # as the agent sets it
    rows, missed = [], 0
    for size in SIZES:
        empty, full = _picture(size, code=False), _picture(size, code=True)
        qr, markers = Reader(qr=True, markers=None), Reader(qr=False, markers="apriltag_36h11")
        both = Reader(qr=True, markers="apriltag_36h11")
        missed += len(qr.read(full)) != 1
        row = {
            "picture": f"{size[0]}x{size[1]}",
            "qr_empty_ms": _ms(lambda: qr.read(empty)),  # noqa: B023 - called at once
            "qr_ms": _ms(lambda: qr.read(full)),  # noqa: B023
            "markers_ms": _ms(lambda: markers.read(full)),  # noqa: B023
            "both_ms": _ms(lambda: both.read(full)),  # noqa: B023
        }
        rows.append(row)
    if args.json:
        print(json.dumps({"opencv": cv2.__version__, "rows": rows}))
    else:
        print(f"OpenCV {cv2.__version__}")
        for row in rows:
            print(" ".join(f"{value:>12}" for value in row.values()))
    return int(missed > 0)


def _picture(size: tuple[int, int], *, code: bool) -> np.ndarray:
    """Boxes and stripes at random, with a token 4 pixels to a module."""
    rng = np.random.default_rng(1)
    picture = np.full((size[1], size[0], 3), 110, np.uint8)
    for _ in range(150):
        x, y = rng.integers(0, size[0] - 20), rng.integers(0, size[1] - 20)
        w, h = rng.integers(5, size[0] // 5), rng.integers(5, size[1] // 3)
        colour = tuple(int(value) for value in rng.integers(0, 255, 3))
        cv2.rectangle(picture, (int(x), int(y)), (int(x + w), int(y + h)), colour, -1)
    if code:
        text = token.make(b"k" * 32, purpose="locker", holder="guest-17", once=True, now=1.8e9, life_s=60)
        modules = np.pad(np.asarray(cv2.QRCodeEncoder.create().encode(text), np.uint8), 2, constant_values=255)
        drawn = np.kron(modules, np.ones((4, 4), np.uint8))
        y, x = (size[1] - drawn.shape[0]) // 2, (size[0] - drawn.shape[1]) // 2
        picture[y : y + drawn.shape[0], x : x + drawn.shape[1]] = drawn[..., None]
    noisy = cv2.GaussianBlur(picture, (3, 3), 0.7).astype(np.float32) + rng.normal(0, 4, picture.shape)
    return np.asarray(np.clip(noisy, 0, 255), np.uint8)


def _ms(read: Callable[[], object]) -> float:
    """The median of this thread's own time."""
    took = []
    for _ in range(RUNS):
        began = time.thread_time()
        read()
        took.append(time.thread_time() - began)
    return round(float(np.median(took)) * 1e3, 1)


if __name__ == "__main__":
    sys.exit(main())
