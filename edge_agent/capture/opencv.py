"""Video files, network streams and USB cameras through ``cv2.VideoCapture``."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

from edge_agent.capture.source import LiveClock, RateLimit, start_utc
from edge_agent.config import CameraConfig, redact
from edge_agent.errors import HardwareError, SourceLost, SourceNotFound
from edge_agent.types import Frame

OPEN_TIMEOUT_S = 4.0
READ_TIMEOUT_S = 4.0
_LIVE_OPTIONS = "rtsp_transport;tcp|flags;low_delay|analyzeduration;200000|probesize;200000"
_FILE_THREADS = min(2, max(1, (os.cpu_count() or 1) // 2))
_log = logging.getLogger(__name__)


class VideoFile:
    """Every frame of a video file. ``t`` comes from the container, or is index / ``camera.fps`` where that is set."""

    live = False

    def __init__(self, camera: CameraConfig, path: Path) -> None:
        self.progress = time.monotonic()
        self.length: int | None = None
        self.fps = 0.0
        self._camera = camera
        self._path = path
        self._limit = RateLimit(camera.max_fps)
        self._capture: Any = None
        self._broken: type[Exception] = OSError
        self._start = 0.0
        self._first_ms: float | None = None
        self._last_t = 0.0
        self._pos_msec = 0
        self._index = 0

    def open(self) -> None:
        """Open and find a decoder. Raises SourceNotFound."""
        cv2 = load_cv2()
        self._broken = cv2.error
        if not self._path.is_file() or not os.access(self._path, os.R_OK):
            raise SourceNotFound(f"camera {self._camera.id}: not a readable file: {self._path}")
        # Frame threading costs memory for each thread and takes the cores from inference, which needs them more.
        threads = [cv2.CAP_PROP_N_THREADS, _FILE_THREADS] if hasattr(cv2, "CAP_PROP_N_THREADS") else []
        self._capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG, threads)
        if not self._capture.isOpened() or not self._capture.grab():
            self.close()
            raise SourceNotFound(
                f"camera {self._camera.id}: cannot decode {self._path}: not a video FFmpeg understands, or damaged"
            )
        fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.fps = self._camera.fps or (fps if 0 < fps < 1000 else 25.0)
        self._pos_msec = cv2.CAP_PROP_POS_MSEC
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.length = count if count > 0 else None
        self._start = start_utc(self._camera.start)

    def read(self) -> Frame | None:
        """The next frame, None at the end. Raises SourceNotFound where OpenCV gives up on damaged data."""
        try:
            return self._next()
        except self._broken as error:
            raise SourceNotFound(
                f"camera {self._camera.id}: {self._path}: cannot decode frame {self._index}: {error}"
            ) from error

    def _next(self) -> Frame | None:
        # The first picture was grabbed by `open`, to prove that the file can be decoded.
        while self._index == 0 or self._capture.grab():
            index, t = self._index, self._time()
            self._index += 1
            self._last_t = t
            if not self._limit.passes(t):
                continue
            ok, image = self._capture.retrieve()
            self.progress = time.monotonic()
            if ok:
                return Frame(self._camera.id, index, t, self._start + t, image)
        if self.length is not None and self._index < 0.9 * self.length:
            _log.warning(
                "camera %s: %s ends after %d of about %d frames", self._camera.id, self._path, self._index, self.length
            )
        return None

    def _time(self) -> float:
        if self._camera.fps:
            return self._index / self._camera.fps
        ms = float(self._capture.get(self._pos_msec))
        if self._first_ms is None:
            self._first_ms = ms
        t = (ms - self._first_ms) / 1000.0
        # Some containers repeat a time stamp or step back; time must rise.
        return t if self._index == 0 or t > self._last_t else self._last_t + 1.0 / self.fps

    def close(self) -> None:
        """Release the decoder."""
        if self._capture is not None:
            self._capture.release()


class LiveVideo:
    """An RTSP or HTTP stream, or a V4L2 camera. ``t`` is monotonic time since the camera's first frame.

    A stream that changes its resolution without reconnecting goes on in the size it was opened with: OpenCV scales the
    pictures and has no property that tells. Zones are fractions, so they stay true.
    """

    live = True

    def __init__(self, camera: CameraConfig, clock: LiveClock, device: bool) -> None:
        self.progress = time.monotonic()
        self.length: int | None = None
        self.fps = 0.0
        self._camera = camera
        self._clock = clock
        self._device = device
        self._limit = RateLimit(camera.max_fps)
        self._capture: Any = None
        self._broken: type[Exception] = OSError

    def open(self) -> None:
        """Connect within about ``OPEN_TIMEOUT_S``. Raises SourceLost."""
        cv2 = load_cv2()
        self._broken = cv2.error
        self.progress = time.monotonic()
        name = self._camera.source
        os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", _LIVE_OPTIONS)
        if self._device:
            self._capture = cv2.VideoCapture(int(name) if name.isdecimal() else name, cv2.CAP_V4L2)
        else:
            timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(OPEN_TIMEOUT_S * 1000)]
            timeouts += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(READ_TIMEOUT_S * 1000)]
            self._capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG, timeouts)
        took = time.monotonic() - self.progress
        if not self._capture.isOpened():
            how = "timed out" if took > 0.9 * OPEN_TIMEOUT_S else "refused or not a stream"
            raise SourceLost(f"cannot open {redact(name)}: {how} after {took:.1f} s")
        self.progress = time.monotonic()

    def read(self) -> Frame | None:
        """The next frame. Raises SourceLost when the stream ended, stalled or cannot be decoded; never returns None."""
        try:
            return self._next()
        except self._broken as error:
            raise SourceLost(f"cannot decode: {error}") from error

    def _next(self) -> Frame:
        while True:
            began = time.monotonic()
            ok = self._capture.grab()
            now = time.monotonic()
            if now - began > 0.9 * READ_TIMEOUT_S:
                # The first reads that time out return True all the same, with an old picture.
                raise SourceLost(f"no picture for {now - began:.1f} s")
            if not ok:
                raise SourceLost("the stream ended")
            self.progress = now
            index, t = self._clock.tick()
            if self._limit.passes(t):
                ok, image = self._capture.retrieve()
                if ok:
                    return Frame(self._camera.id, index, t, time.time(), image)

    def close(self) -> None:
        """Disconnect."""
        if self._capture is not None:
            self._capture.release()


def load_cv2() -> Any:
    """The ``cv2`` module, wheel or system package, told to be quiet. Raises HardwareError where there is none."""
    # OpenCV reads these when a capture is opened. What the operator has set wins.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # its messages may hold the URL with its password
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(int(READ_TIMEOUT_S)))
    try:
        import cv2
    except ImportError as error:
        raise HardwareError(
            "OpenCV is missing: pip install 'opencv-python-headless<5', or the system's python3-opencv"
        ) from error
    if "OPENCV_LOG_LEVEL" not in os.environ and hasattr(cv2.utils, "logging"):
        # What it warns of on standard error becomes a state and a reason here.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    return cv2
