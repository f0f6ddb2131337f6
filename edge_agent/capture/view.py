"""Is the camera still looking at something? Black, frozen and covered views, from one look per second of camera time.

A look takes a coarse grid of raw pixels and a thumbnail of it. *Frozen* means bit-identical pictures: sensor noise makes
two pictures of even an empty corridor differ. *Covered* means hardly any contrast between neighbouring patches, as behind
a hand, a bag or paint; the top and bottom tenth are left out, as clocks and logos are drawn there.
"""

from __future__ import annotations

import zlib
from typing import Literal, TypeAlias

import numpy as np

from edge_agent.types import U8, CameraChange, Frame

View: TypeAlias = Literal["ok", "black", "frozen", "covered"]

LOOK_EVERY_S = 1.0
# A still scene from an encoder with a long group of pictures may repeat itself bit by bit for a good while.
HOLD_S: dict[View, float] = {"ok": 4.0, "black": 12.0, "covered": 12.0, "frozen": 24.0}
_GRID, _SIZE = (256, 192), (64, 48)
_BLACK_LEVEL, _BLACK_SHARE = 20, 0.99
_EDGE_LEVEL = 6
_COVERED_ENTER, _COVERED_LEAVE = 0.01, 0.02
_REASONS: dict[View, str] = {
    "ok": "the view is back to normal",
    "black": "the picture is black",
    "frozen": "every picture is bit-identical",
    "covered": "the picture shows no detail",
}


class ViewHealth:
    """Watches one camera's view. Not thread-safe; ``update`` is called with every frame and mostly returns at once."""

    def __init__(self, camera: str) -> None:
        self.view: View = "ok"
        self._camera = camera
        self._next_look = float("-inf")
        self._candidate: View = "ok"
        self._since = 0.0
        self._grid: U8 | None = None
        self._checksum: int | None = None

    def update(self, frame: Frame) -> CameraChange | None:
        """The change of view health this frame brings, if any."""
        if frame.t < self._next_look:
            return None
        self._next_look = frame.t + LOOK_EVERY_S
        seen = self._look(frame.image)
        if seen != self._candidate:
            self._candidate, self._since = seen, frame.t
        if seen == self.view or frame.t - self._since < HOLD_S[seen]:
            return None
        previous, self.view = self.view, seen
        return CameraChange(self._camera, "camera_view", seen, _REASONS[seen], frame.utc, previous)

    def _look(self, image: U8) -> View:
        import cv2

        grid = cv2.resize(image, _GRID, interpolation=cv2.INTER_NEAREST)
        frozen = self._same(grid, image)
        small = cv2.resize(cv2.cvtColor(grid, cv2.COLOR_BGR2GRAY), _SIZE, interpolation=cv2.INTER_AREA)
        if np.mean(small < _BLACK_LEVEL) > _BLACK_SHARE:
            return "black"
        if frozen:
            return "frozen"
        limit = _COVERED_LEAVE if "covered" in (self.view, self._candidate) else _COVERED_ENTER
        return "covered" if edge_fraction(small) < limit else "ok"

    def _same(self, grid: U8, image: U8) -> bool:
        # Cheap test first; where the grid agrees, a checksum of the whole picture decides. No picture is kept alive.
        alike = self._grid is not None and np.array_equal(grid, self._grid)
        self._grid = grid
        previous, self._checksum = self._checksum, zlib.crc32(np.ascontiguousarray(image).data) if alike else None
        return alike and previous in (None, self._checksum)


def edge_fraction(small: U8) -> float:
    """Share of a grey thumbnail's pixels that differ clearly from a neighbour, without its top and bottom tenth."""
    margin = small.shape[0] // 10
    inner = small[margin : small.shape[0] - margin].astype(np.int16)
    down = np.abs(np.diff(inner, axis=0))[:, :-1]
    right = np.abs(np.diff(inner, axis=1))[:-1]
    return float(np.mean(np.maximum(down, right) > _EDGE_LEVEL))
