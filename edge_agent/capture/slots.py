"""Where a capture thread leaves frames and detection workers find them. Both fulfil ``types.FrameSlot``.

All cameras share one ``ready`` condition, on which idle detection workers wait; a put and a close notify it. Its lock
must be re-entrant (the default), so that a worker may scan the slots while it holds it.
"""

from __future__ import annotations

import threading
from collections import deque

from edge_agent.types import Frame

_STOP_POLL_S = 0.2


class LatestSlot:
    """Capacity one, the newest frame wins: for whatever cannot be made to wait. ``put`` never blocks."""

    def __init__(self, ready: threading.Condition) -> None:
        self.dropped = 0
        self._ready = ready
        self._frame: Frame | None = None
        self._closed = False

    def put(self, frame: Frame) -> bool:
        """Replace what is there; False once closed."""
        with self._ready:
            if self._closed:
                return False
            if self._frame is not None:
                self.dropped += 1
            self._frame = frame
            self._ready.notify()
        return True

    def take(self) -> Frame | None:
        """The frame, or None at once."""
        with self._ready:
            frame, self._frame = self._frame, None
        return frame

    def close(self) -> None:
        """No more frames; the one inside may still be taken."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    @property
    def exhausted(self) -> bool:
        """Closed and empty."""
        with self._ready:
            return self._closed and self._frame is None


class FrameQueue:
    """Every frame, in order, at most ``capacity`` at a time: for files. ``put`` blocks while full, until closed or ``stop``."""

    def __init__(self, ready: threading.Condition, capacity: int = 2, stop: threading.Event | None = None) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        self.dropped = 0
        self._ready = ready
        self._stop = stop or threading.Event()
        self._frames: deque[Frame] = deque()
        self._closed = False
        # Room is counted apart from `ready`: a notify meant for the producer must not wake a detection worker instead.
        self._room = threading.Semaphore(capacity)

    def put(self, frame: Frame) -> bool:
        """Append, waiting for room; False once closed or when ``stop`` is set while it waits."""
        while not self._room.acquire(timeout=_STOP_POLL_S):
            if self._closed or self._stop.is_set():
                return False
        with self._ready:
            if self._closed:
                return False
            self._frames.append(frame)
            self._ready.notify()
        return True

    def take(self) -> Frame | None:
        """The oldest frame, or None at once."""
        with self._ready:
            frame = self._frames.popleft() if self._frames else None
        if frame is not None:
            self._room.release()
        return frame

    def close(self) -> None:
        """No more frames; those inside may still be taken. Wakes a waiting ``put``."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        self._room.release()

    @property
    def exhausted(self) -> bool:
        """Closed and empty."""
        with self._ready:
            return self._closed and not self._frames
