"""Worker threads, their signs of life, their restarts, and the ordered stop.

A worker is a function that returns when its work is over and raises when it cannot go on. The thread entry point here
is the one place where any exception is caught. *Stuck* is being inside one unit of work past its deadline; waiting is
healthy. A stuck thread cannot be killed: an essential one makes the process end non-zero, and systemd starts it again.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType

from edge_agent.errors import EdgeAgentError, WorkerDied
from edge_agent.health.status import WorkerState, WorkerStatus
from edge_agent.journal import told
from edge_agent.types import Beat

log = logging.getLogger(__name__)


FROZEN_S = 5.0
"""The main thread looks several times a second. When it did not for so long, nobody ran: a worker is not stuck for that."""


class _Beat:
    """See ``types.Beat``. Each attribute is written by one side, worker or supervisor: no lock is needed."""

    __slots__ = ("_forgiven", "since")

    def __init__(self) -> None:
        self.since: float | None = None
        self._forgiven = 0.0

    def begin(self) -> None:
        self.since = time.monotonic()

    def end(self) -> None:
        self.since = None

    def busy_s(self) -> float | None:
        since = self.since
        return None if since is None else time.monotonic() - max(since, self._forgiven)

    def forgive(self, now: float) -> None:
        """Time before ``now`` counts no longer."""
        self._forgiven = now


@dataclass(slots=True)
class _Worker:
    name: str
    run: Callable[[Beat], None]
    essential: bool
    deadline_s: float
    restart: bool
    beat: _Beat = field(default_factory=_Beat)
    state: WorkerState = "running"
    started: float = field(default_factory=time.monotonic)
    streak: int = 0
    restarts: int = 0
    last_error: str = ""
    thread: threading.Thread | None = None
    stuck_reported: bool = False


@dataclass(frozen=True, slots=True)
class StopStep:
    """One step of the stop: ``run`` gets ``deadline_s`` seconds, then the next one begins whether it is done or not."""

    name: str
    run: Callable[[], object]
    deadline_s: float


@dataclass(frozen=True, slots=True)
class RestartBudget:
    """``restarts`` in a row, each crash within ``window_s`` of the last start; pauses double from ``pause_s`` to ``max_pause_s``."""

    restarts: int = 3
    window_s: float = 60.0
    pause_s: float = 0.5
    max_pause_s: float = 30.0


class Supervisor:
    """Runs workers and watches them. ``spawn`` and ``states`` may be called from any thread, the rest from the main one."""

    def __init__(self, stop: threading.Event, budget: RestartBudget | None = None) -> None:
        self._stop = stop
        self._budget = budget or RestartBudget()
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()
        self._failure: WorkerDied | None = None
        self._signal: int | None = None
        self._checked: float | None = None

    @property
    def failure(self) -> WorkerDied | None:
        """Why the process must end non-zero; None while it need not."""
        return self._failure

    @property
    def signal(self) -> int | None:
        """The signal that asked for the stop, None where none did."""
        return self._signal

    def spawn(
        self, name: str, run: Callable[[Beat], None], *, essential: bool, deadline_s: float, restart: bool
    ) -> None:
        """Start ``run`` in a daemon thread of that name.

        ``deadline_s`` bounds one unit of work. With ``restart`` a crash is followed by a new call after a pause: an
        essential worker within its budget, any other for ever and ever more slowly (a dead camera is no reason to end).
        An error of ours that is not ``retriable`` is not tried again. ``run`` returning is the end of its work.
        """
        worker = _Worker(name, run, essential, deadline_s, restart)
        worker.thread = threading.Thread(target=self._enter, args=(worker,), name=name, daemon=True)
        with self._lock:  # a thread that is listed has been started: it can be joined
            worker.thread.start()
            self._workers.append(worker)

    def states(self) -> tuple[WorkerStatus, ...]:
        """All workers in the order they were spawned."""
        with self._lock:
            workers = list(self._workers)
        return tuple(
            WorkerStatus(w.name, w.essential, _state(w), w.beat.busy_s(), w.restarts, w.last_error) for w in workers
        )

    def join(self, prefix: str, deadline_s: float) -> bool:
        """Wait for all workers whose name begins with ``prefix``; whether they ended in time."""
        until = time.monotonic() + deadline_s
        with self._lock:
            threads = [w.thread for w in self._workers if w.name.startswith(prefix) and w.thread is not None]
        for thread in threads:
            thread.join(max(until - time.monotonic(), 0.0))
        return not any(thread.is_alive() for thread in threads)

    def check(self) -> bool:
        """Look for stuck workers; whether every essential one is well (then the watchdog may be fed)."""
        now = time.monotonic()
        with self._lock:
            workers = list(self._workers)
            if self._checked is not None and now - self._checked > FROZEN_S:
                log.warning(
                    "the process stood still for %.0f s (suspended, or the box overloaded)",
                    now - self._checked,
                    extra=told("process.frozen", stood_s=round(now - self._checked)),
                )
                for worker in workers:
                    worker.beat.forgive(now)
        self._checked = now
        for worker in workers:
            busy = worker.beat.busy_s()
            if busy is None or busy <= worker.deadline_s:
                worker.stuck_reported = False
            elif not worker.stuck_reported:
                worker.stuck_reported = True
                self._report_stuck(worker, busy)
        return self._failure is None

    def wait(self, tick: Callable[[], None], interval_s: float = 0.2) -> None:
        """The main thread's loop: check, ``tick``, sleep; returns once stop is set, a signal came or a worker is lost."""
        while not self._stop.is_set() and self._signal is None and self._failure is None:
            self.check()
            tick()
            self._stop.wait(interval_s)
        self._stop.set()

    def install_signals(self, last_words: bytes = b"") -> None:
        """SIGTERM, SIGINT and SIGHUP end ``wait``; a second SIGTERM or SIGINT ends the process at once with 128 + its number.

        ``last_words`` are written to the terminal then (to make a hidden cursor visible again).
        """

        def handle(number: int, _frame: FrameType | None) -> None:
            if number == signal.SIGHUP and self._signal is not None:
                return  # a terminal that closes sends several, by kernel and by shell: nobody's impatience
            if self._signal is not None:
                if last_words and os.isatty(1):
                    os.write(1, last_words)
                os._exit(128 + number)
            # Not Event.set(): the main thread may hold the event's lock at this very moment.
            self._signal = number

        signal.signal(signal.SIGTERM, handle)
        signal.signal(signal.SIGINT, handle)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup's wish
            signal.signal(signal.SIGHUP, handle)

    def _enter(self, worker: _Worker) -> None:
        while (error := _run(worker)) is not None:
            if not self._recover(worker, error):
                return
        worker.state = "done"

    def _recover(self, worker: _Worker, error: Exception) -> bool:
        """After a crash: pause and say whether to go on."""
        worker.last_error = f"{type(error).__name__}: {error}"
        worker.streak = worker.streak + 1 if time.monotonic() - worker.started <= self._budget.window_s else 1
        hopeless = isinstance(error, EdgeAgentError) and not error.retriable
        spent = worker.essential and worker.streak > self._budget.restarts
        if hopeless or spent or not worker.restart:
            worker.state = "failed"
            log.error(
                "worker %s failed for good: %s",
                worker.name,
                worker.last_error,
                exc_info=error,
                extra=told("worker.failed", worker=worker.name),
            )
            if worker.essential:
                self._fail(worker, worker.last_error, error)
            return False
        pause = min(self._budget.pause_s * 2 ** min(worker.streak - 1, 16), self._budget.max_pause_s)
        log.warning(
            "worker %s crashed and starts again in %.1f s",
            worker.name,
            pause,
            exc_info=error,
            extra=told("worker.crashed", worker=worker.name),
        )
        worker.state = "restarting"
        if self._stop.wait(pause):
            worker.state = "done"
            return False
        worker.restarts += 1
        worker.started = time.monotonic()
        worker.state = "running"
        return True

    def _report_stuck(self, worker: _Worker, busy: float) -> None:
        reason = f"stuck for {busy:.1f} s, allowed are {worker.deadline_s:g} s"
        worker.last_error = reason
        where = _stack(worker.thread)
        extra = told("worker.stuck", worker=worker.name)
        log.error("worker %s is %s, at:\n%s", worker.name, reason, where, extra=extra)
        if worker.essential:
            self._fail(worker, reason, None)

    def _fail(self, worker: _Worker, reason: str, cause: Exception | None) -> None:
        with self._lock:
            if self._failure is None:
                self._failure = WorkerDied(f"worker {worker.name}: {reason}")
                self._failure.__cause__ = cause


