"""One camera's capture thread: files at their own pace or the box's, live cameras watched and reopened for ever.

States of a live camera: ``starting`` -> ``delivering`` -> ``stalled`` (connected, but no picture for ``STALL_S``) -> ``delivering``, or
``reconnecting`` (the connection is lost or could not be made) -> ``delivering``, or ``failed`` (reopening has not helped; it goes on at the
longest back-off). A file: ``starting`` -> ``delivering`` -> ``ended``, or ``failed``.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_agent.capture.looped import LoopedFile
from edge_agent.capture.opencv import load_cv2
from edge_agent.capture.reader import Reader, abandon
from edge_agent.capture.slots import FrameQueue, LatestSlot
from edge_agent.capture.source import FrameSource, LiveClock, is_live, open_source
from edge_agent.capture.view import ViewHealth
from edge_agent.config import CameraConfig, redact
from edge_agent.errors import SourceError, WorkerDied
from edge_agent.journal import told
from edge_agent.types import NO_CLOCK, Beat, CameraChange, CameraState, Frame, FrameSlot, StageClock

STALL_S = 3.0
"""No sign of life for this long is a stall, while a time-out of the library (4 s) has yet to strike."""
READ_ABANDON_S = 10.0
OPEN_ABANDON_S = 45.0
"""Longer than a resolver's time-outs: with DNS down every open hangs for up to half a minute and then returns by itself."""
HUNG_FATAL_S = 60.0
BACKOFF_MIN_S, BACKOFF_MAX_S = 1.0, 30.0
STEADY_S = 2.0
"""Frames for this long make the next back-off short again."""
_TICK_S = 0.25
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class CameraStats:
    """What the heartbeat tells about a camera. Written by its capture threads, read by any thread without a lock."""

    state: CameraState = "starting"
    view: str = "ok"
    frames: int = 0
    """Frames offered to the slot."""
    last_frame: float | None = None
    """Monotonic seconds."""
    size: tuple[int, int] | None = None
    """(width, height) in pixels."""
    reconnects: int = 0
    """Times that a live source delivered again after it was lost."""
    last_error: str = ""
    backoff_s: float = 0.0
    """The wait before the attempt to come, 0 while frames flow."""
    _fps: float = 0.0
    _mark: float = 0.0
    _mark_frames: int = 0

    def fps(self) -> float:
        """Frames per second over the last second or so, 0 once they stopped."""
        if self.last_frame is None or self._fps == 0.0:
            return 0.0
        silent = time.monotonic() - self.last_frame
        return 0.0 if silent > max(STALL_S, 2.0 / self._fps) else self._fps

    def count(self, frame: Frame) -> None:
        """One more frame."""
        now = time.monotonic()
        self.frames += 1
        self.size = frame.size
        self.last_frame = now
        if now - self._mark > 1.0:
            self._fps = (self.frames - self._mark_frames) / (now - self._mark) if self._mark else 0.0
            self._mark, self._mark_frames = now, self.frames


def make_slot(camera: CameraConfig, realtime: bool, ready: threading.Condition, stop: threading.Event) -> FrameSlot:
    """The slot that fits: every frame of a file, only the newest of whatever keeps its own pace."""
    return LatestSlot(ready) if realtime or is_live(camera.source) else FrameQueue(ready, stop=stop)


