"""A folder of pictures as a source, in natural order (``img2`` before ``img10``)."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path

import numpy as np

from edge_agent.capture.source import RateLimit, start_utc
from edge_agent.config import CameraConfig
from edge_agent.errors import SourceNotFound
from edge_agent.types import U8, Frame

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"}
_DEFAULT_FPS = 10.0
_NAMED = 5
_log = logging.getLogger(__name__)


class ImageFolder:
    """``t`` is index / ``camera.fps`` (10 if not set: pictures carry no time).

    A picture that cannot be decoded is passed over with a warning, the first few by name.
    """

    live = False

    def __init__(self, camera: CameraConfig, folder: Path) -> None:
        self.progress = time.monotonic()
        self._camera = camera
        self._folder = folder
        self.length: int | None = None
        self.fps = camera.fps or _DEFAULT_FPS
        self._limit = RateLimit(camera.max_fps)
        self._paths: list[Path] = []
        self._bad = 0
        self._index = 0
        self._start = 0.0

    def open(self) -> None:
        """List the pictures. Raises SourceNotFound when there is none, or the first cannot be decoded."""
        where = f"camera {self._camera.id}: {self._folder}"
        try:
            self._paths = sorted((p for p in self._folder.iterdir() if p.suffix.lower() in _SUFFIXES), key=_natural)
        except OSError as error:
            raise SourceNotFound(f"{where}: {error.strerror}") from error
        if not self._paths:
            raise SourceNotFound(f"{where}: holds no pictures ({', '.join(sorted(_SUFFIXES))})")
        if all(_decode(path) is None for path in self._paths):
            raise SourceNotFound(f"{where}: cannot decode {self._paths[0].name}, nor any other picture there")
        self.length = len(self._paths)
        self._start = start_utc(self._camera.start)

    def read(self) -> Frame | None:
        """The next picture that decodes, None after the last."""
        while self._index < len(self._paths):
            index, path = self._index, self._paths[self._index]
            self._index += 1
            t = index / self.fps
            if not self._limit.passes(t):
                continue
            image = _decode(path)
            self.progress = time.monotonic()
            if image is not None:
                return Frame(self._camera.id, index, t, self._start + t, image)
            self._bad += 1
            if self._bad <= _NAMED:
                _log.warning("camera %s: cannot decode %s, passed over", self._camera.id, path.name)
        if self._bad > _NAMED:
            _log.warning("camera %s: %d of %d pictures passed over", self._camera.id, self._bad, len(self._paths))
            self._bad = 0
        return None

    def close(self) -> None:
        """Nothing is held open."""
        self._paths = []


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    # Digits compare as numbers; the name itself settles ties such as a1 and a01.
    parts = re.findall(r"(\d+)|(\D+)", path.name)
    return [(int(digits), "") if digits else (-1, text.lower()) for digits, text in parts], path.name


def _decode(path: Path) -> U8 | None:
    import cv2

    try:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    return None if image is None else np.asarray(image, np.uint8)
