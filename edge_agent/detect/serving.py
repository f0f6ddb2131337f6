"""The detector at work, and how another takes its place between two frames."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_agent.detect.detector import ModelDetector
from edge_agent.errors import HardwareError
from edge_agent.types import NO_CLOCK, Detections, Frame, StageClock

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Meter:
    """What a detector has done since it serves: frames (failed ones included), failures, seconds in it over all threads."""

    calls: int = 0
    failures: int = 0
    busy_s: float = 0.0


@dataclass(slots=True, eq=False)
class _Held:
    detector: ModelDetector
    meter: Meter
    users: int = 0
    retired: bool = False


class ServingDetector:
    """Fulfils the ``Detector`` seam with whichever detector is current; safe to call and to swap from any thread.

    A frame is worked on by one detector from beginning to end, and what comes of it names that one. A detector that was
    replaced, or closed, is released by the last thread to leave it.
    """

    def __init__(self, detector: ModelDetector, clock: StageClock = NO_CLOCK) -> None:
        self._clock = clock
        self.observer: Callable[[Frame, Detections], None] | None = None
        """Is shown every frame with what was found, by the thread that worked on it; must be quick."""
        self._lock = threading.Lock()
        self._held = _Held(detector, Meter())

    @property
    def current(self) -> ModelDetector:
        """The detector that the next frame goes to."""
        return self._held.detector

    @property
    def labels(self) -> tuple[str, ...]:
        """What the current detector can say; each frame's detections carry their own."""
        return self._held.detector.labels

    @property
    def concurrency(self) -> int:
        """See ``Detector``."""
        return self._held.detector.backend.concurrency

    def meter(self) -> Meter:
        """What the current detector has done so far."""
        with self._lock:
            return replace(self._held.meter)

    def detect(self, frame: Frame) -> Detections:
        """See ``Detector``."""
        with self._lock:
            held = self._held
            held.users += 1
        began, failed = time.monotonic(), 1
        try:
            found = held.detector.detect(frame, self._clock)
            failed = 0
            if (observer := self.observer) is not None:
                observer(frame, found)
            return found
        finally:
            self._leave(held, time.monotonic() - began, failed)

    def swap(self, detector: ModelDetector, *, instead_of: ModelDetector | None = None) -> bool:
        """Let the next frame go to ``detector``. With ``instead_of`` only if that one is current; else ``detector`` is
        released, and the answer False.
        """
        with self._lock:
            if taken := instead_of is None or self._held.detector is instead_of:
                old, self._held = self._held, _Held(detector, Meter())
        if taken:
            self._retire(old)
        else:
            detector.close()
        return taken

    def exchange(self, detector: ModelDetector) -> ModelDetector:
        """Let the next frame go to ``detector``; the one before is the caller's now, who releases it when no frame is inside."""
        with self._lock:
            old, self._held = self._held, _Held(detector, Meter())
        return old.detector

    def close(self) -> None:
        """Release the current detector. No frame may come afterwards; those inside come out. A second call does nothing."""
        self._retire(self._held)

    def _retire(self, held: _Held) -> None:
        with self._lock:
            if held.retired:
                return
            held.retired = True
            last = held.users == 0
        if last:
            self._release(held)

    def _leave(self, held: _Held, busy_s: float, failed: int) -> None:
        with self._lock:
            held.users -= 1
            held.meter.calls += 1
            held.meter.failures += failed
            held.meter.busy_s += busy_s
            last = held.users == 0 and held.retired
        if last:
            self._release(held)

    def _release(self, held: _Held) -> None:
        try:
            held.detector.close()
        except HardwareError as error:
            # The thread that happens to be last has its frame; that the device is broken is not its failure.
            log.warning("%s: it cannot be released: %s", held.detector.backend_name, error)
