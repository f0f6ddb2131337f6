"""The MQTT 5 properties of what we send."""

from __future__ import annotations

from typing import Any

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.config_mqtt import MqttConfig
from edge_agent.sinks.mqtt_inbound import MAX_PACKET, RECEIVE_MAXIMUM

_FIXED = 9
"""Bytes of a PUBLISH beside topic, properties and payload: fixed header at its longest, length of the topic, packet id."""


class Contents:
    """Properties of PUBLISH packets, each kind made once. One thread."""

    def __init__(self, config: MqttConfig) -> None:
        self._config = config
        self._made: dict[tuple[str, bool, int], tuple[Properties, int]] = {}

    def of(self, content_type: str, *, retain: bool, alias: int = 0) -> tuple[Properties, int]:
        """(the properties, their size in bytes). ``alias`` 0: none."""
        key = content_type, retain, alias
        if key not in self._made:
            made = _common(self._config, PacketTypes.PUBLISH, content_type)
            # Not for what is retained: the status must not vanish from the broker.
            if self._config.message_expiry_s is not None and not retain:
                made.MessageExpiryInterval = self._config.message_expiry_s
            if alias:
                made.TopicAlias = alias
            packed = made.pack()
            # paho packs them for each message: a third of the work of sending one.
            vars(made)["pack"] = lambda: packed
            self._made[key] = made, len(packed)
        return self._made[key]

    def of_answer(self, content_type: str, correlation: bytes | None) -> tuple[Properties, int]:
        """Of the answer to a message; ``correlation`` is the asker's."""
        made = _common(self._config, PacketTypes.PUBLISH, content_type)
        if correlation is not None:
            made.CorrelationData = correlation
        return made, len(made.pack())

    def of_command(self, expiry_s: int) -> tuple[Properties, int]:
        """Of what must not be late: the broker drops it after ``expiry_s`` (§3.3.2.3.3)."""
        made: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        made.MessageExpiryInterval = expiry_s
        return made, len(made.pack())


def packet_size(topic: str, properties: int, payload: bytes) -> int:
    """Bytes of a PUBLISH at QoS 1, or a few more."""
    return _FIXED + len(topic.encode()) + properties + len(payload)


def of_will(config: MqttConfig, content_type: str) -> Properties:
    """Of the last will."""
    made: Properties = _common(config, PacketTypes.WILLMESSAGE, content_type)
    if config.will_delay_s:
        made.WillDelayInterval = config.will_delay_s
    return made


def of_connect(config: MqttConfig, *, lasting: bool) -> Properties:
    """Of CONNECT; ``lasting``: the session is to outlive the connection."""
    made: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    made.ReceiveMaximum, made.MaximumPacketSize = RECEIVE_MAXIMUM, MAX_PACKET
    if lasting:
        made.SessionExpiryInterval = config.session_expiry_s
    return made  # type: ignore[no-any-return]


def _common(config: MqttConfig, packet: int, content_type: str) -> Any:
    made: Any = Properties(packet)  # type: ignore[no-untyped-call]
    made.ContentType = content_type
    if config.user_properties:
        made.UserProperty = list(config.user_properties.items())
    return made
