"""A tap between agent and broker: passes bytes, writes down every PUBLISH of every connection, cuts, or refuses MQTT 5."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.tcp_server import TcpServer, read_exactly


@dataclass
class Published:
    """One PUBLISH from the agent."""

    topic: str
    dup: bool
    payload: bytes
    packet_id: bytes = b""
    on_wire: str = ""
    """The topic as it was sent: empty where an alias stands for it."""
    alias: int = 0


@dataclass
class Wire:
    """One connection: protocol level of its CONNECT, and what was published on it, in order."""

    level: int = 0
    connect: bytes = b""
    """Body of its CONNECT."""
    published: list[Published] = field(default_factory=list)
    peak_unacknowledged: int = 0
    topics: dict[int, str] = field(default_factory=dict)
    """By alias."""
    _unacknowledged: int = 0


class Tap:
    """``refuse_five`` answers an MQTT 5 CONNECT as an old broker does; ``hang_up_on_five`` closes instead."""

    def __init__(self, target: int, *, refuse_five: bool = False, hang_up_on_five: bool = False) -> None:
        self.wires: list[Wire] = []
        self._target, self._refuse, self._hang_up = target, refuse_five, hang_up_on_five
        self._sockets: list[socket.socket] = []
        self._server = TcpServer(self._serve)
        self.port = self._server.port

    def _serve(self, client: socket.socket) -> None:
        wire = Wire()
        self._sockets.append(client)
        with contextlib.suppress(OSError, ConnectionError), client:
            first = read_packet(client)
            wire.connect, wire.level = first[1], first[1][6]  # length, "MQTT", level
            self.wires.append(wire)
            if wire.level == 5 and self._refuse:
                client.sendall(bytes([0x20, 2, 0, 1]))
                return
            if wire.level == 5 and self._hang_up:
                return
            with socket.create_connection(("127.0.0.1", self._target)) as broker:
                self._sockets.append(broker)
                broker.sendall(first[2])
                threading.Thread(target=self._back, args=(broker, client, wire), daemon=True).start()
                while True:
                    kind, body, raw = read_packet(client)
                    if kind >> 4 == 3:
                        message = decode_publish(kind, body, wire.level)
                        if message.alias:
                            message.topic = wire.topics.setdefault(message.alias, message.on_wire)
                        wire.published.append(message)
                        wire._unacknowledged += 1
                        wire.peak_unacknowledged = max(wire.peak_unacknowledged, wire._unacknowledged)
                    broker.sendall(raw)

    @staticmethod
    def _back(broker: socket.socket, client: socket.socket, wire: Wire) -> None:
        with contextlib.suppress(OSError, ConnectionError):
            while True:
                kind, _, raw = read_packet(broker)
                if kind >> 4 == 4:
                    wire._unacknowledged -= 1
                client.sendall(raw)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Break every connection there is."""
        cutting, self._sockets = self._sockets, []
        for sock in cutting:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._server.close()
        self.cut()


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


def decode_publish(kind: int, body: bytes, level: int) -> Published:
    """A QoS 1 PUBLISH (§3.3)."""
    end = 2 + int.from_bytes(body[:2], "big")
    topic, rest, alias = body[2:end].decode(), body[end + 2 :], 0
    if level == 5:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        _, size = properties.unpack(rest)  # type: ignore[no-untyped-call]
        rest, alias = rest[size:], getattr(properties, "TopicAlias", 0)
    return Published(topic, bool(kind & 0x08), rest, body[end : end + 2], topic, alias)
