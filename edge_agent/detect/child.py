"""Work that may crash, hang or eat all memory runs in a child process: there, the worst a vendor library can do is an error.

The child runs ``<module>`` as ``python -m`` would; it reads one JSON request from stdin and writes JSON lines to what was its
stdout: ``{"doing": ...}`` as often as it likes, then one ``{"result": ...}`` or ``{"error": ...}``. What libraries print
goes to stderr, whose last lines end up in the error.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import resource
import selectors
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from edge_agent.errors import EdgeAgentError, HardwareError, InferenceError, ModelError, UsageError

MAX_REQUEST_BYTES = 1 << 20
MAX_REPLY_BYTES = 4 << 20
TAIL_BYTES = 2000
MAX_TEXT = 4000
POLL_S = 0.1
LEAVE_S = 5.0
PR_SET_PDEATHSIG = 1
NO_MEMORY = "not enough memory"
"""What a child says that came to the limit of its address space."""
_RUN_MODULE = (
    "import runpy, sys; sys.path[:] = [p for p in sys.path if p]; runpy.run_module(sys.argv[1], run_name='__main__')"
)
"""``python -m`` without the current folder in its path: a cv2.py lying there must not run as whoever calls us."""
log = logging.getLogger(__name__)
TYPES: dict[str, type[EdgeAgentError]] = {
    t.__name__: t for t in (HardwareError, ModelError, InferenceError, UsageError)
}

Progress = Callable[[str, "float | None"], None]
"""Called in the waiting thread with what the child does now, and the fraction done where it is known."""


class Say(Protocol):
    """Tells the parent what goes on."""

    def __call__(self, doing: str, done: float | None = None) -> None:
        """``doing`` completes "while ..."; ``done`` is a fraction in [0,1]."""


@dataclass(slots=True)
class _Conversation:
    """What the child has said so far."""

    progress: Progress | None
    doing: str = "starting"
    reply: dict[str, Any] | None = None
    received: int = 0
    line: bytearray = field(default_factory=bytearray)
    tail: bytearray = field(default_factory=bytearray)

    def hear(self, data: bytes) -> None:
        """Take bytes of its channel."""
        *lines, rest = (bytes(self.line) + data).split(b"\n")
        self.line[:] = rest
        self.received = len(rest) + max(map(len, lines), default=0)
        for line in lines:
            message = json.loads(line)
            if "doing" in message:
                self.doing = str(message["doing"])
                if self.progress:
                    self.progress(self.doing, message.get("done"))
            else:
                self.reply = message

    def note(self, data: bytes) -> None:
        """Take bytes of its stderr."""
        self.tail += data
        del self.tail[:-TAIL_BYTES]

    @property
    def last_words(self) -> str:
        """The end of its stderr on one line, for the error."""
        text = self.tail.decode("utf-8", "replace")
        words = " | ".join(line.strip() for line in text.splitlines()[-6:] if line.strip())
        return f"; its last words: {words}" if words else ""


def run_child(
    module: str,
    request: dict[str, Any],
    *,
    what: str,
    timeout_s: float,
    memory_mb: int | None = None,
    niceness: int = 0,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    files: Sequence[int] = (),
) -> dict[str, Any] | None:
    """Run ``module`` on ``request``; ``what`` names the work in errors. Returns its result, or None where ``cancel`` was set.

    The child is gone when this returns, and dies with the thread that called it. ``memory_mb`` limits its address space
    (CUDA reserves far more than it uses: not for GPUs); ``files`` are descriptors that it shall have too, under the same
    numbers. Raises what the child raised (ModelError, HardwareError, ...), and HardwareError where it was killed by a signal,
    ran out of time or of memory, or broke in a way of its own.
    """
    payload = json.dumps({"memory_mb": memory_mb, "niceness": niceness, "request": request}).encode()
    if len(payload) > MAX_REQUEST_BYTES:
        raise HardwareError(f"{what}: a request of {len(payload)} bytes is too large")
    try:
        child = _start(module, payload, files)
    except OSError as error:  # no memory to fork, no descriptors, an interpreter that was replaced
        raise HardwareError(f"{what}: no child process can be started: {error}") from error
    talk = _Conversation(progress)
    end = "failed"
    try:
        end = _listen(child, talk, time.monotonic() + timeout_s, cancel)
    except (ValueError, TypeError, RecursionError) as error:
        raise HardwareError(f"{what}: the child process answered nonsense while {talk.doing}: {error}") from error
    finally:
        _end(child, LEAVE_S if end == "finished" else 0.0)
    if end == "cancelled":
        return None
    if end == "timeout":
        raise HardwareError(f"{what}: no result after {timeout_s:g} s, stopped while {talk.doing}{talk.last_words}")
    return _verdict(what, talk, child.returncode or 0)


def _start(module: str, payload: bytes, files: Sequence[int]) -> subprocess.Popen[bytes]:
    with os.fdopen(os.memfd_create("request"), "w+b") as stdin:
        stdin.write(payload)
        stdin.seek(0)
        # A session of its own: it is stopped together with whatever it started.
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", _RUN_MODULE, module],
            stdin=stdin,
            stdout=-1,
            stderr=-1,
            start_new_session=True,
            pass_fds=files,
        )


def _listen(
    child: subprocess.Popen[bytes], talk: _Conversation, deadline: float, cancel: threading.Event | None
) -> str:
    """Follow both pipes until they end: ``finished``, ``timeout`` or ``cancelled``."""
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ, talk.hear)  # type: ignore[arg-type]
        selector.register(child.stderr, selectors.EVENT_READ, talk.note)  # type: ignore[arg-type]
        while selector.get_map() and talk.reply is None:
            if cancel is not None and cancel.is_set():
                return "cancelled"
            if time.monotonic() > deadline:
                return "timeout"
            ended = child.poll() is not None  # Asked before: its last words may come between the two.
            ready = selector.select(POLL_S)
            if not ready and ended:
                break  # Something it started holds the pipes open.
            for key, _ in ready:
                if data := os.read(key.fd, 65536):
                    key.data(data)
                else:
                    selector.unregister(key.fileobj)
            if talk.received > MAX_REPLY_BYTES:
                raise ValueError(f"more than {MAX_REPLY_BYTES} bytes")
    return "finished"


def _end(child: subprocess.Popen[bytes], patience_s: float) -> None:
    """Give the child that long to leave by itself, then stop it."""
    try:
        child.wait(patience_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        try:
            child.wait(LEAVE_S)
        except subprocess.TimeoutExpired:  # inside a driver that hangs: nothing can end it, and nobody waits for it
            log.error("process %d does not end even when killed: it hangs in a driver", child.pid)
    finally:
        for pipe in (child.stdout, child.stderr):
            if pipe:
                pipe.close()


def _verdict(what: str, talk: _Conversation, code: int) -> dict[str, Any]:
    """The result, or the error that the way it ended is."""
    reply = talk.reply
    if reply is not None and isinstance(reply.get("result"), dict):
        result: dict[str, Any] = reply["result"]
        return result
    if reply is not None and "broken" in reply:
        raise HardwareError(f"{what}: failed while {talk.doing}: {reply['broken']}"[:MAX_TEXT])
    if reply is not None:
        error = TYPES.get(str(reply.get("type")), HardwareError)
        raise error(str(reply.get("error", "no reason given"))[:MAX_TEXT])
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = " (usually: out of memory)" if name == "SIGKILL" else ""
        raise HardwareError(f"{what}: killed by {name}{hint} while {talk.doing}{talk.last_words}")
    raise HardwareError(f"{what}: the child process ended with code {code} while {talk.doing}{talk.last_words}")


def serve(work: Callable[[dict[str, Any], Say], dict[str, Any]]) -> None:
    """The child's side: do ``work(request, say)`` for the request on stdin, answer, and leave. Does not return."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # What libraries print must not mix with the answer.
    request = json.loads(sys.stdin.buffer.read(MAX_REQUEST_BYTES + 1))
    _confine(request)

    def send(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    def say(doing: str, done: float | None = None) -> None:
        send({"doing": doing, "done": done})

    try:
        send({"result": work(request["request"], say)})
    except MemoryError:
        send({"type": "HardwareError", "error": NO_MEMORY})
    except EdgeAgentError as error:
        send({"type": type(error).__name__, "error": str(error)})
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
        where = traceback.extract_tb(error.__traceback__)[-1]
        send({"broken": f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"})
    # Without clean-up: vendor libraries like to crash when the interpreter takes them down.
    sys.stderr.flush()
    os._exit(0)


def _confine(request: dict[str, Any]) -> None:
    """Die with the parent, be the first to go where memory runs out, stand back for the agent where asked."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    os.nice(int(request["niceness"]))
    if request["memory_mb"] is not None:
        limit = int(request["memory_mb"]) << 20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
