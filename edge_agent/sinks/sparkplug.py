"""The box as an Edge Node of Sparkplug B, its cameras as Devices: births, data and deaths over a connection of its own.

Sparkplug Specification 3.0.0; the names in brackets are its requirements. A connection has one will, and that of the other one
is our ``status``. Only the state of the moment goes this way; events stay in their topics.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from edge_agent.config_mqtt import MqttConfig
from edge_agent.durable import write_file
from edge_agent.errors import SinkUnavailable
from edge_agent.sinks.mqtt_brokers import Brokers
from edge_agent.sinks.mqtt_connection import Connection, Unreached, Version, Will, too_new
from edge_agent.sinks.mqtt_visit import acknowledged
from edge_agent.sinks.sparkplug_payload import CONTENT_TYPE, Metric, NotSparkplug, encode, switched_on

log = logging.getLogger(__name__)

REBIRTH = "Node Control/Rebirth"
_LOOK_S = 1.0
_REBIRTH_EVERY_S = 5.0
"""However often it is asked for: whoever asks must not keep the box busy."""
_GOODBYE_S = 0.7
_STABLE_S = 30.0


class Device(NamedTuple):
    """One camera. ``alive``: it delivers, so that its values mean something."""

    name: str
    alive: bool
    metrics: Sequence[Metric]


class Reading(NamedTuple):
    """The state of the moment. The names and types of the metrics never change."""

    node: Sequence[Metric]
    devices: Sequence[Device]


Values: TypeAlias = dict[str, Metric]


class BirthNumber:
    """bdSeq: 0 to 255, one further with each CONNECT, also over restarts [tck-id-topics-nbirth-bdseq-increment].

    Kept in a file, so that a late NDEATH of an earlier run is known to be old. Where it cannot be written, counting goes on in memory.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._last: int | None = None
        self._kept: int | None = None

    def unused(self) -> None:
        """The last one went into no CONNECT: it is the next again."""
        if self._last is not None:
            self._last = (self._last - 1) % 256

    def next(self) -> int:
        """The next one, on disk."""
        if self._last is None:
            try:
                self._last = int(self._file.read_bytes()[:4])
            except (OSError, ValueError):
                self._last = 255
        self._last = (self._last + 1) % 256
        if self._last == self._kept:
            return self._last
        try:
            write_file(self._file, b"%d" % self._last)
            self._kept = self._last
        except OSError as error:
            log.warning("sparkplug: %s: %s", self._file, error.strerror)
        return self._last


def topic(group: str, kind: str, node: str, device: str = "") -> str:
    """4.1: spBv1.0/group_id/message_type/edge_node_id[/device_id]."""
    return f"spBv1.0/{group}/{kind}/{node}" + (f"/{device}" if device else "")


def death(number: int) -> bytes:
    """NDEATH: bdSeq alone, no seq [tck-id-topics-ndeath-payload, tck-id-topics-ndeath-seq]."""
    return encode([_birth_number(number)], _now_ms(), None)


def _birth_number(number: int) -> Metric:
    return Metric("bdSeq", "Int64", number)


class Session:
    """What one connection has told: births first, then only what changed. ``send(topic, payload)`` at QoS 0, not retained."""

    def __init__(self, group: str, node: str, number: int, send: Callable[[str, bytes], None]) -> None:
        self._group, self._node, self._send, self._number = group, node, send, number
        self._seq = 0
        self._told: dict[str, Values] = {}
        """By device, "" the node; of those that were born and have not died."""

    def born(self, reading: Reading) -> None:
        """NBIRTH with seq 0 [tck-id-topics-nbirth-seq-num], then a DBIRTH for each living device; also a rebirth (6.4.19)."""
        self._seq = 0
        self._told.clear()
        control = Metric(REBIRTH, "Boolean", value=False)  # [tck-id-payloads-nbirth-rebirth-req]
        self._say("NBIRTH", "", [_birth_number(self._number), control, *reading.node])
        self._told[""] = {each.name: each for each in reading.node}
        for device in reading.devices:
            self._live(device)

    def look(self, reading: Reading) -> None:
        """DBIRTH and DDEATH of devices that came to life or died since."""
        for device in reading.devices:
            if device.alive != (device.name in self._told):
                self._live(device)

    def _live(self, device: Device) -> None:
        if device.alive:
            self._say("DBIRTH", device.name, device.metrics)
            self._told[device.name] = {each.name: each for each in device.metrics}
        elif self._told.pop(device.name, None) is not None:
            self._say("DDEATH", device.name, [])

    def data(self, reading: Reading) -> None:
        """NDATA and DDATA with what changed (report by exception)."""
        for name, metrics in [("", reading.node), *((device.name, device.metrics) for device in reading.devices)]:
            told = self._told.get(name)
            if told is None:
                continue
            if changed := [each for each in metrics if told.get(each.name) != each]:
                self._say("DDATA" if name else "NDATA", name, changed)
                told.update({each.name: each for each in changed})

    def _say(self, kind: str, device: str, metrics: Sequence[Metric]) -> None:
        self._send(topic(self._group, kind, self._node, device), encode(metrics, _now_ms(), self._seq))
        self._seq = (self._seq + 1) % 256  # [tck-id-payloads-sequence-num-incrementing]


