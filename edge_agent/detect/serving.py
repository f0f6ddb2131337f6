"""The detector at work, and how another takes its place between two frames."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from edge_agent.detect.detector import ModelDetector
from edge_agent.errors import HardwareError, ModelError
from edge_agent.types import NO_CLOCK, Detections, Frame, StageClock

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Held:
    detector: ModelDetector
    users: int = 0
    retired: bool = False


class ServingDetector:
    """Fulfils the ``Detector`` seam with whichever detector is current; safe to call and to swap from any thread.

    A detector that was replaced, or closed, is released by the last thread to leave it.
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
        self._retire(old)

    def close(self) -> None:
        """Release the current detector. No frame may come afterwards; those inside come out. A second call does nothing."""
        self._retire(self._held)

    def _retire(self, held: _Held) -> None:
        with self._lock:
            if held.retired:
                return
            held.retired = True
            held.users += 1
        self._leave(held)

    def _leave(self, held: _Held) -> None:
        with self._lock:
            held.users -= 1
            last = held.users == 0 and held.retired
        if last:
            try:
                held.detector.close()
            except HardwareError as error:
                # The thread that happens to be last has its frame; that the device is broken is not its failure.
                log.warning("%s: it cannot be released: %s", held.detector.backend_name, error)
