"""The last picture of a camera with what was seen in it, for the local REST API. Only where privacy allows pictures."""

from __future__ import annotations

import numpy as np

from edge_agent.pipeline import FrameResult
from edge_agent.types import F32, U8

COLOUR = (80, 200, 80)
BLOCKS = 6
"""A person's width becomes this many blocks: enough to see that somebody stands there, not who."""
MARGIN = 0.1
"""Pixelated around a box, in fractions of its size: heads stick out of boxes."""


def pixelate(image: U8, boxes: F32) -> None:
    """Make the persons in ``boxes`` (N,4 xyxy pixels) unrecognisable, in place."""
    import cv2

    height, width = image.shape[:2]
    for box in boxes:
        margin = MARGIN * np.array([box[2] - box[0], box[3] - box[1]])
        x1, y1 = np.clip(np.floor(box[:2] - margin), 0, [width, height]).astype(int)
        x2, y2 = np.clip(np.ceil(box[2:] + margin), 0, [width, height]).astype(int)
        if x2 - x1 < 1 or y2 - y1 < 1:
            continue
        region = image[y1:y2, x1:x2]
        block = max(1.0, (x2 - x1) / BLOCKS)
        small = cv2.resize(region, (BLOCKS, max(1, round((y2 - y1) / block))), interpolation=cv2.INTER_AREA)
        image[y1:y2, x1:x2] = cv2.resize(small, (x2 - x1, y2 - y1), interpolation=cv2.INTER_NEAREST)


def snapshot_jpeg(result: FrameResult, *, hide_persons: bool, max_width: int | None = None) -> bytes:
    """The frame with tracks drawn in, as JPEG. ``hide_persons`` pixelates every detection, however unsure, and every track.

    ``max_width`` pixels: a wider one is made smaller.
    """
    import cv2

    image = result.frame.image.copy()
    tracks = result.tracks
    if hide_persons:
        pixelate(image, result.detections.boxes)
        pixelate(image, tracks.boxes)
    for ident, box in zip(tracks.ids.tolist(), tracks.boxes.astype(int).tolist(), strict=True):
        cv2.rectangle(image, (box[0], box[1]), (box[2], box[3]), COLOUR, 2)
        cv2.putText(
            image, str(ident), (box[0], max(12, box[1] - 4)), cv2.FONT_HERSHEY_SIMPLEX, 0.45, COLOUR, 1, cv2.LINE_AA
        )
    height, width = image.shape[:2]
    if max_width is not None and width > max_width:
        image = cv2.resize(image, (max_width, max(1, height * max_width // width)), interpolation=cv2.INTER_AREA)
    ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])
    if not ok:
        raise ValueError(f"cannot encode a picture of shape {image.shape}")
    return data.tobytes()
