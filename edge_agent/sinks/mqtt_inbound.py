"""What a broker sends to us: held between paho's thread and the sink's, bounded, and given to whoever listens."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho

log = logging.getLogger(__name__)

MAX_PACKET = 262_144
"""Bytes of the largest packet we take; an MQTT 5 broker is told (§3.1.2.11.4)."""
RECEIVE_MAXIMUM = 50
"""Messages at QoS 1 that a broker may have under way to us (§3.1.2.11.3)."""
_HELD = 200


@dataclass(frozen=True, slots=True)
class Inbound:
    """One message. ``response_topic`` and ``correlation`` say where and how an answer is wanted (MQTT 5 §4.10), if at all.

    ``expiry_s`` is what was left of its life when the broker passed it on, None where it has no end.
    """

    topic: str
    payload: bytes
    retained: bool = False
    response_topic: str | None = None
    correlation: bytes | None = None
    expiry_s: int | None = None
    qos: int = 0
    packet_id: int = 0


@dataclass(frozen=True, slots=True)
class Listener:
    """Wants the messages that fit ``topic``, a whole topic filter.

    ``on_message`` is called by the sink's thread, so it must be quick. At QoS 1 the message is confirmed to the broker once
    it returned; what it raises is logged, and the message is confirmed all the same, or it would come for ever.
    """

    topic: str
    on_message: Callable[[Inbound], None]
    qos: int = 1


class Mailbox:
    """Filled by paho's thread, emptied by the sink's."""

    def __init__(self) -> None:
        self._held: deque[Inbound] = deque()

    def put(self, message: paho.MQTTMessage) -> None:
        """Keep it. A flood at QoS 0 is cut off; at QoS 1 it bounds itself, as nothing is confirmed before it was read."""
        if len(message.payload) > MAX_PACKET or (message.qos == 0 and len(self._held) >= _HELD):
            log.debug("mqtt: dropped a message of %d bytes on %s", len(message.payload), message.topic)
            return
        said: Any = message.properties
        self._held.append(
            Inbound(
                message.topic,
                bytes(message.payload),
                message.retain,
                getattr(said, "ResponseTopic", None),
                getattr(said, "CorrelationData", None),
                getattr(said, "MessageExpiryInterval", None),
                message.qos,
                message.mid,
            )
        )

    def take(self) -> list[Inbound]:
        """All that came since the last call, in order."""
        taken = []
        while self._held:
            taken.append(self._held.popleft())
        return taken


def give(message: Inbound, listeners: Sequence[Listener]) -> None:
    """To each listener it is for."""
    for listener in listeners:
        if paho.topic_matches_sub(listener.topic, message.topic):
            try:
                listener.on_message(message)
            except Exception:  # whoever wrote the message must not end delivery
                log.exception("mqtt: a message on %s cannot be dealt with", message.topic)
