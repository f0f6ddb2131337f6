"""Reads codes beside the frames' way: a frame is only handed over, and what was read joins a later one.

One thread serves all live cameras, so that reading takes a bounded share of one core, whatever is before the cameras.
A file is read in the frame's own way instead: there is no hurry, and the same file gives the same answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

from edge_agent.codes.naming import Naming
from edge_agent.codes.reader import Reader
from edge_agent.config import CameraConfig
from edge_agent.config_codes import CodesConfig
from edge_agent.types import Beat, Code, Frame

log = logging.getLogger(__name__)

DEADLINE_S = 30.0
_HELD = 64
"""Codes of a camera that wait for its next frame."""


class CameraCodes:
    """One camera's. ``look`` is called in frame order by one thread at a time, and waits only where ``inline``."""

    def __init__(self, stage: CodeStage, camera: CameraConfig, *, inline: bool) -> None:
        self._stage, self._inline = stage, inline
        self._reader = Reader(qr=stage.config.qr, markers=stage.config.markers)
        zone = camera.zones[stage.config.zone] if stage.config.zone is not None else [(0.0, 0.0), (1.0, 1.0)]
        xs, ys = [x for x, _ in zone], [y for _, y in zone]
        self._window = (min(xs), min(ys), max(xs), max(ys))
        self._due = 0.0
        self._found: deque[Code] = deque(maxlen=_HELD)
        self.offered: Frame | None = None
        """The next to be looked through; guarded by the stage."""

    def look(self, frame: Frame) -> Sequence[Code]:
        """What was read since the last call; the frame is looked through where it is time."""
        if frame.t >= self._due:
            self._due = max(self._due + self._stage.config.every_s, frame.t)
            if self._inline:
                self._found.extend(self.read(frame))
            else:
                self._stage.offer(self, frame)
        found = []
        while self._found:
            found.append(self._found.popleft())
        return found

    def read(self, frame: Frame) -> list[Code]:
        """The codes within the window of one frame."""
        width, height = frame.size
        x1, y1 = int(self._window[0] * width), int(self._window[1] * height)
        x2, y2 = int(self._window[2] * width + 0.999), int(self._window[3] * height + 0.999)
        return [
            self._stage.naming.code(reading.moved(x1, y1), frame.t, frame.utc)
            for reading in self._reader.read(frame.image[y1:y2, x1:x2])
        ]

    def keep(self, codes: Sequence[Code]) -> None:
        """For the next ``look``; from the stage's thread."""
        self._found.extend(codes)


class CodeStage:
    """All cameras'. ``work`` is to be run in a thread of its own."""

    def __init__(self, config: CodesConfig, naming: Naming) -> None:
        self.config, self.naming = config, naming
        self._wake = threading.Condition()
        self._cameras: list[CameraCodes] = []
        self._next = 0
        self.cost_s = 0.0
        """What looking through a picture took lately."""

    def camera(self, camera: CameraConfig, *, inline: bool) -> CameraCodes:
        """For one camera; to be made before ``work`` runs. Raises HardwareError where this box's OpenCV cannot do it."""
        made = CameraCodes(self, camera, inline=inline)
        if not inline:
            self._cameras.append(made)
        return made

    @property
    def threaded(self) -> bool:
        """Whether anybody needs ``work``."""
        return bool(self._cameras)

    def offer(self, camera: CameraCodes, frame: Frame) -> None:
        """Newest wins: one that was not begun is forgotten."""
        with self._wake:
            camera.offered = frame
            self._wake.notify()

    def work(self, beat: Beat, stop: threading.Event) -> None:
        """Until ``stop``."""
        while not stop.is_set():
            taken = self._take()
            if taken is None:
                continue
            camera, frame = taken
            beat.begin()
            began = time.monotonic()
            try:
                camera.keep(camera.read(frame))
            finally:
                beat.end()
            took = time.monotonic() - began
            self.cost_s += 0.2 * (took - self.cost_s)
            # The share is of time that passes: whoever is slow rests longer.
            stop.wait(took * (1.0 / self.config.max_share - 1.0))

    def _take(self) -> tuple[CameraCodes, Frame] | None:
        with self._wake:
            for step in range(len(self._cameras)):
                at = (self._next + step) % len(self._cameras)
                camera = self._cameras[at]
                if camera.offered is not None:
                    self._next = at + 1
                    frame, camera.offered = camera.offered, None
                    return camera, frame
            self._wake.wait(0.5)
        return None
