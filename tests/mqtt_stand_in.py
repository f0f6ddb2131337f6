"""A broker of a hundred lines, for what mosquitto cannot be brought to: it hangs up on messages, or answers with any code."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.mqtt_relay import read_packet
from tests.mqtt_tap import Published, decode_publish
from tests.tcp_server import TcpServer

HANG_UP = -1
_CONNECT, _PUBLISH, _SUBSCRIBE, _PING, _DISCONNECT = 1, 3, 8, 12, 14


@dataclass
class Visit:
    """One connection: its CONNECT, and what was published on it; ``ended`` is the reason of the client's DISCONNECT."""

    connect: bytes
    published: list[Published] = field(default_factory=list)
    peak_unanswered: int = 0
    ended: int | None = None


class StandIn:
    """Speaks MQTT 5 only. ``answer`` gives the reason code for a PUBLISH, ``HANG_UP``, or minus a code to DISCONNECT with.

    ``receive_maximum`` is announced; with ``hold`` answers come only once so many messages wait for one.
    """

    def __init__(
        self, answer: Callable[[Published], int] = lambda _: 0, *, receive_maximum: int = 65535, hold: int = 1
    ) -> None:
        self.visits: list[Visit] = []
        self._answer, self._receive_maximum, self._hold = answer, receive_maximum, hold
        self._server = TcpServer(self._serve)
        self.port = self._server.port

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, ConnectionError), client:
            visit = Visit(read_packet(client)[1])
            self.visits.append(visit)
            # CONNACK (MQTT 5 §3.2): Receive Maximum is property 0x21.
            client.sendall(bytes([0x20, 6, 0, 0, 3, 0x21, *self._receive_maximum.to_bytes(2, "big")]))
            waiting: list[tuple[bytes, int]] = []
            while True:
                head, body, _ = read_packet(client)
                kind = head >> 4
                if kind == _SUBSCRIBE:
                    client.sendall(bytes([0x90, 4, *body[:2], 0, 1]))
                elif kind == _PING:
                    client.sendall(bytes([0xD0, 0]))
                elif kind == _DISCONNECT:
                    visit.ended = body[0] if body else 0
                    return
                elif kind == _PUBLISH and not self._published(client, visit, waiting, decode_publish(head, body, 5)):
                    return

    def _published(
        self, client: socket.socket, visit: Visit, waiting: list[tuple[bytes, int]], message: Published
    ) -> bool:
        """Whether the connection goes on."""
        visit.published.append(message)
        code = self._answer(message)
        if code < 0:
            if code != HANG_UP:
                client.sendall(bytes([0xE0, 1, -code]))
            return False
        waiting.append((message.packet_id, code))
        visit.peak_unanswered = max(visit.peak_unanswered, len(waiting))
        if len(waiting) >= self._hold:
            for packet_id, reason in waiting:
                client.sendall(bytes([0x40, 3, *packet_id, reason]))
            waiting.clear()
        return True

    def close(self) -> None:
        self._server.close()
