"""The model alone: what the box could do if there were nothing but inference."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numpy.typing import NDArray

from edge_agent.detect.backends import Backend, Runner
from edge_agent.errors import InferenceError

_WARM_UP = 3
_LEAST = 3
"""Runs of each thread in one go."""
_MEET_S = 60.0


class BareModel:
    """Runs a loaded network in as many threads as the pipeline has, each on one ready tensor over and over.

    The threads live as long as this does: a runner belongs to the thread that made it.
    """

    def __init__(self, backend: Backend, tensor: NDArray[Any], threads: int, stop: threading.Event) -> None:
        self._backend, self._tensor, self._threads, self._stop = backend, tensor, threads, stop
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="bare")
        self._meet = threading.Barrier(threads)
        self._broken = threading.Event()
        self._local = threading.local()

    def fps(self, seconds: float) -> float:
        """Inferences per second of all threads together, over about ``seconds``; less time once ``stop`` is set. Raises InferenceError."""
        try:
            return sum(self._pool.map(self._rate, [seconds] * self._threads))
        except threading.BrokenBarrierError as error:
            raise InferenceError("the model alone does not come to an end") from error

    def _rate(self, seconds: float) -> float:
        try:
            return self._timed(seconds)
        except BaseException:
            self._broken.set()
            self._meet.abort()
            raise

    def _timed(self, seconds: float) -> float:
        if not hasattr(self._local, "run"):
            self._local.run, self._local.tensor = self._backend.runner(), self._tensor.copy()
            for _ in range(_WARM_UP):
                self._local.run(self._local.tensor)
        run: Runner = self._local.run
        # All begin together, and as no task ends before, each has a thread of its own.
        self._meet.wait(_MEET_S)
        began = now = time.perf_counter()
        count = 0
        while count < _LEAST or (now - began < seconds and not self._stop.is_set() and not self._broken.is_set()):
            run(self._local.tensor)
            count += 1
            now = time.perf_counter()
        return count / (now - began)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
