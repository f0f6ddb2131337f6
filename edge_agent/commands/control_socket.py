"""Commands from this box: a Unix socket that only the agent's own user and root may use. One JSON object a line, each way."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import struct
import threading
from pathlib import Path
from typing import Any

from edge_agent.commands.desk import WORKER_DEADLINE_S, Asked, Desk
from edge_agent.commands.envelope import MAX_ANSWER, MAX_REQUEST, failed
from edge_agent.errors import CommandError

log = logging.getLogger(__name__)

NAME = "control.sock"
MAX_CLIENTS = 8
IDLE_S = 30.0
_MAX_PATH = 107
"""Bytes that the address of a Unix socket has room for (unix(7))."""


class ControlSocket:
    """Listens at ``state_dir/control.sock``; where there is a runtime folder the socket is there, and a link to it here."""

    def __init__(self, state_dir: Path, desk: Desk) -> None:
        self._desk, self._link = desk, state_dir / NAME
        runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        self._path = Path(runtime) / NAME if runtime else self._link
        self._room = threading.BoundedSemaphore(MAX_CLIENTS)
        self._listener: socket.socket | None = None

    def start(self) -> None:
        """Listen in the background. The state folder must be ours: what lies at the path is left over. Never raises."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if len(os.fsencode(self._path)) > _MAX_PATH:
                raise OSError(0, f"its path is longer than {_MAX_PATH} bytes")
            self._remove()
            sock.bind(os.fspath(self._path))
            self._path.chmod(0o600)  # before anybody can connect
            if self._path != self._link:
                self._link.symlink_to(self._path)
            sock.listen(64)
        except OSError as error:
            sock.close()
            log.warning("no control socket at %s: %s", self._path, error.strerror)
            return
        self._listener = sock
        threading.Thread(target=self._accept, args=(sock,), name="control", daemon=True).start()

    def stop(self) -> None:
        """Take no more. Safe to call unstarted."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
            self._remove()

    def _remove(self) -> None:
        for path in {self._path, self._link}:
            with contextlib.suppress(OSError):
                path.unlink()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # closed
                return
            if self._room.acquire(blocking=False):
                threading.Thread(target=self._serve, args=(client,), name="control-client", daemon=True).start()
            else:
                client.close()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, contextlib.suppress(OSError):  # whoever hangs up does not want the answer
                client.settimeout(IDLE_S)
                if (uid := _uid(client)) in {0, os.geteuid()}:
                    self._converse(client)
                else:
                    log.warning("control socket: user %d is refused", uid)
                    error = CommandError("not_allowed", "this socket is for the agent's own user and root")
                    client.sendall(failed("", None, error) + b"\n")
        finally:
            self._room.release()

    def _converse(self, client: socket.socket) -> None:
        with client.makefile("rb") as lines:
            while line := lines.readline(MAX_REQUEST + 2):
                answer = self._answer(line)
                if answer is None:
                    return
                client.sendall(answer + b"\n")
                if not line.endswith(b"\n"):  # too long, or cut off: what follows is no beginning
                    return

    def _answer(self, line: bytes) -> bytes | None:
        """None: there is none yet, and the same id may be asked for again."""
        answers: list[bytes] = []
        answered = threading.Event()

        def reply(answer: bytes) -> None:
            answers.append(answer)
            answered.set()

        self._desk.ask(Asked(None, line.rstrip(b"\n"), "local", reply))
        return answers[0] if answered.wait(WORKER_DEADLINE_S) else None


def _uid(client: socket.socket) -> int:
    """Of whoever connected, as the kernel says (unix(7), SO_PEERCRED)."""
    _, uid, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(uid)


def ask(state_dir: Path, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """Ask the agent that has this state folder. Raises OSError: none is there, it ended before it answered, no answer in time."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        sock.connect(os.fspath(state_dir / NAME))
        sock.sendall(json.dumps(request).encode() + b"\n")
        with sock.makefile("rb") as lines:
            line = lines.readline(2 * MAX_ANSWER)
    if not line.endswith(b"\n"):
        raise ConnectionError("the agent ended before it answered")
    answer: dict[str, Any] = json.loads(line)
    return answer
