"""One MQTT connection: a fresh paho client that never reconnects, so that nothing it holds can be sent a second time."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.config import MqttConfig, read_secret
from edge_agent.errors import ConfigError, SinkError, SinkRejected, SinkUnavailable

log = logging.getLogger(__name__)

Version = Literal["5.0", "3.1.1"]
CONNECT_S = 10.0
JSON_TYPE = "application/json"
PASSWORD_VARIABLE = "EDGE_AGENT_MQTT_PASSWORD"  # noqa: S105 - its name, not the password
UNSUPPORTED_VERSION = 132
SESSION_TAKEN_OVER = 142
NOT_AUTHORISED = 135
TOPIC_INVALID = 144
PACKET_TOO_LARGE = 149
PAYLOAD_INVALID = 153
_OVERHEAD = 64  # header, ids, properties of a PUBLISH beside topic and payload


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes, retained, when the connection breaks."""

    topic: str
    payload: bytes


class Refused(SinkUnavailable):
    """The broker answered CONNECT with a refusal, or ended the connection with a reason."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class Connection:
    """Made, opened, used and closed by one thread; paho's own thread does the network and only appends to queues here.

    ``wake`` is called from paho's thread whenever there is something to look at.
    """

    def __init__(
        self, config: MqttConfig, client_id: str, version: Version, will: Will, wake: Callable[[], None]
    ) -> None:
        self._config, self._wake, self.version = config, wake, version
        self.receive_maximum = 65535
        """Unacknowledged messages that the broker takes at once (MQTT 5 §3.2.2.3.3)."""
        self._max_packet = 268_435_455
        self._acks: deque[tuple[int, int, str]] = deque()
        self._received: deque[tuple[str, bytes]] = deque(maxlen=100)
        self._answered = threading.Event()
        self._connected = False
        self._lost: SinkError | None = None
        self._down = threading.Event()
        self._properties: dict[str, Properties] = {}
        five = version == "5.0"
        self._client = client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=None if five else True,
            protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_S
        client.max_inflight_messages_set(65535)  # the window is ours; paho must never hold a message back
        client.will_set(will.topic, will.payload, qos=1, retain=True, properties=self._content(JSON_TYPE, will=True))
        secret = password(config)
        if config.username is not None or secret is not None:
            client.username_pw_set(config.username or "", secret)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_socket_open = _no_delay

    def open(self, stopping: Callable[[], bool]) -> None:
        """Connect and wait for CONNACK. Raises SinkUnavailable, Refused. May block as long as the resolver does."""
        try:
            # MQTT 5: clean start and, without the property, session expiry 0: the broker keeps nothing either.
            self._client.connect(self._config.host, self._config.port, self._config.keepalive_s)
        except (OSError, ValueError, paho.WebsocketConnectionError) as error:
            raise SinkUnavailable(f"cannot connect: {_text(error)}") from error
        self._client.loop_start()
        until = time.monotonic() + CONNECT_S
        while not self._answered.wait(0.2):
            if time.monotonic() > until or stopping():
                raise SinkUnavailable("no answer to CONNECT")
        self.check()

    def check(self) -> None:
        """Raise what ended the connection, if it ended."""
        if self._lost is not None:
            raise self._lost

    def publish(self, topic: str, payload: bytes, content_type: str, *, retain: bool) -> int:
        """Send at QoS 1; the packet id. Raises SinkUnavailable, SinkRejected (this message can never be sent)."""
        if len(topic) + len(payload) + _OVERHEAD > self._max_packet:
            raise SinkRejected(f"larger than the broker's maximum packet of {self._max_packet} bytes")
        try:
            info = self._client.publish(topic, payload, qos=1, retain=retain, properties=self._content(content_type))
        except ValueError as error:
            raise SinkRejected(str(error)) from error
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self.check()
            raise SinkUnavailable(paho.error_string(info.rc))
        return info.mid

    def subscribe(self, topic: str) -> None:
        """Ask for a topic; a broker that denies it is not an error here."""
        self._client.subscribe(topic, qos=1)

    def received(self) -> list[tuple[str, bytes]]:
        """Messages since the last call: (topic, payload); only the newest hundred are kept."""
        taken = []
        while self._received:
            taken.append(self._received.popleft())
        return taken

    def acks(self) -> list[tuple[int, int, str]]:
        """PUBACKs since the last call: (packet id, reason code, its name)."""
        taken = []
        while self._acks:
            taken.append(self._acks.popleft())
        return taken

    def close(self) -> None:
        """DISCONNECT where that is possible, then end paho's thread, whatever the network does."""
        if self._connected and self._lost is None:
            self._client.disconnect()
            self._down.wait(1.0)
        sock: Any = self._client.socket()
        if sock is not None:  # paho's thread ends by itself once its socket is at an end
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._client.loop_stop()

    def _content(self, content_type: str, *, will: bool = False) -> Properties | None:
        if self.version != "5.0":
            return None
        key = f"will:{content_type}" if will else content_type
        if key not in self._properties:
            made = Properties(PacketTypes.WILLMESSAGE if will else PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            made.ContentType = content_type
            self._properties[key] = made
        return self._properties[key]

    # paho's thread

    def _on_connect(self, _client: paho.Client, _userdata: Any, _flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._lost = Refused(f"broker refused: {reason}", reason.value)
        else:
            self.receive_maximum = getattr(properties, "ReceiveMaximum", self.receive_maximum)
            self._max_packet = getattr(properties, "MaximumPacketSize", self._max_packet)
            if getattr(properties, "MaximumQoS", 1) < 1:
                self._lost = SinkUnavailable("the broker takes QoS 0 only, which cannot tell what arrived")
            else:
                self._connected = True
        self._answered.set()
        self._wake()

    def _on_disconnect(self, _client: paho.Client, _userdata: Any, flags: Any, reason: Any, _properties: Any) -> None:
        if self._lost is None:
            if flags.is_disconnect_packet_from_server:
                self._lost = Refused(f"broker ended the connection: {reason}", reason.value)
            elif self._connected:
                self._lost = SinkUnavailable(f"connection lost: {reason}")
            else:
                self._lost = ClosedUnanswered("connection closed instead of an answer to CONNECT")
        self._down.set()
        self._answered.set()
        self._wake()

    def _on_publish(self, _client: paho.Client, _userdata: Any, mid: int, reason: Any, _properties: Any) -> None:
        # paho holds a lock here that ``publish`` needs: only leave a note, never wait.
        self._acks.append((mid, reason.value, str(reason)))
        self._wake()

    def _on_message(self, _client: paho.Client, _userdata: Any, message: paho.MQTTMessage) -> None:
        self._received.append((message.topic, bytes(message.payload)))
        self._wake()


class ClosedUnanswered(SinkUnavailable):
    """The way some brokers refuse a protocol version."""


def password(config: MqttConfig) -> str | None:
    """Read anew for every connection, so that it can be changed. Raises SinkUnavailable."""
    try:
        return read_secret(config.password_file, PASSWORD_VARIABLE)
    except ConfigError as error:
        raise SinkUnavailable(str(error)) from error


def _text(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _no_delay(_client: paho.Client, _userdata: Any, sock: Any) -> None:
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
