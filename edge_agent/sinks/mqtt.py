"""MQTT: delivers what the outbox holds, at least once and in order, and tells the world whether the device is there."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from edge_agent.config import MqttConfig
from edge_agent.errors import OutboxError, SinkRejected, SinkUnavailable
from edge_agent.sinks.mqtt_connection import (
    JSON_TYPE,
    NOT_AUTHORISED,
    PACKET_TOO_LARGE,
    PAYLOAD_INVALID,
    SESSION_TAKEN_OVER,
    TOPIC_INVALID,
    UNSUPPORTED_VERSION,
    ClosedUnanswered,
    Connection,
    Refused,
    Version,
    Will,
)
from edge_agent.sinks.mqtt_state import MqttState
from edge_agent.sinks.pump import Pump
from edge_agent.sinks.store import Row, Store
from edge_agent.types import DEVICE, Event, rfc3339, uuid7_factory

log = logging.getLogger(__name__)

_NEVER_TAKEN = {NOT_AUTHORISED, TOPIC_INVALID, PACKET_TOO_LARGE, PAYLOAD_INVALID}
_ACK_S = 60.0
_STABLE_S = 30.0
_LOOK_S = 1.0
_STATUS_BYTES = 1024


class MqttSink:
    """One thread connects, sends and settles; paho's thread does the network. Nothing here blocks a caller but ``stop``.

    A row is acknowledged to the store only on a PUBACK with a success code. Retransmission has one owner, the outbox: each
    connection is a fresh client with a clean start, and when it ends, all that was under way is read from the store again.
    ``on_alarm`` gets an event about the box (``mqtt_session_taken_over``), from the sink's thread.
    """

    def __init__(
        self,
        config: MqttConfig,
        store: Store,
        *,
        site: str,
        device: str,
        boot_id: str,
        version: str,
        on_alarm: Callable[[Event], None],
    ) -> None:
        self._config, self._store, self._on_alarm = config, store, on_alarm
        self._boot_id, self._agent_version = boot_id, version
        self._root = f"edge/v1/{site}/{device}/"
        self._client_id = f"edge-agent-{site}-{device}"
        self._pump = Pump(store)
        self._flying: dict[int, Row | None] = {}
        self._last_progress = 0.0
        self._direct: dict[str, tuple[bytes, bool]] = {}
        self._direct_lock = threading.Lock()
        self._wake = threading.Event()
        self._stop_at: float | None = None
        self._stopped = threading.Event()
        self._connected = False
        self._since: float | None = None
        self._protocol: Version = "5.0"
        self._last_error = ""
        self._told: set[str] = set()
        """What was logged since the last connection: a broker that fails in two ways by turns is no news."""
        self._rival, self._next_alarm = False, 0.0
        self._connects = self._published = self._acked = self._refused = 0
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        store.subscribe(self._wake.set)

    # From any thread

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._thread.start()

    def stop(self, drain_s: float, grace_s: float = 2.5) -> None:
        """Send what the store still holds for at most ``drain_s``, say ``offline``, disconnect; leave off ``grace_s`` later."""
        self._stop_at = time.monotonic() + drain_s
        self._stopped.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(drain_s + grace_s)
            if self._thread.is_alive():  # a resolver that hangs may hold it: it is a daemon and left behind
                log.warning("mqtt: the network holds the connection up, left behind at stop")

    def publish_now(self, topic: str, payload: dict[str, Any] | bytes, retain: bool) -> bool:
        """Send ahead of any backlog; ``topic`` is below the device's root. Latest only: one that was not sent yet is replaced.

        False, and nothing is kept, while not connected.
        """
        if not isinstance(payload, bytes):
            payload = json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode()
        with (
            self._direct_lock
        ):  # or it could slip in after the connection's end was dealt with, and be sent by the next
            if not self._connected:
                return False
            self._direct[topic] = (payload, retain)
        self._wake.set()
        return True

    def state(self) -> MqttState:
        """The state of the moment; cheap."""
        return MqttState(
            connected=self._connected,
            since=self._since,
            last_error=self._last_error,
            protocol=self._protocol if self._connected else "",
            connects=self._connects,
            published=self._published,
            acked=self._acked,
            refused=self._refused,
        )

    # The sink's thread

    def _run(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            began, acked, tried = time.monotonic(), self._acked, self._protocol
            self._rival = False
            try:
                self._session()
            except SinkUnavailable as error:
                self._ended(error)
            except Exception as error:  # a fault of ours must not end delivery for good
                log.exception("mqtt: unexpected fault")
                self._ended(error)
            if self._protocol != tried and tried == "5.0":
                continue  # the older protocol at once
            useful = (self._acked > acked and not self._rival) or time.monotonic() - began > _STABLE_S
            failures = 0 if useful else failures + 1
            # Full jitter: after a common outage the devices must not come back in the same second.
            self._stopped.wait(random.uniform(0.0, min(self._config.reconnect_max_s, 2.0 ** min(failures, 16))))

    def _session(self) -> None:
        connection = Connection(
            self._config,
            self._client_id,
            self._protocol,
            Will(self._root + "status", self._status("offline", time.time())),
            self._wake.set,
        )
        try:
            connection.open(self._stopped.is_set)
            self._begin(connection)
            self._serve(connection)
        except (Refused, ClosedUnanswered) as error:
            too_new = isinstance(error, ClosedUnanswered) or error.code == UNSUPPORTED_VERSION
            self._protocol = "3.1.1" if too_new and self._protocol == "5.0" else "5.0"
            if isinstance(error, Refused) and error.code == SESSION_TAKEN_OVER:
                self._taken_over(str(error))
            raise
        except SinkUnavailable:
            self._protocol = "5.0"
            raise
        finally:
            with self._direct_lock:
                if self._connected:
                    self._connected, self._since = False, time.time()
                self._direct.clear()
            with contextlib.suppress(SinkUnavailable):
                self._settle(connection)
            self._flying.clear()
            self._pump.rewind()
            connection.close()

    def _begin(self, connection: Connection) -> None:
        since = time.time()
        connection.subscribe(self._root + "status")  # before our own is published: shows the one that is there
        self._send(connection, None, "status", self._status("online", since), JSON_TYPE, retain=True)
        self._connected, self._since, self._last_error = True, since, ""
        self._connects += 1
        self._told.clear()
        log.info("mqtt: connected to %s:%d (MQTT %s)", self._config.host, self._config.port, connection.version)

    def _serve(self, connection: Connection) -> None:
        window = min(self._config.in_flight, connection.receive_maximum)
        while True:
            self._settle(connection)
            connection.check()
            self._look_for_rival(connection)
            self._send_direct(connection)
            waiting = self._send_rows(connection, window)
            now = time.monotonic()
            if self._flying and now - self._last_progress > _ACK_S:
                raise SinkUnavailable(f"no PUBACK for {_ACK_S:.0f} s")
            if self._stop_at is not None and (now >= self._stop_at or not (waiting or self._flying)):
                self._goodbye(connection)
                return
            self._wake.wait(_LOOK_S)
            self._wake.clear()

    def _send_direct(self, connection: Connection) -> None:
        while self._direct and len(self._flying) < connection.receive_maximum:
            with self._direct_lock:
                topic = next(iter(self._direct))
                payload, retain = self._direct.pop(topic)
            try:
                self._send(connection, None, topic, payload, JSON_TYPE, retain=retain)
            except SinkRejected as error:
                self._last_error = f"{topic}: {error}"

    def _send_rows(self, connection: Connection, window: int) -> bool:
        """Fill the window; whether there may be more to send."""
        try:
            while len(self._flying) < window:
                row = self._pump.next()
                if row is None:
                    return False
                try:
                    self._send(connection, row, row.topic, row.payload, row.content_type, retain=False)
                    self._published += 1
                except SinkRejected as error:
                    self._refuse(row, PACKET_TOO_LARGE, str(error))
                if self._direct:
                    self._send_direct(connection)
        except OutboxError as error:
            log.debug("mqtt: the outbox cannot be read now: %s", error)
        return True

    def _send(
        self, connection: Connection, row: Row | None, topic: str, payload: bytes, content: str, *, retain: bool
    ) -> None:
        mid = connection.publish(self._root + topic, payload, content, retain=retain)
        if not self._flying:
            self._last_progress = time.monotonic()
        self._flying[mid] = row

    def _settle(self, connection: Connection) -> None:
        """Take in the PUBACKs. Raises SinkUnavailable where the broker cannot take messages for now."""
        done: list[int] = []
        trouble = ""
        for mid, code, reason in connection.acks():
            self._last_progress = time.monotonic()
            row = self._flying.pop(mid, None)
            if row is None:
                if code >= 0x80:
                    self._last_error = f"heartbeat or status refused: {reason}"
            elif code < 0x80:
                done.append(row.row)
            elif code in _NEVER_TAKEN:
                self._refuse(row, code, reason)
            else:
                trouble = reason
        if done:
            self._acked += len(done)
            self._store.acknowledge(done)
        if trouble:  # a new connection sends it again, in order and after a pause
            raise SinkUnavailable(f"the broker cannot take messages now: {trouble}")

    def _refuse(self, row: Row, code: int, reason: str) -> None:
        self._refused += 1
        self._last_error = f"{row.topic} refused: {reason}"
        self._store.refuse(row.row, code, reason)

    def _goodbye(self, connection: Connection) -> None:
        """Retained ``offline`` by our own hand: after a clean DISCONNECT the broker forgets the will."""
        self._send(connection, None, "status", self._status("offline", time.time()), JSON_TYPE, retain=True)
        until = time.monotonic() + 1.0
        while self._flying and time.monotonic() < until:
            self._settle(connection)
            connection.check()
            self._wake.wait(0.02)
            self._wake.clear()

    def _status(self, state: str, since: float) -> bytes:
        doc = {"state": state, "boot_id": self._boot_id, "since": rfc3339(since), "version": self._agent_version}
        return json.dumps(doc, separators=(",", ":")).encode()

    def _ended(self, error: Exception) -> None:
        text = str(error)
        if text not in self._told and len(self._told) < 10:
            self._told.add(text)
            log.warning("mqtt: %s:%d: %s; the outbox keeps what comes", self._config.host, self._config.port, text)
        self._last_error = text
        self._since = self._since or time.time()

    def _look_for_rival(self, connection: Connection) -> None:
        """Once we were connected, the retained status is ours, unless another box has our identity.

        Not every broker says why it ended a connection that was taken over (mosquitto 2.0 does not), but this they all show.
        """
        for _, payload in connection.received():
            try:
                boot_id = json.loads(payload[:_STATUS_BYTES])["boot_id"]
            except (ValueError, TypeError, KeyError, RecursionError):  # anybody may have written it
                continue
            if self._connects > 1 and boot_id != self._boot_id:
                self._taken_over("another client published our status")

    def _taken_over(self, reason: str) -> None:
        """Another client uses our identity (a cloned card). Told once an hour; the pauses grow, so that the two do not race."""
        self._rival = True
        self._last_error = f"a second device uses the identity {self._client_id}: {reason}"
        now = time.monotonic()
        if now < self._next_alarm:
            return
        self._next_alarm = now + 3600.0
        utc = time.time()
        ident = uuid7_factory()(utc)
        data = {"client_id": self._client_id, "reason": reason}
        self._on_alarm(Event(ident, DEVICE, "device", "mqtt_session_taken_over", None, ident, utc, data))
