"""Runs ``edge-agent`` with its inference and decoding timed from inside: ``python -m benchmarks.instrumented_run OUT.json run …``.

CPU seconds of a thread (``time.thread_time``) around the model's run and around the reading of a frame. On a box with
more than three cores FFmpeg decodes in threads of its own; what those use counts as the agent's other work here.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_agent import cli
from edge_agent.capture.opencv import VideoFile
from edge_agent.detect.backends.onnxruntime import OnnxRuntimeRunner
from edge_agent.pipeline import ChainStats
from edge_agent.types import F32, Frame


class Times:
    """What is collected. Sums are of several threads: each adds to its own entry."""

    def __init__(self) -> None:
        self.inference: list[float] = []
        self.decode: list[float] = []
        self.first: float | None = None
        self.last = 0.0
        self.cpu_first = 0.0
        self.cpu_last = 0.0
        self.frames = 0


def instrument(times: Times) -> None:
    """Put clocks around the runner and the end of each frame."""
    run = OnnxRuntimeRunner.__call__
    done = ChainStats.done
    read = VideoFile.read

    def timed_run(self: OnnxRuntimeRunner, tensor: F32) -> Sequence[F32]:
        began = time.thread_time()
        outputs = run(self, tensor)
        times.inference.append(time.thread_time() - began)
        return outputs

    def timed_read(self: VideoFile) -> Frame | None:
        began = time.thread_time()
        frame = read(self)
        times.decode.append(time.thread_time() - began)
        return frame

    def timed_done(self: ChainStats, now: float, captured: float, people: int) -> None:
        done(self, now, captured, people)
        if times.first is None:
            times.first, times.cpu_first = now, time.process_time()
            times.inference.clear()
            times.decode.clear()
        times.last, times.cpu_last = now, time.process_time()
        times.frames += 1

    OnnxRuntimeRunner.__call__ = timed_run  # type: ignore[method-assign]
    VideoFile.read = timed_read  # type: ignore[method-assign]
    ChainStats.done = timed_done  # type: ignore[method-assign]


def peak_rss_mb() -> float:
    """Of this program alone: getrusage would begin with the size of the process that started it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> int:
    out, arguments = Path(sys.argv[1]), sys.argv[2:]
    times = Times()
    instrument(times)
    code = cli.main(arguments)
    if code == 0 and times.first is not None:
        n = times.frames - 1
        decode = sum(times.decode[:n]) / n * 1000
        inference = sum(times.inference[:n]) / n * 1000
        cpu = (times.cpu_last - times.cpu_first) / n * 1000
        result: dict[str, Any] = {
            "frames": times.frames,
            "fps": n / (times.last - times.first),
            "cpu_ms": cpu,
            "inference_cpu_ms": inference,
            "decode_cpu_ms": decode,
            "other_cpu_ms": cpu - inference - decode,
            "peak_rss_mb": peak_rss_mb(),
            "first_detection": times.first,
        }
        out.write_text(json.dumps(result))
    return code


if __name__ == "__main__":
    sys.exit(main())
