"""A tap between agent and broker: passes bytes, writes down every PUBLISH of every connection, cuts, or refuses MQTT 5."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.mqtt_relay import Passage, Relay

PUBLISH, PUBACK = 3, 4
"""The high half of a packet's first byte (MQTT 5 §2.1.2)."""


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


class Wire(Passage):
    """One connection: what was published on it, in order."""

    def __init__(self, agent: socket.socket, connect: bytes) -> None:
        super().__init__(agent, connect)
        self.published: list[Published] = []
        self.peak_unacknowledged = self._unacknowledged = 0
        self._topics: dict[int, str] = {}
        """By alias."""

    def forth(self, kind: int, body: bytes, raw: bytes) -> None:
        if kind >> 4 == PUBLISH:
            message = decode_publish(kind, body, self.level)
            if message.alias:
                message.topic = self._topics.setdefault(message.alias, message.on_wire)
            self.published.append(message)
            self._unacknowledged += 1
            self.peak_unacknowledged = max(self.peak_unacknowledged, self._unacknowledged)
        super().forth(kind, body, raw)

    def back(self, kind: int, body: bytes, raw: bytes) -> None:
        if kind >> 4 == PUBACK:
            self._unacknowledged -= 1
        super().back(kind, body, raw)


class Tap(Relay):
    """``refuse_five`` answers an MQTT 5 CONNECT as an old broker does; ``hang_up_on_five`` closes instead."""

    def __init__(self, target: int, *, refuse_five: bool = False, hang_up_on_five: bool = False) -> None:
        self.wires: list[Wire] = []
        self._refuse, self._hang_up = refuse_five, hang_up_on_five
        super().__init__(target)

    def admit(self, agent: socket.socket, connect: bytes) -> Wire | None:
        wire = Wire(agent, connect)
        self.wires.append(wire)
        if wire.level == 5 and self._refuse:
            agent.sendall(bytes([0x20, 2, 0, 1]))
        return None if wire.level == 5 and (self._refuse or self._hang_up) else wire


def decode_publish(kind: int, body: bytes, level: int) -> Published:
    """A QoS 1 PUBLISH (§3.3)."""
    end = 2 + int.from_bytes(body[:2], "big")
    topic, rest, alias = body[2:end].decode(), body[end + 2 :], 0
    if level == 5:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        _, size = properties.unpack(rest)  # type: ignore[no-untyped-call]
        rest, alias = rest[size:], getattr(properties, "TopicAlias", 0)
    return Published(topic, bool(kind & 0x08), rest, body[end : end + 2], topic, alias)
