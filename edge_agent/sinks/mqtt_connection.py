"""One MQTT connection: a fresh paho client that never reconnects, so that nothing it holds can be sent a second time."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties

from edge_agent.config import read_secret
from edge_agent.config_mqtt import Address, MqttConfig
from edge_agent.errors import ConfigError, SinkError, SinkRejected, SinkUnavailable
from edge_agent.sinks.mqtt_inbound import Inbound, Mailbox
from edge_agent.sinks.mqtt_outcome import KEEP_ALIVE_TIMEOUT, UNSPECIFIED, UNSUPPORTED_VERSION
from edge_agent.sinks.mqtt_properties import Contents, of_connect, of_will, packet_size
from edge_agent.tls import TlsContext, explain, make_context, problems, stamp, warnings

Version = Literal["5.0", "3.1.1"]
CONNECT_S = 10.0
JSON_TYPE = "application/json"
PASSWORD_VARIABLE = "EDGE_AGENT_MQTT_PASSWORD"  # noqa: S105 - its name, not the password
_REASON_CHARS = 200


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes at QoS 1 when the connection breaks."""

    topic: str
    payload: bytes
    retain: bool = True
    content_type: str = JSON_TYPE


class Refused(SinkUnavailable):
    """The broker answered CONNECT with a refusal, or ended the connection with a reason."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class Unreached(SinkUnavailable):
    """There was nothing to send CONNECT over."""


class HungUp(SinkUnavailable):
    """The connection was there, and its other end is gone without a word."""

    code = UNSPECIFIED


class ClosedUnanswered(SinkUnavailable):
    """The way some brokers refuse a protocol version."""


class Connection:
    """Made, opened, used and closed by one thread; paho's own thread does the network and only appends to queues here.

    ``wake`` is called from paho's thread whenever there is something to look at. Without a ``will`` it is a visit: the
    broker keeps nothing of it. Raises SinkUnavailable where password or certificates cannot be read.
    """

    def __init__(
        self,
        config: MqttConfig,
        address: Address,
        client_id: str,
        version: Version,
        wake: Callable[[], None],
        *,
        will: Will | None = None,
    ) -> None:
        self._config, self._wake, self.address, self.version = config, wake, address, version
        self.receive_maximum = 65535
        """Unacknowledged messages that the broker takes at once (MQTT 5 §3.2.2.3.3)."""
        self._max_packet = 268_435_455
        self._alias_maximum = 0
        self._aliases: dict[str, int] = {}
        self._acks: deque[tuple[int, int, str]] = deque()
        self._mailbox = Mailbox()
        self._answered = threading.Event()
        self._connected = False
        self._lost: SinkError | None = None
        self._down = threading.Event()
        self._contents = Contents(config)
        self._tls = _tls_context(config)
        self._five = version == "5.0"
        # A session that is to outlive the connection is gone on with: else its will would be sent at each reconnect.
        self._lasting = self._five and will is not None and config.session_expiry_s > 0
        self._stamp = () if config.tls is None else stamp(config.tls)
        self._client = self._make_client(client_id, will)

    def _make_client(self, client_id: str, will: Will | None) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=None if self._five else True,
            protocol=MQTTProtocolVersion.MQTTv5 if self._five else MQTTProtocolVersion.MQTTv311,
            transport="websockets" if self._config.websocket_path else "tcp",
            reconnect_on_failure=False,
            manual_ack=True,  # a command is confirmed once it is on disk
        )
        client.connect_timeout = CONNECT_S
        client.max_inflight_messages_set(65535)  # the window is ours; paho must never hold a message back
        if will is not None:
            properties = of_will(self._config, will.content_type) if self._five else None
            client.will_set(will.topic, will.payload, qos=1, retain=will.retain, properties=properties)
        secret = password(self._config)
        if self._config.username is not None or secret is not None:
            client.username_pw_set(self._config.username or "", secret)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        if self._config.websocket_path:
            client.ws_set_options(self._config.websocket_path)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_socket_open = _no_delay
        return client

    def open(self, stopping: Callable[[], bool]) -> None:
        """Connect and wait for CONNACK. Raises SinkUnavailable, Unreached, Refused. May block as long as the resolver does."""
        options: dict[str, Any] = {}
        if self._five:
            options["clean_start"] = not self._lasting
            options["properties"] = of_connect(self._config, lasting=self._lasting)
        try:
            self._client.connect(self.address.host, self.address.port, self._config.keepalive_s, **options)
        except (OSError, ValueError) as error:
            if self._tls is not None and self._tls.opened is not None:
                self._tls.opened.close()  # paho leaves it open where a handshake failed
            raise Unreached(f"cannot connect: {self._dated(self._text(error))}") from error
        self._client.loop_start()
        until = time.monotonic() + CONNECT_S
        while not self._answered.wait(0.2):
            if time.monotonic() > until or stopping():
                raise SinkUnavailable("no answer to CONNECT")
        self.check()

    def _text(self, error: Exception) -> str:
        if isinstance(error, ssl.SSLError) or (self._tls is not None and isinstance(error, ConnectionResetError)):
            return explain(error)
        if isinstance(error, paho.WebsocketConnectionError):
            return f"no WebSocket for MQTT there; correct websocket_path or the port ({error})"
        return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__

    def _dated(self, text: str) -> str:
        """With what is wrong with the dates of our certificates: the broker may not say it."""
        told = [] if self._config.tls is None else warnings(self._config.tls, time.time())
        return "; ".join([text, *(f"mqtt.tls.{key}: {trouble}" for key, trouble in told)])

    @property
    def renewed(self) -> bool:
        """Whether another certificate of ours is there than the one that was shown, and is fit to be shown."""
        tls = self._config.tls
        return tls is not None and stamp(tls) != self._stamp and not any(problems(tls))

    def check(self) -> None:
        """Raise what ended the connection, if it ended."""
        if self._lost is not None:
            raise self._lost

    def publish(self, topic: str, payload: bytes, content_type: str, *, retain: bool) -> int:
        """Send at QoS 1; the packet id. Raises SinkUnavailable, SinkRejected (this message can never be sent)."""
        alias = self._alias(topic)
        on_wire = "" if topic in self._aliases else topic
        properties, size = self._contents.of(content_type, retain=retain, alias=alias)
        mid = self._publish(on_wire, payload, properties, size, retain=retain)
        if alias:
            self._aliases[topic] = alias
        return mid

    def answer(self, topic: str, payload: bytes, content_type: str, correlation: bytes | None) -> int:
        """Send an answer, with the ``correlation`` of what was asked; otherwise like ``publish``."""
        properties, size = self._contents.of_answer(content_type, correlation)
        return self._publish(topic, payload, properties, size, retain=False)

    def command(self, topic: str, payload: bytes, expiry_s: int) -> int:
        """Send what must not be late; otherwise like ``publish``. SinkRejected also from a broker that knows no expiry."""
        if not self._five:
            raise SinkRejected("broker_too_old")
        properties, size = self._contents.of_command(expiry_s)
        return self._publish(topic, payload, properties, size, retain=False)

    def abandon(self) -> None:
        """What the kernel still holds for the other side is thrown away when the connection closes, and not sent after all."""
        with contextlib.suppress(OSError), _raw(self._client.socket()) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def send(self, topic: str, payload: bytes) -> None:
        """Send at QoS 0: nothing tells whether it arrives. Raises SinkUnavailable."""
        info = self._client.publish(topic, payload, qos=0)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self.check()
            raise SinkUnavailable(paho.error_string(info.rc))

    def _publish(self, on_wire: str, payload: bytes, properties: Properties | None, size: int, *, retain: bool) -> int:
        if not self._five:
            properties, size = None, 0
        if packet_size(on_wire, size, payload) > self._max_packet:
            raise SinkRejected(f"larger than the broker's maximum packet of {self._max_packet} bytes")
        try:
            info = self._client.publish(on_wire, payload, qos=1, retain=retain, properties=properties)
        except ValueError as error:
            raise SinkRejected(str(error)) from error
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self.check()
            raise SinkUnavailable(paho.error_string(info.rc))
        return info.mid

    def _alias(self, topic: str) -> int:
        """The topic's number on this connection, a new one where there is room, else 0 (MQTT 5 §3.3.2.3.4)."""
        if not self._config.topic_alias:
            return 0
        return self._aliases.get(topic) or (len(self._aliases) + 1 if len(self._aliases) < self._alias_maximum else 0)

    def subscribe(self, topic: str, qos: int = 1) -> None:
        """Ask for a topic; a broker that denies it is not an error here."""
        self._client.subscribe(topic, qos=qos)

    def received(self) -> list[Inbound]:
        """Messages since the last call; each is to be confirmed."""
        return self._mailbox.take()

    def confirm(self, message: Inbound) -> None:
        """The broker need not send it again."""
        self._client.ack(message.packet_id, message.qos)

    def acks(self) -> list[tuple[int, int, str]]:
        """PUBACKs since the last call: (packet id, reason code, the name of one that is an error)."""
        taken = []
        while self._acks:
            taken.append(self._acks.popleft())
        return taken

    def close(self, *, politely: bool = True) -> None:
        """DISCONNECT where that is possible, then end paho's thread, whatever the network does.

        Not ``politely``: without DISCONNECT, so that the broker publishes the will.
        """
        if politely and self._connected and self._lost is None:
            self._client.disconnect()
            self._down.wait(1.0)
        # paho's thread ends by itself once its socket is at an end.
        with contextlib.suppress(OSError), _raw(self._client.socket()) as sock:
            sock.shutdown(socket.SHUT_RDWR)
        self._client.loop_stop()
        # Without a cycle it goes at once, with the two sockets that paho keeps to the end.
        self._client.on_connect = self._client.on_disconnect = None
        self._client.on_publish = self._client.on_message = None

    # paho's thread

    def _on_connect(self, _client: paho.Client, _userdata: Any, _flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._lost = Refused(f"broker refused: {_reason(reason, properties)}", reason.value)
        else:
            self.receive_maximum = getattr(properties, "ReceiveMaximum", self.receive_maximum)
            self._max_packet = getattr(properties, "MaximumPacketSize", self._max_packet)
            self._alias_maximum = getattr(properties, "TopicAliasMaximum", 0)
            if getattr(properties, "MaximumQoS", 1) < 1:
                self._lost = SinkUnavailable("the broker takes QoS 0 only, which cannot tell what arrived")
            else:
                self._connected = True
        self._answered.set()
        self._wake()

    def _on_disconnect(self, _client: paho.Client, _userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if self._lost is None:
            if flags.is_disconnect_packet_from_server:
                text = f"broker ended the connection: {_reason(reason, properties)}"
                self._lost = Refused(text, reason.value)
            elif self._connected:
                silent = reason.value == KEEP_ALIVE_TIMEOUT
                self._lost = SinkUnavailable("no answer to a ping") if silent else HungUp("the other end hung up")
            elif self._tls is not None and self._tls.trouble:
                self._lost = SinkUnavailable(self._dated(self._tls.trouble))
            else:
                text = "connection closed instead of an answer to CONNECT"
                hint = "; does it accept our certificate?" if self._tls is not None else ""
                self._lost = ClosedUnanswered(self._dated(text + hint))
        self._down.set()
        self._answered.set()
        self._wake()

    def _on_publish(self, _client: paho.Client, _userdata: Any, mid: int, reason: Any, _properties: Any) -> None:
        # paho holds a lock here that ``publish`` needs: only leave a note, never wait.
        self._acks.append((mid, reason.value, str(reason) if reason.is_failure else ""))
        self._wake()

    def _on_message(self, _client: paho.Client, _userdata: Any, message: paho.MQTTMessage) -> None:
        self._mailbox.put(message)
        self._wake()


def too_new(error: SinkUnavailable) -> bool:
    """Whether this is how a broker that does not know MQTT 5 answers."""
    return isinstance(error, ClosedUnanswered) or (isinstance(error, Refused) and error.code == UNSUPPORTED_VERSION)


def password(config: MqttConfig) -> str | None:
    """Read anew for every connection, so that it can be changed. Raises SinkUnavailable."""
    try:
        return read_secret(config.password_file, PASSWORD_VARIABLE)
    except ConfigError as error:
        raise SinkUnavailable(str(error)) from error


def _tls_context(config: MqttConfig) -> TlsContext | None:
    if config.tls is None:
        return None
    try:
        return make_context(config.tls, "mqtt.tls")
    except ConfigError as error:
        raise SinkUnavailable("; ".join(error.problems)) from error


def _reason(reason: Any, properties: Any) -> str:
    """The reason code's name, and what the broker has to say about it."""
    said = "".join(c for c in str(getattr(properties, "ReasonString", "")) if c.isprintable())[:_REASON_CHARS]
    return f"{reason} ({said})" if said else str(reason)


@contextlib.contextmanager
def _raw(sock: Any) -> Iterator[socket.socket]:
    """The TCP socket below TLS and WebSocket. Raises OSError."""
    if sock is None:
        raise OSError("not connected")
    with socket.socket(fileno=os.dup(sock.fileno())) as raw:
        yield raw


def _no_delay(_client: paho.Client, _userdata: Any, sock: Any) -> None:
    with contextlib.suppress(OSError), _raw(sock) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