class Sparkplug:
    """One thread of its own. ``read`` is called by it about once a second, so it must be cheap."""

    def __init__(
        self, config: MqttConfig, *, client_id: str, device: str, state_dir: Path, read: Callable[[], Reading]
    ) -> None:
        assert config.sparkplug is not None
        # [tck-id-principles-persistence-clean-session-50]: nothing of an earlier session; the will goes out at once.
        self._config = config.model_copy(update={"session_expiry_s": 0, "will_delay_s": 0})
        self._group, self._node = config.sparkplug.group_id, config.sparkplug.edge_node_id or device
        self._client_id = f"{client_id}-sparkplug"
        self._read = read
        self._brokers = Brokers(config)
        self._numbers = BirthNumber(state_dir / "sparkplug.bdseq")
        self._protocol: Version = "5.0"
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._told = ""
        self.births = 0
        """Connections that began with a birth."""
        self._thread = threading.Thread(target=self._run, name="sparkplug", daemon=True)

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._thread.start()

    def end(self) -> None:
        """Say NDEATH and disconnect; does not wait."""
        self._stopped.set()
        self._wake.set()

    def join(self, timeout_s: float) -> None:
        """Wait for it; what the network holds up is left behind."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopped.is_set():
            began, tried = time.monotonic(), self._protocol
            try:
                self._session()
            except SinkUnavailable as error:
                self._protocol = "3.1.1" if too_new(error) and tried == "5.0" else "5.0"
                self._trouble(str(error))
            except Exception:  # a fault of ours must not end it for good
                log.exception("sparkplug: unexpected fault")
            if (self._protocol, tried) == ("3.1.1", "5.0"):
                continue  # the older protocol at once, at the same broker
            self._brokers.ended(useful=time.monotonic() - began > _STABLE_S)
            self._stopped.wait(self._brokers.pause())

    def _trouble(self, text: str) -> None:
        if text != self._told:
            self._told = text
            log.warning("sparkplug: %s: %s", self._brokers.current, text)

    def _session(self) -> None:
        number = self._numbers.next()
        # [tck-id-payloads-ndeath-will-message-qos, -retain]: QoS 1, not retained
        will = Will(self._topic("NDEATH"), death(number), retain=False, content_type=CONTENT_TYPE)
        connection = Connection(
            self._config, self._brokers.current, self._client_id, self._protocol, self._wake.set, will=will
        )
        session = Session(self._group, self._node, number, connection.send)
        politely = False
        try:
            connection.open(self._stopped.is_set)
            connection.subscribe(self._topic("NCMD"))  # [tck-id-message-flow-edge-node-ncmd-subscribe]
            session.born(self._read())
            self.births += 1
            self._told = ""
            log.info("sparkplug: %s/%s is born at %s", self._group, self._node, connection.address)
            self._serve(connection, session)
            politely = self._goodbye(connection, will)
        except Unreached:
            self._numbers.unused()
            raise
        finally:
            connection.close(politely=politely)

    def _serve(self, connection: Connection, session: Session) -> None:
        """Until the stop."""
        data_at = time.monotonic() + self._config.heartbeat_s
        reborn_at, asked = float("-inf"), False
        while not self._stopped.is_set():
            connection.check()
            asked = self._asked(connection) or asked
            reading, now = self._read(), time.monotonic()
            if asked and now - reborn_at >= _REBIRTH_EVERY_S:
                reborn_at, asked = now, False
                session.born(reading)
            session.look(reading)
            if now >= data_at:
                data_at = now + self._config.heartbeat_s
                session.data(reading)
            self._wake.wait(_LOOK_S)
            self._wake.clear()

    def _topic(self, kind: str) -> str:
        return topic(self._group, kind, self._node)

    def _asked(self, connection: Connection) -> bool:
        """Whether a rebirth is wanted [tck-id-operational-behavior-data-commands-ncmd-rebirth-name]."""
        wanted = False
        for message in connection.received():
            connection.confirm(message)
            try:
                wanted |= message.topic == self._topic("NCMD") and REBIRTH in switched_on(message.payload)
            except NotSparkplug as error:
                log.debug("sparkplug: a command that is none: %s", error)
        return wanted

    def _goodbye(self, connection: Connection, will: Will) -> bool:
        """[tck-id-payloads-ndeath-will-message-publisher]: after a clean DISCONNECT the broker forgets the will."""
        mid = connection.publish(will.topic, will.payload, CONTENT_TYPE, retain=False)
        return acknowledged(connection, mid, _GOODBYE_S) is not None


def _now_ms() -> int:
    return int(time.time() * 1000)