class CaptureWorker:
    """Feeds one slot from one camera until the end of the file, ``max_frames``, or ``stop``; then it closes the slot.

    With ``loop`` a file has no end.

    ``on_change`` is called from this camera's capture threads (one at a time is not promised): it must be quick and
    thread-safe.
    """

    def __init__(
        self,
        camera: CameraConfig,
        slot: FrameSlot,
        on_change: Callable[[CameraChange], None],
        stop: threading.Event,
        *,
        realtime: bool,
        max_frames: int | None,
        loop: bool = False,
        clock: StageClock = NO_CLOCK,
    ) -> None:
        self.camera = camera
        self.slot = slot
        self.stats = CameraStats()
        self.live = is_live(camera.source)
        self._on_change = on_change
        self._stop = stop
        self._realtime = realtime
        self._max_frames = max_frames
        self._loop = loop
        self._stages = clock
        self._view = ViewHealth(camera.id)
        self._file: FrameSource | None = None
        self._clock = LiveClock()
        self._known_size: tuple[int, int] | None = None
        self._left_behind: Reader | None = None
        self._beat: Beat

    @property
    def dropped(self) -> int:
        """Frames that no detection worker took in time."""
        return self.slot.dropped

    @property
    def length(self) -> int | None:
        """Frames in the file, as far as it tells; known after ``prepare``. None for a live camera."""
        return self._file.length if self._file is not None else None

    @property
    def nominal_fps(self) -> float:
        """The file's frame rate, marked or configured; known after ``prepare``. 0 for a live camera."""
        return self._file.fps if self._file is not None else 0.0

    def prepare(self) -> None:
        """Open a file, so that a wrong one is known before anything starts; of a live camera nothing is asked.

        Raises SourceNotFound, and HardwareError where OpenCV is missing.
        """
        load_cv2()
        if not self.live and self._file is None:
            source = LoopedFile(self.camera) if self._loop else open_source(self.camera)
            source.open()
            self._file = source

    def run(self, beat: Beat) -> None:
        """The thread's body, with its sign of life. Raises SourceNotFound (a file) and WorkerDied (readers that hang for ever).

        The errors of a live camera are states, not exceptions.
        """
        self._beat = beat
        if self.live:
            self._run_live()
        else:
            self._run_file()
        self.slot.close()

    # ---- files

    def _run_file(self) -> None:
        try:
            self.prepare()
            ended = self._read_file()
        except SourceError as error:
            self._set_state("failed", str(error))
            self.slot.close()
            raise
        finally:
            if self._file is not None:
                self._file.close()
        self._set_state("ended", ended)

    def _read_file(self) -> str:
        assert self._file is not None
        began = time.monotonic()
        while not self._stop.is_set():
            self._beat.begin()
            self._stages.start()
            frame = self._file.read()
            self._stages.lap("decode")
            self._beat.end()
            if frame is None:
                return "end of file"
            if self._realtime:
                if self._stop.wait(max(0.0, began + frame.t - time.monotonic())):
                    break
                frame = replace(frame, captured=time.monotonic())
            if self.stats.frames == 0:
                self._set_state("delivering", "first frame")
            if not self._deliver(frame):
                break
            if self._full():
                return f"{self._max_frames} frames, as asked"
        return "stopped"

    # ---- live cameras

    def _run_live(self) -> None:
        load_cv2()
        backoff, lost = BACKOFF_MIN_S, False
        while not self._stop.is_set() and not self._full():
            source = open_source(self.camera, self._clock)
            reader = Reader(self.camera.id, source, self._deliver, self._stages)
            reader.start()
            delivered_s = self._watch(reader, lost)
            lost = True
            self._retire(reader)
            if reader.crash is not None:
                raise reader.crash
            if delivered_s > STEADY_S:
                backoff = BACKOFF_MIN_S
            self.stats.backoff_s = min(BACKOFF_MAX_S, max(BACKOFF_MIN_S, backoff * random.uniform(0.75, 1.25)))
            if self._full():
                break
            if backoff >= BACKOFF_MAX_S:
                self._set_state("failed", f"{self.stats.last_error}; tried again every {BACKOFF_MAX_S:.0f} s")
            self._stop.wait(self.stats.backoff_s)
            backoff = min(BACKOFF_MAX_S, backoff * 2)
        self._set_state("ended", "stopped")

    def _watch(self, reader: Reader, lost: bool) -> float:
        """Publish what becomes of one reader until it has to be retired; the seconds it delivered frames."""
        first: float | None = None
        while not self._stop.is_set() and not self._full():
            reader.news.wait(_TICK_S)
            self._beat.begin()
            if reader.frames and first is None:
                first = time.monotonic()
                reader.news.clear()
                self.stats.reconnects += lost
                self.stats.backoff_s = 0.0
            if reader.error is not None:
                self._lose(str(reader.error))
            elif reader.idle_s() > STALL_S:
                self._stall(reader)
            elif first is not None:
                self._flow()
            self._beat.end()
            if reader.error is not None or self._hung(reader):
                break
        return time.monotonic() - first if first is not None else 0.0

    def _flow(self) -> None:
        size = self.stats.size
        resized = (
            f"resolution changed from {_by(self._known_size)} to {_by(size)}"
            if self._known_size not in (None, size)
            else ""
        )
        self._known_size = size
        if self.stats.state != "delivering" or resized:
            self._set_state("delivering", resized or "frames arrive", force=True)

    def _stall(self, reader: Reader) -> None:
        if not reader.opened:
            self._lose("the camera does not answer")
        elif self.stats.state in ("starting", "delivering"):
            self._set_state("stalled", f"no picture for {STALL_S:.0f} s")

    def _lose(self, reason: str) -> None:
        self.stats.last_error = reason
        if self.stats.state != "failed":
            self._set_state("reconnecting", reason)

    def _hung(self, reader: Reader) -> bool:
        return reader.idle_s() > (READ_ABANDON_S if reader.opened else OPEN_ABANDON_S)

    def _retire(self, reader: Reader) -> None:
        """Wait for the reader's end, or leave it behind; at most one is behind at a time."""
        reader.quit()
        reader.join(1.0 if self._stop.is_set() else READ_ABANDON_S)
        if not reader.is_alive() or self._stop.is_set():
            return
        self._lose("OpenCV hangs")
        deadline = time.monotonic() + HUNG_FATAL_S
        while self._left_behind is not None and self._left_behind.is_alive() and reader.is_alive():
            if self._stop.wait(_TICK_S):
                return
            if time.monotonic() > deadline:
                raise WorkerDied(f"camera {self.camera.id}: two capture threads hang in OpenCV")
        if reader.is_alive():
            self._left_behind = reader
            abandon(reader)

    # ---- both

    def _deliver(self, frame: Frame) -> bool:
        if self._full():
            return False
        if not self.slot.put(frame):
            return False
        self.stats.count(frame)
        change = self._view.update(frame)
        if change is not None:
            self.stats.view = change.value
            extra = told("edge_agent.device.camera_view", camera=change.camera, state=change.value)
            _log.warning("camera %s: view %s (%s)", change.camera, change.value, change.reason, extra=extra)
            self._on_change(change)
        return True

    def _full(self) -> bool:
        return self._max_frames is not None and self.stats.frames >= self._max_frames

    def _set_state(self, state: CameraState, reason: str, force: bool = False) -> None:
        previous = self.stats.state
        if state == previous and not force:
            return
        self.stats.state = state
        if state == "failed":
            self.stats.last_error = reason
        level = logging.INFO if state in ("delivering", "ended") else logging.WARNING
        reason = reason.replace(self.camera.source, redact(self.camera.source))
        extra = told("edge_agent.device.camera_state", camera=self.camera.id, state=state)
        _log.log(level, "camera %s: %s -> %s (%s)", self.camera.id, previous, state, reason, extra=extra)
        self._on_change(CameraChange(self.camera.id, "camera_state", state, reason, time.time(), previous))


def _by(size: tuple[int, int] | None) -> str:
    return f"{size[0]}x{size[1]}" if size else "?"
