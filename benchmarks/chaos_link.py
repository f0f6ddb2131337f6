"""What lies between agent and broker in ``benchmarks.chaos``: it writes down what passes, and delays, stalls, cuts or refuses."""

from __future__ import annotations

import socket
import threading
import time

from benchmarks.chaos_judge import Ledger, identify
from tests.mqtt_relay import Passage, Relay
from tests.mqtt_tap import PUBACK, PUBLISH, decode_publish

_UNAVAILABLE, _QUOTA_EXCEEDED = 0x88, 0x97
_DELAY_S, _SLOW_S = 0.005, 0.1
"""For each packet, in both directions."""


class Link(Relay):
    """Thread-safe. Shut at first, for want of a ``target``, until ``unshut("no broker")``."""

    def __init__(self, host: str) -> None:
        self.sent = Ledger()
        self.acknowledged: set[str] = set()
        """Messages that the broker confirmed, whether or not the agent heard of it."""
        self.repeated: list[str] = []
        """Messages that were sent twice on one connection, or with the DUP mark."""
        self.busy = False
        """Answers with errors instead of PUBACKs; the broker sees nothing of it."""
        self.slow = False
        """A tenth of a second for each packet, where it is else 5 ms."""
        self.swallow = False
        """Ends the connection in place of the next PUBACK: the broker has the message, and the agent cannot know."""
        self._refuse = self._hang_up = False
        self._flow = threading.Event()
        self._flow.set()
        self._shut_for = {"no broker"}
        self._shut_lock = threading.Lock()
        super().__init__(0, host)
        self.close()

    def shut(self, reason: str) -> None:
        """End what is open and refuse TCP connections, until ``unshut`` for every reason."""
        with self._shut_lock:
            if not self._shut_for:
                self.close()
            self._shut_for.add(reason)

    def unshut(self, reason: str) -> None:
        """The reason is over."""
        with self._shut_lock:
            self._shut_for.discard(reason)
            if not self._shut_for:
                self.open()

    def refuse(self) -> None:
        """CONNACKs with an error."""
        self._refuse = True
        self.cut()

    def hang_up(self) -> None:
        """The connection ends instead of a CONNACK."""
        self._hang_up = True
        self.cut()

    def stall(self) -> None:
        """Pass nothing on, close nothing."""
        self._flow.clear()

    def heal(self) -> None:
        """No fault any more, but for the reasons of ``shut``."""
        self.busy = self.slow = self.swallow = self._refuse = self._hang_up = False
        self._flow.set()

    def admit(self, agent: socket.socket, connect: bytes) -> Passage | None:
        """Let in, or answer for the broker."""
        self.hold()
        wire = _Wire(self, agent, connect)
        if self._refuse:
            agent.sendall(bytes([0x20, 3, 0, _UNAVAILABLE, 0] if wire.level == 5 else [0x20, 2, 0, 3]))
        return None if self._refuse or self._hang_up else wire

    def hold(self) -> None:
        """As long as the link's state keeps a packet."""
        time.sleep(_SLOW_S if self.slow else _DELAY_S)
        self._flow.wait()


class _Wire(Passage):
    """One connection through the link."""

    def __init__(self, link: Link, agent: socket.socket, connect: bytes) -> None:
        super().__init__(agent, connect)
        self._link = link
        self._flying: dict[bytes, str] = {}
        self._here: set[str] = set()
        self._busy = False
        self._to_agent = threading.Lock()

    def forth(self, kind: int, body: bytes, raw: bytes) -> None:
        self._link.hold()
        if kind >> 4 == PUBLISH:
            packet_id = self._note(kind, body)
            self._busy = self._busy or (self._link.busy and self.level == 5)
            if self._busy:  # for the rest of the connection, or a later message would overtake
                self._answer(bytes([PUBACK << 4, 3, *packet_id, _QUOTA_EXCEEDED]))
                return
        super().forth(kind, body, raw)

    def _note(self, kind: int, body: bytes) -> bytes:
        message = decode_publish(kind, body, self.level)
        seen = identify(message.topic, message.payload)
        if seen is not None:
            if seen.key in self._here or message.dup:
                self._link.repeated.append(seen.key)
            self._here.add(seen.key)
            self._flying[message.packet_id] = seen.key
            self._link.sent.note(seen)
        return message.packet_id

    def back(self, kind: int, body: bytes, raw: bytes) -> None:
        if kind >> 4 == PUBACK and (key := self._flying.pop(body[:2], None)) and (len(body) == 2 or body[2] < 0x80):
            self._link.acknowledged.add(key)
            if self._link.swallow:
                self._link.swallow = False
                raise ConnectionError
        self._link.hold()
        self._answer(raw)

    def _answer(self, raw: bytes) -> None:
        with self._to_agent:
            self.agent.sendall(raw)
