"""What lies between agent and broker in ``benchmarks.chaos``: it writes down what passes, and delays, stalls, cuts or refuses."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

from benchmarks.chaos_judge import Ledger, identify
from tests.mqtt_tap import decode_publish, read_packet
from tests.tcp_server import TcpServer

_PUBLISH, _PUBACK = 3, 4
_UNAVAILABLE, _QUOTA_EXCEEDED = 0x88, 0x97


class Link:
    """Thread-safe. ``target`` is the broker's port on this machine. Closed until ``unshut("no broker")``."""

    def __init__(self, host: str) -> None:
        self.target = 0
        self.sent = Ledger()
        self.acknowledged: set[str] = set()
        """Messages that the broker confirmed, whether or not the agent heard of it."""
        self.repeated: list[str] = []
        """Messages that were sent twice on one connection, or with the DUP mark."""
        self._mode = "open"
        self._delay_s = 0.0
        self._flow = threading.Event()
        self._flow.set()
        self._swallow = False
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._closed_for: set[str] = {"no broker"}
        self._host = host
        self._server: TcpServer | None = None
        with socket.create_server((host, 0)) as found:
            self.port = int(found.getsockname()[1])

    # ---- faults

    def shut(self, reason: str) -> None:
        """End what is open and refuse TCP connections, until ``unshut`` for every reason."""
        with self._lock:
            self._closed_for.add(reason)
            if self._server is not None:
                self._server.close()
                self._server = None
        self.cut()

    def unshut(self, reason: str) -> None:
        """The reason is over."""
        with self._lock:
            self._closed_for.discard(reason)
            if not self._closed_for and self._server is None:
                self._server = TcpServer(self._serve, self._host, self.port)

    def cut(self) -> None:
        """End every connection there is."""
        with self._lock:
            cutting = list(self._sockets)
        for sock in cutting:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def cut_at_answer(self) -> None:
        """End the connection in place of the next PUBACK: the broker has the message, and the agent cannot know."""
        self._swallow = True

    def slow(self) -> None:
        """A tenth of a second for each packet, in both directions."""
        self._delay_s = 0.1

    def busy(self) -> None:
        """PUBACKs with an error; the broker sees nothing of it."""
        self._mode = "busy"

    def refuse(self) -> None:
        """CONNACKs with an error."""
        self._mode = "refuse"
        self.cut()

    def hang_up(self) -> None:
        """The connection ends instead of a CONNACK."""
        self._mode = "hang up"
        self.cut()

    def stall(self) -> None:
        """Pass nothing on, close nothing."""
        self._flow.clear()

    def heal(self) -> None:
        """No fault any more, but for the reasons of ``shut``."""
        self._mode, self._delay_s, self._swallow = "open", 0.0, False
        self._flow.set()

    # ---- one connection

    def _serve(self, agent: socket.socket) -> None:
        with self._kept(agent), contextlib.suppress(OSError):
            connect = read_packet(agent)
            self._pass()
            five = connect[1][6] == 5  # length, "MQTT", level
            if self._mode == "refuse":
                agent.sendall(bytes([0x20, 3, 0, _UNAVAILABLE, 0] if five else [0x20, 2, 0, 3]))
            elif self._mode != "hang up":
                with socket.create_connection(("127.0.0.1", self.target)) as broker, self._kept(broker):
                    _Wire(self, agent, broker, five).run(connect[2])

    @contextlib.contextmanager
    def _kept(self, sock: socket.socket) -> Iterator[None]:
        with self._lock:
            self._sockets.add(sock)
        try:
            yield
        finally:
            with self._lock:
                self._sockets.discard(sock)
            sock.close()

    def _pass(self) -> None:
        if self._delay_s:
            time.sleep(self._delay_s)
        self._flow.wait()

    def swallows(self) -> bool:
        """Whether this PUBACK is the one that ``cut_at_answer`` meant; true once."""
        with self._lock:
            swallow, self._swallow = self._swallow, False
            return swallow


class _Wire:
    """One connection through the link, in two threads."""

    def __init__(self, link: Link, agent: socket.socket, broker: socket.socket, five: bool) -> None:
        self._link, self._agent, self._broker, self._five = link, agent, broker, five
        self._flying: dict[bytes, str] = {}
        self._here: set[str] = set()
        self._busy = False
        self._to_agent = threading.Lock()

    def run(self, connect: bytes) -> None:
        self._broker.sendall(connect)
        back = threading.Thread(target=self._back, daemon=True)
        back.start()
        try:
            self._forth()
        finally:
            for sock in (self._agent, self._broker):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            back.join()

    def _forth(self) -> None:
        while True:
            kind, body, raw = read_packet(self._agent)
            self._link._pass()
            if kind >> 4 == _PUBLISH:
                packet_id = self._note(kind, body)
                self._busy = self._busy or (self._link._mode == "busy" and self._five)
                if self._busy:  # for the rest of the connection, or a later message would overtake
                    self._answer(bytes([0x40, 3, *packet_id, _QUOTA_EXCEEDED]))
                    continue
            self._broker.sendall(raw)

    def _note(self, kind: int, body: bytes) -> bytes:
        message = decode_publish(kind, body, 5 if self._five else 4)
        seen = identify(message.topic, message.payload)
        if seen is not None:
            if seen.key in self._here or message.dup:
                self._link.repeated.append(seen.key)
            self._here.add(seen.key)
            self._flying[message.packet_id] = seen.key
            self._link.sent.note(seen)
        return message.packet_id

    def _answer(self, raw: bytes) -> None:
        with self._to_agent:
            self._agent.sendall(raw)

    def _back(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                kind, body, raw = read_packet(self._broker)
                if kind >> 4 == _PUBACK:
                    key = self._flying.pop(body[:2], None)
                    if key is not None and (len(body) == 2 or body[2] < 0x80):
                        self._link.acknowledged.add(key)
                        if self._link.swallows():
                            break
                self._link._pass()
                self._answer(raw)
        for sock in (self._agent, self._broker):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
