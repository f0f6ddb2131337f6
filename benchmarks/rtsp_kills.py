"""How a live camera survives its server: N faults in one run of the real capture worker against a real RTSP server.

``python -m benchmarks.rtsp_kills --kills 100 --seed 1 [--json]``. Most faults are kill -9, the others SIGSTOP; the server
comes back after a random while. Exit code 1 when a bound is broken: a fault noticed within 5 s, frames within the
back-off then current + 5 s of the server being up, no thread or file descriptor more than before, memory flat.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from edge_agent.capture.worker import CaptureWorker, make_slot
from edge_agent.config import CameraConfig
from edge_agent.types import CameraChange, FrameSlot
from tests.rtsp import RtspServer

NOTICE_BOUND_S = 5.0
FRAMES_BOUND_S = 5.0
RSS_BOUND_MB = 8.0
SETTLED_AFTER = 10
"""Faults after which the allocator has seen everything; memory must be flat from there."""
FREEZE_SHARE = 0.15


@dataclass
class Usage:
    """What the process holds."""

    rss_mb: float
    threads: int
    fds: int


@dataclass
class Report:
    """What came of the run; ``broken`` names every bound that was not kept."""

    kills: int
    seed: int
    freezes: int = 0
    reconnects: int = 0
    frames: int = 0
    notice_max_s: float = 0.0
    frames_after_up_max_s: float = 0.0
    frames_after_up_beyond_backoff_max_s: float = 0.0
    backoff_max_s: float = 0.0
    before: Usage | None = None
    settled: Usage | None = None
    after: Usage | None = None
    duration_s: float = 0.0
    broken: list[str] = field(default_factory=list)


class NoBeat:
    """Nobody supervises here."""

    def begin(self) -> None:
        """A unit of work starts."""

    def end(self) -> None:
        """It is done."""


class Run:
    """One server, one worker and a consumer that takes every frame at once."""

    def __init__(self, kills: int, seed: int) -> None:
        self.report = Report(kills, seed)
        self.random = random.Random(seed)
        self.server = RtspServer(width=160, height=120, fps=15)
        self.stop = threading.Event()
        self.ready = threading.Condition()
        self.last_bad = 0.0
        camera = CameraConfig(id="bench", source=self.server.url)
        slot = make_slot(camera, False, self.ready, self.stop)
        self.worker = CaptureWorker(camera, slot, self._changed, self.stop, realtime=False, max_frames=None)
        self.threads = [
            threading.Thread(target=self.worker.run, args=(NoBeat(),), daemon=True),
            threading.Thread(target=self._consume, args=(slot,), daemon=True),
        ]

    def _changed(self, change: CameraChange) -> None:
        if change.value in ("stalled", "reconnecting"):
            self.last_bad = time.monotonic()

    def _consume(self, slot: FrameSlot) -> None:
        while not slot.exhausted:
            if slot.take() is None:
                with self.ready:
                    self.ready.wait(0.5)

    def go(self) -> Report:
        """All faults, then the judgement."""
        began = time.monotonic()
        with self.server:
            for thread in self.threads:
                thread.start()
            try:
                self._steady(time.monotonic())
                self.report.before = usage()
                for number in range(1, self.report.kills + 1):
                    self._fault(number)
                    if number == min(SETTLED_AFTER, self.report.kills):
                        self.report.settled = usage()
                self.report.after = usage()
            finally:
                self.stop.set()
                for thread in self.threads:
                    thread.join(10)
        self.report.reconnects = self.worker.stats.reconnects
        self.report.frames = self.worker.stats.frames
        self.report.duration_s = time.monotonic() - began
        self._judge()
        return self.report

    def _steady(self, since: float) -> None:
        """Wait until frames have come for a while, so that the next fault meets a settled camera."""
        wait_for(
            "frames",
            60,
            lambda: self.worker.stats.state == "delivering" and (self.worker.stats.last_frame or 0) > since,
        )
        until = time.monotonic() + self.random.uniform(2.2, 3.0)
        wait_for("steady frames", 60, lambda: time.monotonic() > until)

    def _fault(self, number: int) -> None:
        freeze = self.random.random() < FREEZE_SHARE
        began = time.monotonic()
        if freeze:
            self.server.freeze()
        else:
            self.server.kill()
        wait_for("the fault to be noticed", 30, lambda: self.last_bad > began)
        noticed = self.last_bad - began
        until = time.monotonic() + self.random.uniform(0.5, 3.0)
        wait_for("the server's pause", 10, lambda: time.monotonic() > until)
        if freeze:
            self.server.thaw()
        else:
            self.server.start()
        up, backoff = time.monotonic(), 0.0
        while (self.worker.stats.last_frame or 0.0) < up:
            backoff = max(backoff, self.worker.stats.backoff_s)
            if time.monotonic() - up > 90:
                raise TimeoutError(f"no frames 90 s after the server was up again (fault {number})")
            time.sleep(0.005)
        took = (self.worker.stats.last_frame or 0.0) - up
        report = self.report
        report.freezes += freeze
        report.notice_max_s = max(report.notice_max_s, noticed)
        report.backoff_max_s = max(report.backoff_max_s, backoff)
        report.frames_after_up_max_s = max(report.frames_after_up_max_s, took)
        report.frames_after_up_beyond_backoff_max_s = max(report.frames_after_up_beyond_backoff_max_s, took - backoff)
        self._steady(up)
        now = usage()
        print(
            f"{number:4d} {'SIGSTOP' if freeze else 'kill -9'} noticed {noticed:5.2f} s, frames {took:5.2f} s after up"
            f" (back-off {backoff:4.1f} s), RSS {now.rss_mb:.1f} MB, threads {now.threads}, fds {now.fds}",
            file=sys.stderr,
            flush=True,
        )

    def _judge(self) -> None:
        report = self.report
        assert report.before and report.settled and report.after
        for text, value, bound in (
            ("longest time to notice, s", report.notice_max_s, NOTICE_BOUND_S),
            (
                "frames after server up beyond the back-off, s",
                report.frames_after_up_beyond_backoff_max_s,
                FRAMES_BOUND_S,
            ),
            ("threads", report.after.threads, report.before.threads),
            ("file descriptors", report.after.fds, report.before.fds),
            ("memory growth since settled, MB", report.after.rss_mb - report.settled.rss_mb, RSS_BOUND_MB),
        ):
            if value > bound:
                report.broken.append(f"{text}: {value:.2f} > {bound:.2f}")


def wait_for(what: str, seconds: float, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.01)


def usage() -> Usage:
    """This process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    threads, fds = (sum(1 for _ in Path("/proc/self", folder).iterdir()) for folder in ("task", "fd"))
    return Usage(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, threads, fds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    report = Run(options.kills, options.seed).go()
    if options.json:
        print(json.dumps(asdict(report), indent=2))
    else:
        for key, value in asdict(report).items():
            print(f"{key:40} {value:.2f}" if isinstance(value, float) else f"{key:40} {value}")
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
