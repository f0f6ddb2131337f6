"""A file that begins again where it ends, for as long as one wants to look at it."""

from __future__ import annotations

import time
from dataclasses import replace

from edge_agent.capture.source import FrameSource, open_source
from edge_agent.config import CameraConfig
from edge_agent.types import Frame


class LoopedFile:
    """Fulfils ``FrameSource`` for a file or folder. Index, ``t`` and ``utc`` go on over the seam: time never steps back."""

    live = False

    def __init__(self, camera: CameraConfig) -> None:
        self.progress = time.monotonic()
        self.length: int | None = None
        self.fps = 0.0
        self._camera = camera
        self._source: FrameSource = open_source(camera)
        self._utc: float | None = None
        self._begin: tuple[int, float] = (0, 0.0)
        self._next: tuple[int, float] = (0, 0.0)
        """Index and time: of this turn's first frame, and of what comes after the frame read last."""

    def open(self) -> None:
        """See ``FrameSource``."""
        self._source.open()
        self.fps = self._source.fps

    def read(self) -> Frame | None:
        """The next frame; None only where the file gives none at all."""
        frame = self._source.read()
        if frame is None and self._next != self._begin:
            self._begin = self._next
            self._source.close()
            self._source = open_source(self._camera)
            self.open()
            frame = self._source.read()
        if frame is None:
            return None
        self.progress = self._source.progress
        if self._utc is None:
            self._utc = frame.utc - frame.t
        index, t = self._begin[0] + frame.index, self._begin[1] + frame.t
        self._next = (index + 1, t + 1.0 / self.fps)
        return replace(frame, index=index, t=t, utc=self._utc + t)

    def close(self) -> None:
        """See ``FrameSource``."""
        self._source.close()
