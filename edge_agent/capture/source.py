"""The seam to cameras and files, and the choice of an implementation by URI."""

from __future__ import annotations

import itertools
import re
import time
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol, TypeAlias
from urllib.parse import unquote, urlsplit

from edge_agent.config import CameraConfig
from edge_agent.errors import SourceNotFound
from edge_agent.types import Frame

Kind: TypeAlias = Literal["url", "device", "file", "images"]
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")


class FrameSource(Protocol):
    """One camera or file, opened once: ``open``, ``read`` until None or an error, ``close``.

    A source is used by one thread at a time and made anew for each attempt; it cannot be reopened. ``close`` may be
    called in any state and raises nothing. Calls on a live source can hang in the vendor's code far beyond their
    time-outs, so its thread must be one that can be left behind.

    Frames are (height, width, 3) uint8 BGR in an array of their own, which belongs to the caller and is never written
    to again. ``Frame.t`` is seconds since the camera's first frame and rises strictly; ``Frame.index`` counts every
    picture the source gave, also those passed over for ``max_fps``.
    """

    live: bool
    """Cannot be made to wait, and is worth reopening."""
    progress: float
    """Monotonic seconds of the last sign of life: made, open begun, opened, picture received. Any thread may read it."""

    length: int | None
    """Frames in a file, as far as its container tells, known once it is open; None for a live source."""
    fps: float
    """Frames per second a file is marked or configured with, known once it is open; 0 for a live source."""

    def open(self) -> None:
        """Connect. Raises SourceNotFound (a file: no such thing, cannot be decoded) or SourceLost (live: refused, timed out)."""

    def read(self) -> Frame | None:
        """The next frame, None at the end of a file. Raises SourceLost (live: ended, stalled). Blocks for as long as the picture takes."""

    def close(self) -> None:
        """Release everything."""


class LiveClock:
    """Index and time of one live camera, continuing over its reopenings. Safe against an abandoned reader that wakes up."""

    def __init__(self) -> None:
        self._indices = itertools.count()
        self._epoch: float | None = None

    def tick(self) -> tuple[int, float]:
        """(index, t) of a picture that came just now."""
        now = time.monotonic()
        if self._epoch is None:
            self._epoch = now
        return next(self._indices), now - self._epoch


class RateLimit:
    """Lets pass at most ``max_fps`` frames per second of their own time; None lets all pass."""

    def __init__(self, max_fps: float | None) -> None:
        self._period = 1.0 / max_fps if max_fps else 0.0
        self._due = float("-inf")

    def passes(self, t: float) -> bool:
        """Whether the frame of time ``t`` is wanted."""
        if t < self._due - 1e-6:
            return False
        # On the grid while frames come, so that the mean rate holds; from here again after a gap.
        self._due = self._due + self._period if t < self._due + self._period else t + self._period
        return True


def kind_of(uri: str) -> Kind:
    """What a source URI names. A path that does not exist counts as a file, so that the error says so."""
    scheme = _SCHEME.match(uri)
    if scheme and scheme[1].lower() != "file":
        return "url"
    if uri.isdecimal() or uri.startswith("/dev/"):
        return "device"
    return "images" if local_path(uri).is_dir() else "file"


def is_live(uri: str) -> bool:
    """A camera rather than a file or a folder."""
    return kind_of(uri) in ("url", "device")


def local_path(uri: str) -> Path:
    """The path of a ``file://`` URI or of a plain path."""
    return Path(unquote(urlsplit(uri).path) if uri.lower().startswith("file://") else uri).expanduser()


def start_utc(start: datetime | None) -> float:
    """POSIX seconds of a file's first frame: the configured start or now."""
    return start.timestamp() if start else time.time()


def open_source(camera: CameraConfig, clock: LiveClock | None = None) -> FrameSource:
    """The source that fits ``camera.source``, made but not yet opened. ``clock`` carries a live camera's time over reopenings.

    Raises SourceNotFound for a file that does not exist.
    """
    kind = kind_of(camera.source)
    if kind in ("url", "device"):
        from edge_agent.capture.opencv import LiveVideo

        return LiveVideo(camera, clock or LiveClock(), kind == "device")
    path = local_path(camera.source)
    if not path.exists():
        raise SourceNotFound(f"camera {camera.id}: no such file: {path}")
    if kind == "images":
        from edge_agent.capture.images import ImageFolder

        return ImageFolder(camera, path)
    from edge_agent.capture.opencv import VideoFile

    return VideoFile(camera, path)
