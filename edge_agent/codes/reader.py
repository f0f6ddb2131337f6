"""Reads QR codes and ArUco or AprilTag markers in a picture, with OpenCV.

QR codes are read by all versions since 4.3; since 4.8 by ``QRCodeDetectorAruco``, which reads codes of half the size.
Markers are in the main modules since 4.7 (``ArucoDetector``); before, only in builds with the contrib modules, which JetPack
5's is not: there, reading them is refused at the start.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from edge_agent.config_codes import Markers
from edge_agent.errors import HardwareError
from edge_agent.types import F32, U8, CodeKind

log = logging.getLogger(__name__)

MAX_CODES = 32
"""In one picture; of a wall of codes the rest is not looked at."""
MAX_TEXT_BYTES = 512
"""Of a QR code; a longer one is not read."""
_MIN_SIDE = 16


@dataclass(frozen=True, slots=True)
class Reading:
    """A code as it stands in the picture: its text, or the number of a marker. ``corners`` (4,2) pixels, from its upper left, clockwise."""

    kind: CodeKind
    text: str
    corners: F32

    @property
    def box(self) -> tuple[float, float, float, float]:
        """xyxy."""
        (x1, y1), (x2, y2) = self.corners.min(axis=0).tolist(), self.corners.max(axis=0).tolist()
        return x1, y1, x2, y2

    def moved(self, x: float, y: float) -> Reading:
        """As it stands in a picture that has this one at ``x``, ``y``."""
        return Reading(self.kind, self.text, self.corners + np.array((x, y), np.float32))

    @property
    def angle_deg(self) -> float:
        """Where its upper edge points to, 0 up, 90 right; from 0 to 360."""
        x, y = (self.corners[:2].mean(axis=0) - self.corners[2:].mean(axis=0)).tolist()
        return math.degrees(math.atan2(x, -y)) % 360.0


class Reader:
    """Not thread-safe. Raises HardwareError where this box's OpenCV cannot do what is asked for."""

    def __init__(self, *, qr: bool, markers: Markers | None) -> None:
        finder = getattr(cv2, "QRCodeDetectorAruco", cv2.QRCodeDetector)
        self._qr = finder() if qr else None
        self._markers = _marker_finder(markers) if markers is not None else None

    def read(self, image: U8) -> list[Reading]:
        """What stands in a picture (height, width, 3 or none), BGR or grey; what cannot be read is left out."""
        if min(image.shape[:2]) < _MIN_SIDE:
            return []
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if image.ndim == 3 else image
        found = self._read_qr(grey) if self._qr is not None else []
        if self._markers is not None:
            corners, numbers = self._markers(grey)
            for number, corner in zip(numbers[:MAX_CODES], corners, strict=False):
                found.append(Reading("marker", str(int(number)), np.asarray(corner, np.float32).reshape(4, 2)))
        return found[:MAX_CODES]

    def _read_qr(self, grey: U8) -> list[Reading]:
        try:
            there, corners = self._qr.detectMulti(grey)  # type: ignore[union-attr]
        except cv2.error as error:  # odd pictures trip its assertions
            log.debug("QR codes cannot be looked for: %s", error)
            return []
        if not there or corners is None:
            return []
        read = []
        for square in np.asarray(corners, np.float32).reshape(-1, 4, 2)[:MAX_CODES]:
            text = self._decoded(grey, square)
            if 0 < len(text.encode(errors="replace")) <= MAX_TEXT_BYTES and np.isfinite(square).all():
                read.append(Reading("qr", text, square))
        return read

    def _decoded(self, grey: U8, square: F32) -> str:
        """One by one: one that is no UTF-8 must not hide the others."""
        try:
            return str(self._qr.decode(grey, square[None])[0])  # type: ignore[union-attr]
        except (cv2.error, UnicodeError) as error:
            log.debug("a QR code cannot be read: %s", type(error).__name__)
            return ""


def _marker_finder(markers: Markers) -> Callable[[U8], tuple[Sequence[Any], Any]]:
    """A function that gives corners and numbers."""
    aruco = getattr(cv2, "aruco", None)
    name = "DICT_" + markers.upper().replace("ARUCO_", "")
    if aruco is None or not hasattr(aruco, name):
        raise HardwareError(
            f"codes.markers: this box's OpenCV {cv2.__version__} ({cv2.__file__}) cannot read markers: versions before 4.7 "
            "do only when built with contrib modules. Take codes.markers out and use QR codes, or install a newer one"
        )
    if hasattr(aruco, "ArucoDetector"):
        parameters = aruco.DetectorParameters()
        detector = aruco.ArucoDetector(aruco.getPredefinedDictionary(getattr(aruco, name)), parameters)
        find = detector.detectMarkers
    else:  # until 4.6
        dictionary, parameters = aruco.Dictionary_get(getattr(aruco, name)), aruco.DetectorParameters_create()

        def find(grey: U8) -> Any:
            return aruco.detectMarkers(grey, dictionary, parameters=parameters)

    def numbered(grey: U8) -> tuple[Sequence[Any], Any]:
        corners, numbers, _ = find(grey)
        return corners, [] if numbers is None else np.asarray(numbers).reshape(-1)

    return numbered
