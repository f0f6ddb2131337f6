"""Sees to it that no broker we are not connected to still says ``online`` of us."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence

from edge_agent.config_mqtt import Address, MqttConfig
from edge_agent.errors import SinkError
from edge_agent.sinks.mqtt_connection import JSON_TYPE, Connection
from edge_agent.sinks.mqtt_identity import read_status
from edge_agent.sinks.mqtt_inbound import Inbound
from edge_agent.sinks.mqtt_visit import acknowledged, visit

log = logging.getLogger(__name__)

_RETAINED_S = 3.0
"""A retained message comes right after the answer to SUBSCRIBE."""
_ACK_S = 4.0


class Farewell:
    """While we deliver to one broker, visits each other one once, under a name of its own, until it could be reached.

    A broker that crashed has not published our will; when it comes back, its retained ``online`` is stale. It is replaced
    only where it is not the very status that we published for the connection we have: brokers may share what they retain.
    """

    def __init__(self, config: MqttConfig, client_id: str, topic: str, offline: Callable[[float], bytes]) -> None:
        self._config, self._client_id, self._topic, self._offline = config, f"{client_id}-farewell", topic, offline
        self._lock = threading.Lock()
        self._left: list[Address] = []
        self._ours: bytes | None = None
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mqtt farewell", daemon=True)

    def elsewhere(self, others: Sequence[Address], status: bytes) -> None:
        """We are connected, and published ``status``; these are the others."""
        with self._lock:
            self._left, self._ours = list(others), status
        if others and self._thread.ident is None:
            self._thread.start()
        self._wake.set()

    def returning(self) -> None:
        """We are about to connect, to whichever: once this returns, nothing more is said. May block for seconds."""
        with self._lock:
            self._ours = None

    def stop(self) -> None:
        """Does not wait: the thread is a daemon, and what it has in hand ends by itself."""
        self._stopped.set()
        self._wake.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            if not self._left:
                self._wake.wait()
                self._wake.clear()
            # A whole fleet may have changed the broker just now.
            self._stopped.wait(random.uniform(0.2, 1.0) * self._config.reconnect_max_s)
            for address in list(self._left):
                if self._ours is not None and not self._stopped.is_set():
                    try:
                        self._visit(address)
                    except SinkError as error:
                        log.debug("mqtt: farewell to %s: %s", address, error)
                    except Exception:  # a fault of ours must not end it for good
                        log.exception("mqtt: unexpected fault")

    def _visit(self, address: Address) -> None:
        connection = visit(self._config, address, self._client_id, self._stopped.is_set)
        try:
            connection.subscribe(self._topic)
            until = time.monotonic() + _RETAINED_S
            found: list[Inbound] = []
            while not found and time.monotonic() < until:
                connection.check()
                time.sleep(0.02)
                found = connection.received()
            with self._lock:
                if self._ours is None or address not in self._left:
                    return
                if found and self._stale(found[-1].payload):
                    self._say_offline(connection, address)
                self._left.remove(address)
        finally:
            connection.close()

    def _stale(self, payload: bytes) -> bool:
        there, ours = read_status(payload), read_status(self._ours or b"")
        return there.get("state") == "online" and any(there.get(key) != ours[key] for key in ("boot_id", "since"))

    def _say_offline(self, connection: Connection, address: Address) -> None:
        mid = connection.publish(self._topic, self._offline(time.time()), JSON_TYPE, retain=True)
        with contextlib.suppress(SinkError):
            acknowledged(connection, mid, _ACK_S)
        log.info("mqtt: told %s, which we left, that we are not there", address)
