"""Between agent and broker: passes MQTT packets on, and is where a test looks at them, changes them or cuts."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from tests.tcp_server import TcpServer, read_exactly


class Passage:
    """One connection. ``forth`` gets each packet of the agent, ``back``, in another thread, each of the broker.

    ``connect`` is the body of the CONNECT. An OSError ends the connection.
    """

    def __init__(self, agent: socket.socket, connect: bytes) -> None:
        self.agent, self.connect = agent, connect
        self.level = connect[6]  # after a length and "MQTT": 5, or 4 for 3.1.1
        self.broker: socket.socket

    def forth(self, kind: int, body: bytes, raw: bytes) -> None:
        """``kind`` is the first byte, ``raw`` all bytes."""
        self.broker.sendall(raw)

    def back(self, kind: int, body: bytes, raw: bytes) -> None:
        """The same from the other side."""
        self.agent.sendall(raw)


class Relay:
    """Listens at ``port`` until ``close``, and again after ``open``; ``target`` is the broker's port on this machine."""

    def __init__(self, target: int, host: str = "127.0.0.1") -> None:
        self.target = target
        self._host = host
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._server = TcpServer(self._serve, host)
        self.port = self._server.port

    def admit(self, agent: socket.socket, connect: bytes) -> Passage | None:
        """Who is to look at this connection; None ends it."""
        return Passage(agent, connect)

    def open(self) -> None:
        """Listen at the same port as before."""
        self._server = TcpServer(self._serve, self._host, self.port)

    def close(self) -> None:
        """Listen no more, and end every connection."""
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """End every connection there is."""
        with self._lock:
            cutting = list(self._sockets)
        _end(*cutting)

    def _serve(self, agent: socket.socket) -> None:
        with contextlib.suppress(OSError), self._kept(agent):
            _, connect, raw = read_packet(agent)
            passage = self.admit(agent, connect)
            if passage is not None:
                with socket.create_connection(("127.0.0.1", self.target)) as broker, self._kept(broker):
                    passage.broker = broker
                    broker.sendall(raw)
                    self._run(passage)

    @staticmethod
    def _run(passage: Passage) -> None:
        back = threading.Thread(target=_back, args=(passage,), daemon=True)
        back.start()
        try:
            while True:
                passage.forth(*read_packet(passage.agent))
        finally:
            _end(passage.agent, passage.broker)
            back.join()

    @contextlib.contextmanager
    def _kept(self, sock: socket.socket) -> Iterator[None]:
        with self._lock:
            self._sockets.add(sock)
        try:
            with sock:
                yield
        finally:
            with self._lock:
                self._sockets.discard(sock)


def _back(passage: Passage) -> None:
    with contextlib.suppress(OSError):
        while True:
            passage.back(*read_packet(passage.broker))
    _end(passage.agent, passage.broker)


def _end(*sockets: socket.socket) -> None:
    for sock in sockets:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def read_packet(sock: socket.socket) -> tuple[int, bytes, bytes]:
    """(first byte, body, all bytes) of one control packet (MQTT 5 §2.1)."""
    head = read_exactly(sock, 1)
    length, shift = 0, 0
    while True:
        byte = read_exactly(sock, 1)
        head += byte
        length |= (byte[0] & 0x7F) << shift
        shift += 7
        if not byte[0] & 0x80:
            break
    body = read_exactly(sock, length)
    return head[0], body, head + body
