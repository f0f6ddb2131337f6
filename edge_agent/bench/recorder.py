"""The clock that the pipeline tells where each frame's time goes."""

from __future__ import annotations

import os
import threading
import time
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from edge_agent.types import Event, Frame, Output, Stage, StageClock

STAGES: tuple[Stage, ...] = get_args(Stage)


class _Lap(threading.local):
    """When the calling thread's last lap ended, nanoseconds."""

    wall = 0
    cpu = 0


class Recorder(StageClock):
    """Keeps what it is told while it listens. Appending to an array is atomic, so threads need no lock here."""

    def __init__(self) -> None:
        self.listening = False
        self.wall: Mapping[Stage, array[int]] = {stage: array("q") for stage in STAGES}
        """Nanoseconds of each lap."""
        self.cpu: Mapping[Stage, array[int]] = {stage: array("q") for stage in STAGES}
        """CPU nanoseconds of the thread that lapped: threads of a backend's own are not in them."""
        self.done_at = array("d")
        """Monotonic seconds at which each frame was through, listening or not."""
        self.latency = array("d")
        """Seconds from capture to the outbox's queue."""
        self.stored_latency = array("d")
        """Seconds from capture to the commit on disk, of each event."""
        self.last: Frame | None = None
        self.first_detection: float | None = None
        """Seconds from the start of this process."""
        self._lap = _Lap()
        self._since = 0.0
        self._on_the_way: dict[str, float] = {}

    def forget(self) -> None:
        """Frames captured until now say nothing: they waited while the pipeline stood still."""
        self._since = time.monotonic()

    def start(self) -> None:
        """See ``StageClock``."""
        self._lap.wall, self._lap.cpu = time.perf_counter_ns(), time.thread_time_ns()

    def lap(self, stage: Stage) -> None:
        """See ``StageClock``."""
        wall, cpu, lap = time.perf_counter_ns(), time.thread_time_ns(), self._lap
        if self.listening:
            self.wall[stage].append(wall - lap.wall)
            self.cpu[stage].append(cpu - lap.cpu)
        lap.wall, lap.cpu = wall, cpu

    def done(self, frame: Frame, outputs: Sequence[Output]) -> None:
        """See ``StageClock``."""
        now = time.monotonic()
        if self.first_detection is None:
            self.first_detection = process_age()
        if self.listening and frame.captured >= self._since:
            self.latency.append(now - frame.captured)
            for output in outputs:
                if isinstance(output, Event):
                    self._on_the_way[output.id] = frame.captured
        self.last = frame
        self.done_at.append(now)

    def stored(self, event: Mapping[str, Any]) -> None:
        """The outbox's follower: this CloudEvent is on disk."""
        captured = self._on_the_way.pop(str(event.get("id")), None)
        if captured is not None:
            self.stored_latency.append(time.monotonic() - captured)


def process_age() -> float:
    """Seconds since this process was started, to a hundredth: proc(5), field 22 of /proc/self/stat."""
    text = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace")
    ticks = int(text.rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
