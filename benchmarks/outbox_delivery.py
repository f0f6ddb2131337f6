"""Delivery per second: the outbox and its sink beside paho alone from memory, and beside mosquitto with a bridge on the box."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge_agent.config import OutboxConfig
from edge_agent.config_mqtt import MqttConfig
from edge_agent.outbox import Outbox
from edge_agent.outbox.messages import draft
from edge_agent.sinks.mqtt import MqttSink
from edge_agent.types import Event, uuid7_factory
from tests.certificates import Authority
from tests.mosquitto import Mosquitto, broker, tls_broker, wait_for

LONG_S = 900.0
NAMES: dict[str, Any] = {"site": "s", "device": "d", "boot_id": "b"}
TOPIC = "edge/v1/s/d/events/door/social_distancing"
IN_FLIGHT = 20
new_id = uuid7_factory()


def event(n: int) -> Event:
    """About 500 bytes as a CloudEvent."""
    ident = new_id(1_700_000_000.0 + n)
    data = {"distance_m": 1.42, "sigma_m": 0.11, "duration_s": 12.4, "pairs": [[3, 9]], "zone": "till", "n": n}
    return Event(ident, "door", "social_distancing", "violation", None, ident, 1_700_000_000.0 + n, data)


def make(path: Path, sinks: tuple[str, ...] = ("mqtt",), **config: Any) -> Outbox:
    """Started, with the agent's own settings but for the queue in memory."""
    settings = OutboxConfig(**{"queue": 1_000_000, **config})
    made = Outbox(path, settings, **NAMES, clock_ok=lambda: True, new_id=new_id, sinks=sinks)
    made.start()
    return made


@contextlib.contextmanager
def delivering(outbox: Outbox, port: int, tls: dict[str, Path] | None = None) -> Iterator[MqttSink]:
    """The agent's sink at work, stopped at the end."""
    config = MqttConfig(host="127.0.0.1", port=port, tls=tls, in_flight=IN_FLIGHT)
    sink = MqttSink(config, outbox.outlet("mqtt"), **NAMES, version="0", on_alarm=lambda _: None)
    sink.start()
    try:
        yield sink
    finally:
        sink.stop(5)


def drain(path: Path, port: int, count: int, tls: dict[str, Path] | None = None) -> float:
    """Messages a second, from a full outbox until the broker confirmed every one."""
    outbox = make(path)
    outbox.put([event(n) for n in range(count)])
    assert outbox.flush(LONG_S)
    began = time.perf_counter()
    with delivering(outbox, port, tls) as sink:
        wait_for(lambda: sink.state().acked >= count, LONG_S)
        took = time.perf_counter() - began
    outbox.stop(30)
    return count / took


def paho_alone(port: int, count: int, tls: dict[str, Path] | None = None) -> float:
    """Messages a second, the same ones from memory, with as many in flight."""
    messages = [draft(event(n), **NAMES).payload(n + 1, True) for n in range(count)]
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.max_inflight_messages_set(IN_FLIGHT)
    if tls is not None:
        client.tls_set(str(tls["ca_file"]), str(tls["cert_file"]), str(tls["key_file"]))
    room, connected, left = threading.Semaphore(IN_FLIGHT), threading.Event(), [count]

    def acked(*_: Any) -> None:
        left[0] -= 1
        room.release()

    client.on_publish = acked
    client.on_connect = lambda *_: connected.set()
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert connected.wait(10)
    began = time.perf_counter()
    for payload in messages:
        room.acquire()
        client.publish(TOPIC, payload, qos=1)
    wait_for(lambda: left[0] == 0, LONG_S)
    took = time.perf_counter() - began
    client.disconnect()
    client.loop_stop()
    return count / took


def bridge(folder: Path, count: int) -> float:
    """Messages a second from a mosquitto with persistence, where they waited, over its bridge to another one."""
    far = Mosquitto(folder / "far")
    lines = f"""
        persistence true
        persistence_location {folder}/near/
        autosave_interval 1
        max_inflight_messages {IN_FLIGHT}
        connection up
        address 127.0.0.1:{far.port}
        bridge_protocol_version mqttv50
        topic # out 1
        cleansession false
        restart_timeout 1
        notifications false
    """
    with broker(folder / "near", extra=tuple(map(str.strip, lines.splitlines()))) as near:
        paho_alone(near.port, count)
        far.start()
        began = end = 0.0
        arrived = 0
        try:
            with far.log.open() as log:
                until = time.monotonic() + LONG_S
                while arrived < count:
                    assert time.monotonic() < until, f"{arrived} of {count} arrived"
                    arrived += log.read().count("Received PUBLISH")
                    end = time.perf_counter()
                    began = began if arrived else end
                    time.sleep(0.02)
        finally:
            far.kill()
    return count / (end - began)


def delivery(folder: Path, count: int, rounds: int) -> dict[str, float]:
    """All of them in turns; the medians, and the medians of the ratios of neighbours."""
    ca = Authority(folder / "ca")
    box = ca.issue("box")
    tls = {"ca_file": ca.cert, "cert_file": box.cert, "key_file": box.key}
    asks = (f"cafile {ca.cert}", "require_certificate true")
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> float:
        found.setdefault(name, []).append(value)
        return value

    with tls_broker(folder / "broker", ca.issue("broker"), *asks) as (mosquitto, secure):
        for number in range(rounds):
            for way, port, keys in (("plain", mosquitto.port, None), ("mtls", secure, tls)):
                alone = note(f"paho_alone_{way}_per_s", paho_alone(port, count, keys))
                ours = note(f"drain_{way}_per_s", drain(folder / f"{way}{number}.db", port, count, keys))
                note(f"drain_{way}_to_paho", ours / alone)
                if way == "plain":
                    other = note("bridge_per_s", bridge(folder / f"bridge{number}", count))
                    note("drain_plain_to_bridge", ours / other)
    return {name: statistics.median(values) for name, values in found.items()}
