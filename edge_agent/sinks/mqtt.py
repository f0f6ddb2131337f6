"""MQTT: delivers what the outbox holds, at least once and in order, and tells the world whether the device is there."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edge_agent.config_mqtt import Address, MqttConfig
from edge_agent.errors import OutboxError, SinkRejected, SinkUnavailable
from edge_agent.sinks.mqtt_brokers import Brokers
from edge_agent.sinks.mqtt_connection import JSON_TYPE, Connection, HungUp, Refused, Version, Will, too_new
from edge_agent.sinks.mqtt_direct import Ahead, Direct
from edge_agent.sinks.mqtt_farewell import Farewell
from edge_agent.sinks.mqtt_identity import Identity
from edge_agent.sinks.mqtt_inbound import Listener, give
from edge_agent.sinks.mqtt_outcome import (
    NO_SUBSCRIBERS,
    PACKET_TOO_LARGE,
    SESSION_TAKEN_OVER,
    Outcome,
    may_be_about_a_message,
    outcome,
)
from edge_agent.sinks.mqtt_state import MqttState
from edge_agent.sinks.mqtt_suspects import Suspects
from edge_agent.sinks.pump import Pump
from edge_agent.sinks.store import Row, Store
from edge_agent.types import Event, Heartbeat

log = logging.getLogger(__name__)

_ACK_S = 60.0
_STABLE_S = 30.0
_LOOK_S = 1.0
_PROMPT_S = 10.0
"""A broker that does not like a message hangs up within this time."""


def wants(row: Row) -> bool:
    """All but the copies of heartbeats: MQTT gets those directly, and never late."""
    return row.topic != Heartbeat.topic


class MqttSink:
    """One thread connects, sends and settles; paho's thread does the network. Nothing here blocks a caller but ``stop``.

    A row is acknowledged to the store only on a PUBACK with a success code. Retransmission has one owner, the outbox: each
    connection is a fresh client, and when it ends, all that was under way is read from the store again.
    ``on_alarm`` gets an event about the box (``mqtt_session_taken_over``), from the sink's thread; ``listeners`` get what the
    broker sends.
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
        listeners: Sequence[Listener] = (),
    ) -> None:
        self._config, self._store, self._listeners = config, store, listeners
        self._root = f"edge/v1/{site}/{device}/"
        self._client_id = config.client_id or f"edge-agent-{site}-{device}"
        self._identity = Identity(boot_id, version, self._client_id, on_alarm)
        self._brokers = Brokers(config)
        self._known: set[Address] = set()
        """Brokers that we were connected to before: what they hold as our status is of this run."""
        self._farewell = Farewell(
            config, self._client_id, self._root + "status", lambda since: self._identity.status("offline", since)
        )
        self._pump, self._suspects = Pump(store), Suspects()
        self._flying: dict[int, Row | Direct] = {}
        self._last_progress = self._last_sent = 0.0
        self._answered = False
        self._ahead = Ahead()
        self._wake = threading.Event()
        self._stop_at: float | None = None
        self._stopped = threading.Event()
        self._connected = False
        self._since: float | None = None
        self._protocol: Version = "5.0"
        self._last_error = ""
        self._told: set[str] = set()
        """What was logged since the last connection: a broker that fails in two ways by turns is no news."""
        self._rival = False
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
        self._farewell.stop()
        if self._thread.ident is not None:
            self._thread.join(drain_s + grace_s)
            if self._thread.is_alive():  # a resolver that hangs may hold it: it is a daemon and left behind
                log.warning("mqtt: the network holds the connection up, left behind at stop")

    def publish_now(self, topic: str, payload: Mapping[str, Any] | bytes, retain: bool) -> bool:
        """Send ahead of any backlog; ``topic`` is below the device's root. Latest only: one that was not sent yet is replaced.

        False, and nothing is kept, while not connected.
        """
        if not isinstance(payload, bytes):
            payload = json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode()
        return self._put(Direct(self._root + topic, payload, retain))

    def retain(self, topic: str, payload: bytes, done: Callable[[str], None]) -> bool:
        """Send to ``topic``, a whole one, retained, ahead of any backlog; empty: what the broker keeps there goes. JSON.

        False, and nothing is kept, while not connected. ``done`` is called by the sink's thread with the reason of a
        refusal, "" once the broker took it; not at all where the connection ended before.
        """
        return self._put(Direct(topic, payload, retain=True, done=done))

    def answer(self, topic: str, payload: bytes, correlation: bytes | None) -> bool:
        """Send to ``topic``, a whole one, ahead of any backlog; JSON. False, and nothing is kept, while not connected."""
        return self._put(Direct(topic, payload, answer=True, correlation=correlation))

    def command(self, topic: str, payload: bytes, expiry_s: int, done: Callable[[str], None]) -> bool:
        """Send to ``topic``, a whole one, now or never. False, and nothing is kept, while not connected.

        ``done`` is called by the sink's thread: "" once the broker has it; ``nobody_listens``, ``broker_too_old``, or why it
        refuses. Where it does not confirm within ``expiry_s``, the connection is broken, so that nothing on its way arrives.
        """
        return self._put(Direct(topic, payload, done=done, until=time.monotonic() + expiry_s, expiry_s=expiry_s))

    def _put(self, message: Direct) -> bool:
        if not self._ahead.put(message):
            return False
        self._wake.set()
        return True

    def state(self) -> MqttState:
        """The state of the moment; cheap."""
        return MqttState(
            connected=self._connected,
            since=self._since,
            last_error=self._last_error,
            address=str(self._brokers.current),
            protocol=self._protocol if self._connected else "",
            connects=self._connects,
            published=self._published,
            acked=self._acked,
            refused=self._refused,
        )

    # The sink's thread

    def _run(self) -> None:
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
                continue  # the older protocol at once, at the same broker
            useful = (self._acked > acked and not self._rival) or time.monotonic() - began > _STABLE_S
            self._brokers.ended(useful=useful)
            self._stopped.wait(self._brokers.pause())

    def _session(self) -> None:
        will = Will(self._root + "status", self._identity.status("offline", time.time()))
        connection = Connection(
            self._config, self._brokers.current, self._client_id, self._protocol, self._wake.set, will=will
        )
        self._farewell.returning()
        self._answered = politely = False
        lost: SinkUnavailable | None = None
        try:
            connection.open(self._stopped.is_set)
            self._begin(connection)
            politely = self._serve(connection)
        except SinkUnavailable as error:
            lost = error
            self._protocol = "3.1.1" if too_new(error) and self._protocol == "5.0" else "5.0"
            if isinstance(error, Refused) and error.code == SESSION_TAKEN_OVER:
                self._taken_over(self._identity.taken_over(str(error)))
            raise
        finally:
            self._ahead.close()
            if self._connected:
                self._connected, self._since = False, time.time()
                self._known.add(connection.address)
            with contextlib.suppress(SinkUnavailable):
                self._settle(connection)
            self._judge(lost)
            self._flying.clear()
            self._pump.rewind()
            connection.close(politely=politely)

    def _begin(self, connection: Connection) -> None:
        since = time.time()
        status = self._identity.status("online", since)
        connection.subscribe(self._root + "status")  # before our own is published: shows the one that is there
        for listener in self._listeners:
            connection.subscribe(listener.topic, listener.qos)
        self._say(connection, status)
        self._connected, self._since, self._last_error = True, since, ""
        self._ahead.open()
        self._connects += 1
        self._told.clear()
        self._farewell.elsewhere(self._brokers.others, status)
        log.info("mqtt: connected to %s (MQTT %s)", connection.address, connection.version)

    def _serve(self, connection: Connection) -> bool:
        """Until the stop, or a renewed certificate; whether the will is not needed, as we said ``offline`` or come back at once."""
        while True:
            self._settle(connection)
            connection.check()
            self._take_in(connection)
            room = 1 if self._suspects.careful else connection.receive_maximum
            self._send_ahead(connection, room)
            waiting = self._send_rows(connection, room)
            now = time.monotonic()
            if any(
                isinstance(row, Direct) and row.until is not None and now > row.until for row in self._flying.values()
            ):
                connection.abandon()
                raise SinkUnavailable(
                    "a command was not confirmed in time: the connection is broken, so that it is not late"
                )
            if self._flying and now - self._last_progress > _ACK_S:
                raise SinkUnavailable(f"no PUBACK for {_ACK_S:.0f} s")
            if self._stop_at is not None and (now >= self._stop_at or not (waiting or self._flying or self._ahead)):
                return self._goodbye(connection)
            if connection.renewed:
                log.info("mqtt: our certificate was renewed: connecting anew with it")
                return True  # still online: no will, no offline
            self._wake.wait(_LOOK_S)
            self._wake.clear()

    def _send_ahead(self, connection: Connection, room: int) -> None:
        while self._ahead and len(self._flying) < room:
            message = self._ahead.pop()
            try:
                if message.until is not None:
                    if time.monotonic() >= message.until:
                        continue
                    mid = connection.command(message.topic, message.payload, message.expiry_s)
                elif message.answer:
                    mid = connection.answer(message.topic, message.payload, JSON_TYPE, message.correlation)
                else:
                    mid = connection.publish(message.topic, message.payload, JSON_TYPE, retain=message.retain)
                self._sent(mid, message)
            except SinkRejected as error:
                self._told_directly(message, str(error))

    def _send_rows(self, connection: Connection, room: int) -> bool:
        """Fill the window; whether there may be more to send."""
        window = min(self._config.in_flight, room)
        try:
            while len(self._flying) < window:
                row = self._pump.next()
                if row is None:
                    return False
                try:
                    mid = connection.publish(self._root + row.topic, row.payload, row.content_type, retain=False)
                    self._sent(mid, row)
                    self._published += 1
                except SinkRejected as error:
                    self._refuse(row, PACKET_TOO_LARGE, str(error))
                self._send_ahead(connection, room)
        except OutboxError as error:
            log.debug("mqtt: the outbox cannot be read now: %s", error)
        return True

    def _sent(self, mid: int, row: Row | Direct) -> None:
        self._last_sent = time.monotonic()
        if not self._flying:
            self._last_progress = self._last_sent
        self._flying[mid] = row

    def _settle(self, connection: Connection) -> None:
        """Take in the PUBACKs. Raises SinkUnavailable where the broker cannot take messages for now."""
        done: list[int] = []
        trouble = ""
        for mid, code, reason in connection.acks():
            self._last_progress, self._answered = time.monotonic(), True
            row, became = self._flying.pop(mid, None), outcome(code)
            if row is None:
                continue
            if isinstance(row, Direct):
                listened = row.until is None or code != NO_SUBSCRIBERS
                self._told_directly(
                    row, ("" if listened else "nobody_listens") if became is Outcome.ACCEPTED else reason
                )
            elif became is Outcome.ACCEPTED:
                done.append(row.row)
                self._suspects.settled(row.row)
            elif became is Outcome.REJECTED:
                self._refuse(row, code, reason)
            else:
                trouble = reason
        if done:
            self._acked += len(done)
            self._store.acknowledge(done)
        if trouble:  # a new connection sends it again, in order and after a pause
            raise SinkUnavailable(f"the broker cannot take messages now: {trouble}")

    def _told_directly(self, message: Direct, refused: str) -> None:
        if refused:
            self._last_error = f"{message.topic} refused: {refused}"
        if message.done is not None:
            message.done(refused)

    def _refuse(self, row: Row, code: int, reason: str) -> None:
        self._refused += 1
        self._last_error = f"{row.topic} refused: {reason}"
        self._suspects.settled(row.row)
        self._store.refuse(row.row, code, reason)

    def _judge(self, lost: SinkUnavailable | None) -> None:
        """Whether a message made the broker end the connection; one that did so often enough goes to the dead letters."""
        if not isinstance(lost, HungUp | Refused) or not may_be_about_a_message(lost.code):
            return
        if self._rival or self._identity.rival or time.monotonic() - self._last_sent > _PROMPT_S:
            return
        rows = [row for row in self._flying.values() if not isinstance(row, Direct)]
        proven = self._answered and len(self._flying) == 1
        given_up = self._suspects.lost([row.row for row in rows], proven=proven)
        for row in rows:
            if row.row == given_up:
                self._refuse(row, lost.code, "the broker hangs up on it")

    def _goodbye(self, connection: Connection) -> bool:
        """Retained ``offline`` by our own hand: after a clean DISCONNECT the broker forgets the will. False: there was no room."""
        until = time.monotonic() + 1.0
        if not self._wait_for_room(connection, connection.receive_maximum, until):
            return False
        self._say(connection, self._identity.status("offline", time.time()))
        self._wait_for_room(connection, 1, until)
        return True

    def _say(self, connection: Connection, status: bytes) -> None:
        message = Direct(self._root + "status", status, retain=True)
        self._sent(connection.publish(message.topic, status, JSON_TYPE, retain=True), message)

    def _wait_for_room(self, connection: Connection, below: int, until: float) -> bool:
        while len(self._flying) >= below and time.monotonic() < until:
            self._settle(connection)
            connection.check()
            self._wake.wait(0.02)
            self._wake.clear()
        return len(self._flying) < below

    def _ended(self, error: Exception) -> None:
        text = str(error)
        if isinstance(error, HungUp) and not self._answered:  # as AWS IoT Core does where a policy forbids it
            text += f" before it confirmed our status; may we write {self._root}status, retained, and read it?"
        if text not in self._told and len(self._told) < 10:
            self._told.add(text)
            log.warning("mqtt: %s: %s; the outbox keeps what comes", self._brokers.current, text)
        self._last_error = text
        self._since = self._since or time.time()

    def _take_in(self, connection: Connection) -> None:
        for message in connection.received():
            if message.topic != self._root + "status":
                give(message, self._listeners)
            elif connection.address in self._known:
                self._taken_over(self._identity.look(message.payload))
            connection.confirm(message)

    def _taken_over(self, trouble: str) -> None:
        if trouble:  # the pauses grow, so that the two do not race
            self._rival, self._last_error = True, trouble
