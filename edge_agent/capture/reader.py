"""The thread that reads a live camera, and the count of those that never came back.

``cv2.VideoCapture`` can hang for ever in open, read and release, and a thread cannot be killed. So a reader that is
past its deadline is *abandoned*: it is told to quit, another takes its place, and should it wake up it releases its own
capture and ends. Abandoned readers are few by rule (``ABANDONED_LIMIT`` in the process), because each holds a thread,
sockets and buffers.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable

from edge_agent.capture.source import FrameSource
from edge_agent.errors import EdgeAgentError, SourceLost, WorkerDied
from edge_agent.types import NO_CLOCK, Frame, StageClock

ABANDONED_LIMIT = 3
_log = logging.getLogger(__name__)
_abandoned: list[Reader] = []
_abandoned_lock = threading.Lock()
_numbers = itertools.count(1)


class Reader(threading.Thread):
    """Opens one source, hands every frame to ``deliver`` and closes it. Ends on an error, at the end, or after ``quit``.

    ``deliver`` runs in this thread. Other threads read ``source.progress``, ``opened``, ``frames`` and ``error``, and wait
    on ``news``, which is set at the first frame and when ``error`` is.
    """

    def __init__(
        self, camera: str, source: FrameSource, deliver: Callable[[Frame], object], clock: StageClock = NO_CLOCK
    ) -> None:
        super().__init__(name=f"read-{camera}-{next(_numbers)}", daemon=True)
        self.source = source
        self.opened = False
        self.frames = 0
        self.error: EdgeAgentError | None = None
        self.crash: BaseException | None = None
        self.news = threading.Event()
        self._camera = camera
        self._deliver = deliver
        self._clock = clock
        self._quit = threading.Event()

    def quit(self) -> None:
        """Deliver nothing more and end as soon as the present call returns."""
        self._quit.set()

    def idle_s(self) -> float:
        """Seconds since the source's last sign of life."""
        return time.monotonic() - self.source.progress

    def run(self) -> None:
        """The thread's body."""
        try:
            self._read()
        except EdgeAgentError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - whatever it was, the worker raises it where it is seen
            self.error, self.crash = SourceLost(f"{type(error).__name__}: {error}"), error
        finally:
            self.news.set()
            self.source.close()

    def _read(self) -> None:
        self.source.open()
        self.opened = True
        while not self._quit.is_set():
            self._clock.start()
            frame = self.source.read()
            self._clock.lap("decode")
            if self._quit.is_set():
                return
            if frame is None:
                raise SourceLost("the stream ended")
            self._deliver(frame)
            self.frames += 1
            if self.frames == 1:
                self.news.set()


def abandon(reader: Reader) -> None:
    """Leave a hung reader behind. Raises WorkerDied when that makes ``ABANDONED_LIMIT`` of them in this process."""
    reader.quit()
    with _abandoned_lock:
        _abandoned[:] = [other for other in _abandoned if other.is_alive()]
        _abandoned.append(reader)
        count = len(_abandoned)
    _log.warning(
        "%s hangs in OpenCV for %.0f s and is left behind (%d of at most %d)",
        reader.name,
        reader.idle_s(),
        count,
        ABANDONED_LIMIT,
    )
    if count >= ABANDONED_LIMIT:
        raise WorkerDied(f"{count} capture threads hang in OpenCV; only a restart of the process frees them")
