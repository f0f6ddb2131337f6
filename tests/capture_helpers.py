"""A capture worker under test with a consumer that takes every frame, and the videos and folders it reads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from edge_agent.capture.worker import CaptureWorker, make_slot
from edge_agent.config import CameraConfig
from edge_agent.types import U8, CameraChange, Frame, FrameSlot


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Seconds until the condition held; fails after ``seconds``."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"waited {seconds} s for {what}"
        time.sleep(0.01)
    return time.monotonic() - began


class CountingBeat:
    """A beat that knows whether it is balanced."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0

    def begin(self) -> None:
        self.begun += 1

    def end(self) -> None:
        self.ended += 1


class Rig:
    """``with Rig(camera) as rig`` runs the worker in a thread; ``rig.frames`` and ``rig.changes`` grow."""

    def __init__(
        self, camera: CameraConfig, *, realtime: bool = False, max_frames: int | None = None, consume_s: float = 0.0
    ) -> None:
        self.stop = threading.Event()
        self.ready = threading.Condition()
        self.slot: FrameSlot = make_slot(camera, realtime, self.ready, self.stop)
        self.beat = CountingBeat()
        self.changes: list[CameraChange] = []
        self.frames: list[tuple[int, float, float, tuple[int, int]]] = []
        self.error: BaseException | None = None
        self.worker = CaptureWorker(
            camera, self.slot, self.changes.append, self.stop, realtime=realtime, max_frames=max_frames
        )
        self._consume_s = consume_s
        self._threads = [threading.Thread(target=self._run), threading.Thread(target=self._consume)]

    def _run(self) -> None:
        try:
            self.worker.run(self.beat)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error
            self.slot.close()

    def _consume(self) -> None:
        while not self.slot.exhausted:
            frame = self.slot.take()
            if frame is not None:
                self.frames.append((frame.index, frame.t, frame.utc, frame.size))
                if self._consume_s:
                    time.sleep(self._consume_s)
                continue
            with self.ready:
                self.ready.wait(0.1)

    def values(self, what: str = "camera_state") -> list[str]:
        return [change.value for change in self.changes if change.what == what]

    def wait_value(self, value: str, seconds: float, since: int = 0) -> CameraChange:
        """The first change to ``value`` at or after number ``since``."""
        wait_until(
            lambda: any(c.value == value for c in self.changes[since:]), seconds, f"{value}, got {self.values()}"
        )
        return next(c for c in self.changes[since:] if c.value == value)

    def join(self, seconds: float = 10.0) -> None:
        for thread in self._threads:
            thread.join(seconds)
            assert not thread.is_alive()

    def __enter__(self) -> Rig:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop.set()
        self.join()


def numbered_image(number: int, width: int = 96, height: int = 64) -> U8:
    """A textured picture whose blue channel's left half tells its number (survives lossy coding)."""
    rng = np.random.default_rng(number)
    image = rng.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    image[:, : width // 2, 0] = number * 4
    return np.ascontiguousarray(image)


def number_of(image: U8) -> int:
    """The number that ``numbered_image`` put into a picture."""
    return round(float(image[:, : image.shape[1] // 2 - 8, 0].mean()) / 4)


def write_video(path: Path, count: int = 20, fps: float = 10.0) -> Path:
    """A small Motion-JPEG video of numbered pictures."""
    writer: Any = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (96, 64))
    assert writer.isOpened()
    for number in range(count):
        writer.write(numbered_image(number))
    writer.release()
    return path


def write_folder(path: Path, count: int = 12) -> Path:
    """A folder of numbered pictures, named so that only natural order is right."""
    path.mkdir()
    for number in range(count):
        assert cv2.imwrite(str(path / f"img{number}.png"), numbered_image(number))
    return path


def noise_frame(camera: str, index: int, t: float, base: U8, seed: int) -> Frame:
    """A frame of a still scene with a sensor's noise on it."""
    noise = np.random.default_rng(seed).normal(0, 2.0, base.shape)
    return Frame(camera, index, t, 1000.0 + t, np.clip(base + noise, 0, 255).astype(np.uint8))