def _run(worker: _Worker) -> Exception | None:
    try:
        worker.run(worker.beat)
    except Exception as error:  # noqa: BLE001 - the entry point of a thread
        return error
    finally:
        worker.beat.end()
    return None


def _state(worker: _Worker) -> WorkerState:
    busy = worker.beat.busy_s()
    return "stuck" if busy is not None and busy > worker.deadline_s else worker.state


def _stack(thread: threading.Thread | None) -> str:
    frame = sys._current_frames().get(thread.ident) if thread is not None and thread.ident is not None else None
    return "".join(traceback.format_stack(frame, limit=12)).rstrip() if frame is not None else "(no stack)"


STOP_LIMIT_S = 10.0
"""All stop steps together; systemd's TimeoutStopSec is larger."""


def run_stop_steps(steps: Sequence[StopStep]) -> list[str]:
    """Run the steps in order, each in a thread of its own; the names of those that overran or failed.

    A step that overruns is logged and left behind; deadlines that reach ``STOP_LIMIT_S`` together are told, and the steps
    run all the same: an end that takes long is better than one that closes nothing.
    """
    total = sum(step.deadline_s for step in steps)
    if total >= STOP_LIMIT_S:
        log.error("the stop steps may take %g s together, allowed are less than %g s", total, STOP_LIMIT_S)
    return [step.name for step in steps if not _run_step(step)]


def _run_step(step: StopStep) -> bool:
    errors: list[Exception] = []

    def enter() -> None:
        try:
            step.run()
        except Exception as error:  # noqa: BLE001 - the entry point of a thread
            errors.append(error)

    thread = threading.Thread(target=enter, name=f"stop-{step.name}", daemon=True)
    thread.start()
    thread.join(step.deadline_s)
    if thread.is_alive():
        log.error("stop: %s is not done after %g s and is left, at:\n%s", step.name, step.deadline_s, _stack(thread))
        return False
    if errors:
        log.error("stop: %s failed", step.name, exc_info=errors[0])
    return not errors
