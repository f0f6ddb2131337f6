"""The detector at work, and how another takes its place between two frames."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from edge_agent.detect.detector import ModelDetector
from edge_agent.errors import ModelError
from edge_agent.types import NO_CLOCK, Detections, Frame, StageClock


@dataclass(slots=True, eq=False)
class _Held:
    detector: ModelDetector
    users: int = 0


class ServingDetector:
    """Fulfils the ``Detector`` seam with whichever detector is current; safe to call and to swap from any thread.

    A detector that was replaced is closed by the last thread to leave it.
    """

    def __init__(self, detector: ModelDetector, clock: StageClock = NO_CLOCK) -> None:
        self.labels = detector.labels
        self._clock = clock
        self._lock = threading.Lock()
        self._held = _Held(detector)

    @property
    def current(self) -> ModelDetector:
        """The detector that the next frame goes to."""
        return self._held.detector

    @property
    def concurrency(self) -> int:
        """See ``Detector``."""
        return self._held.detector.backend.concurrency

    def detect(self, frame: Frame) -> Detections:
        """See ``Detector``."""
        with self._lock:
            held = self._held
            held.users += 1
        try:
            return held.detector.detect(frame, self._clock)
        finally:
            self._leave(held)

    def swap(self, detector: ModelDetector) -> None:
        """Let the next frame go to ``detector``. Raises ModelError if it knows other labels: what follows counts on them."""
        if detector.labels != self.labels:
            raise ModelError(f"{detector.network.label} has other labels than {self.current.network.label}")
        with self._lock:
            old, self._held = self._held, _Held(detector)
            old.users += 1
        self._leave(old)

    def close(self) -> None:
        """Release the current detector."""
        self.current.close()

    def _leave(self, held: _Held) -> None:
        with self._lock:
            held.users -= 1
            last = held.users == 0 and held is not self._held
        if last:
            held.detector.close()
