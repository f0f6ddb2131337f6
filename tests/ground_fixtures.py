"""A pinhole camera written independently of the product, and calibrations and boxes made with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_agent.config import CameraConfig, GroundConfig
from edge_agent.types import F64, Tracks

SIZE = (1280, 720)


@dataclass(frozen=True)
class Pinhole:
    """A camera ``height`` metres above the floor's origin, looking along +y turned by ``pan`` and down by ``tilt`` (radians)."""

    focal: float = 1100.0
    height: float = 5.0
    tilt: float = 0.5
    pan: float = 0.0
    roll: float = 0.0
    k1: float = 0.0

    def see(self, points: F64) -> F64:
        """(N,3) metres -> (N,2) pixels; the points must be in front."""
        right = np.array([np.cos(self.pan), np.sin(self.pan), 0.0])
        ahead = np.array([-np.sin(self.pan), np.cos(self.pan), 0.0])
        up = np.array([0.0, 0.0, 1.0])
        axis = np.cos(self.tilt) * ahead - np.sin(self.tilt) * up
        down = -np.sin(self.tilt) * ahead - np.cos(self.tilt) * up
        seen = (points - self.height * up) @ np.array([right, down, axis]).T
        assert (seen[:, 2] > 0).all()
        x, y = seen[:, 0] / seen[:, 2], seen[:, 1] / seen[:, 2]
        x, y = np.cos(self.roll) * x - np.sin(self.roll) * y, np.sin(self.roll) * x + np.cos(self.roll) * y
        half = np.hypot(*SIZE) / 2
        lens = np.column_stack([x, y]) * self.focal / half
        lens = lens * (1 + self.k1 * (lens**2).sum(axis=1, keepdims=True))
        pixels: F64 = lens * half + np.array(SIZE) / 2
        return pixels

    def floor(self, metres: F64) -> F64:
        """(N,2) metres on the floor -> (N,2) pixels."""
        return self.see(np.column_stack([metres, np.zeros(len(metres))]))

    def boxes(self, metres: F64, tall: float = 1.7, width: float = 0.5) -> F64:
        """(N,4) boxes of people who stand at (N,2) metres."""
        foot = self.floor(metres)
        head = self.see(np.column_stack([metres, np.full(len(metres), tall)]))
        half = (foot[:, 1] - head[:, 1]) * width / tall / 2
        return np.column_stack([foot[:, 0] - half, head[:, 1], foot[:, 0] + half, foot[:, 1]])

    def spot(self) -> F64:
        """Where the optical axis meets the floor, metres."""
        away = self.height / np.tan(self.tilt)
        spot: F64 = away * np.array([-np.sin(self.pan), np.cos(self.pan)])
        return spot

    def around(self, offsets: F64) -> F64:
        """Places about the spot, offsets in units that keep those up to 1 in the picture."""
        unit = min(self.height / 2, 0.6 * SIZE[1] / 2 / self.focal * self.height / np.sin(self.tilt))
        places: F64 = self.spot() + unit * np.asarray(offsets, np.float64)
        return places


GRID = np.array([[x, y] for x in (-1.0, 0.0, 1.0) for y in (-0.8, 0.1, 1.0)])
CORNERS = GRID[[0, 2, 6, 8]]


def calibration(pixels: F64, metres: F64, **settings: object) -> GroundConfig:
    """A configuration of measured points."""
    points = [{"pixel": list(p), "ground_m": list(m)} for p, m in zip(pixels.tolist(), metres.tolist(), strict=True)]
    return GroundConfig.model_validate({"image_size": SIZE, "points": points} | settings)


def camera_config(camera: Pinhole | None, **settings: object) -> CameraConfig:
    """A camera calibrated with the grid about its spot; None: not calibrated."""
    ground = None
    if camera is not None:
        metres = camera.around(GRID)
        ground = calibration(camera.floor(metres), metres).model_dump()
    return CameraConfig.model_validate({"id": "cam", "source": "none", "ground": ground} | settings)


def tracks_of(ids: list[int], boxes: F64, predicted: list[bool] | None = None) -> Tracks:
    """Tracks of persons."""
    n = len(ids)
    return Tracks(
        np.array(ids, np.int64),
        np.asarray(boxes, np.float32).reshape(n, 4),
        np.full(n, 0.6, np.float32),
        np.zeros(n, np.int32),
        np.array(predicted if predicted is not None else [False] * n, bool),
        ("person",),
    )
