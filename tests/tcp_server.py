"""What stand-ins for brokers share: a listener, on a free port of this machine unless told, and reading so many bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable


class TcpServer:
    """Hands each connection to ``serve`` in a thread of its own; who serves closes it."""

    def __init__(self, serve: Callable[[socket.socket], None], host: str = "127.0.0.1", port: int = 0) -> None:
        self._serve = serve
        self._listener = socket.create_server((host, port))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """Raises ConnectionError where the connection ends before."""
    data = b""
    while len(data) < size:
        if not (more := sock.recv(size - len(data))):
            raise ConnectionError
        data += more
    return data
