"""Another program, to its end and no longer: what a new release runs must not hang, outlive or flood who updates."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence

from edge_agent.errors import ActivationFailed, Interrupted

TAIL_BYTES = 2000
LAST_WORDS_BYTES = 350
"""Of one that failed: the end of a traceback says why, and a job's detail has room for 500 characters in all."""
POLL_S = 0.1
_LEASHED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"
"""PR_SET_PDEATHSIG, SIGKILL (prctl(2)): whoever is killed takes it along."""


def run(words: Sequence[str], what: str, timeout_s: float, cancel: threading.Event | None = None) -> str:
    """Run ``words``, no shell, in ``/``; what it printed on both streams, at most the last 2000 bytes.

    Raises ActivationFailed (``what`` and its last words: a code other than 0, a signal, too long), Interrupted.
    """
    # Without what the caller's Python or pip was told: it is another's installation.
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_", "VIRTUAL_ENV"))}
    deadline = time.monotonic() + timeout_s
    with tempfile.TemporaryFile() as said:
        try:
            child = subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", "-c", _LEASHED, *words],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd="/",
                env=env,
                start_new_session=True,
            )
        except OSError as error:
            raise ActivationFailed(f"{what}: no process can be started: {error}") from error
        try:
            while child.poll() is None:
                if cancel is not None and cancel.is_set():
                    raise Interrupted(f"stopped while {what}")
                if time.monotonic() > deadline:
                    raise ActivationFailed(
                        f"{what}: no end after {timeout_s:g} s{_tail(said.fileno(), LAST_WORDS_BYTES)}"
                    )
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(POLL_S)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)  # with whatever it started
            child.wait()
        if child.returncode:
            end = f"signal {-child.returncode}" if child.returncode < 0 else f"code {child.returncode}"
            raise ActivationFailed(f"{what}: ended with {end}{_tail(said.fileno(), LAST_WORDS_BYTES)}")
        return _tail(said.fileno(), TAIL_BYTES).removeprefix(": ")


def _tail(fd: int, most: int) -> str:
    size = os.fstat(fd).st_size
    text = os.pread(fd, most, max(0, size - most)).decode("utf-8", "replace").strip()
    return f": {text}" if text else ""
