"""A real RTSP server that tests and benchmarks start, kill, stop and start again on the same port."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

_SCRIPT = Path(__file__).with_name("rtsp_server.py")
_START_S = 20.0


def free_port() -> int:
    """A TCP port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RtspServer:
    """``with RtspServer() as server`` serves H.264 on ``server.url``; ``start`` after ``kill`` uses the same port."""

    def __init__(self, width: int = 320, height: int = 240, fps: int = 15, pattern: str = "ball") -> None:
        self.width, self.height, self.fps, self.pattern = width, height, fps, pattern
        self.port = free_port()
        self.process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """Where it is reached, with a user and password (which it does not ask for)."""
        return f"rtsp://operator:s3cret@127.0.0.1:{self.port}/cam"

    def start(self) -> None:
        """Start and wait until it listens."""
        command = [
            "/usr/bin/python3",
            str(_SCRIPT),
            str(self.port),
            str(self.width),
            str(self.height),
            str(self.fps),
            self.pattern,
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if (
                select.select([self.process.stdout], [], [], 0.2)[0]
                and self.process.stdout.readline().strip() == "ready"
            ):
                return
        self.kill()
        raise RuntimeError("the RTSP server did not start: `make test-deps` installs what it needs")

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None

    def freeze(self) -> None:
        """Stop it: connections stay open and say nothing."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def __enter__(self) -> RtspServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class SilentServer:
    """Accepts TCP connections and says nothing, so that a client hangs at open."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.url = f"rtsp://127.0.0.1:{self._socket.getsockname()[1]}/cam"

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
