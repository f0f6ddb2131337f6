"""Durable enqueue per second, drain per second through a real mosquitto against paho alone from memory, bytes written for an event.

    python -m benchmarks.outbox [--events 20000] [--dir FOLDER]

``--dir`` is where the database lies: a RAM disk flatters every fsync. Broker and this process share the machine; nobody
subscribes, so that only sending is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge_agent.config import OutboxConfig
from edge_agent.config_mqtt import MqttConfig
from edge_agent.outbox import Outbox
from edge_agent.sinks.mqtt import MqttSink
from edge_agent.types import Event, uuid7_factory
from tests.mosquitto import broker, wait_for

new_id = uuid7_factory()
BURST = 5000


def event(n: int) -> Event:
    """About 500 bytes as a CloudEvent."""
    ident = new_id(1_700_000_000.0 + n)
    data = {"distance_m": 1.42, "sigma_m": 0.11, "duration_s": 12.4, "pairs": [[3, 9]], "zone": "till", "n": n}
    return Event(ident, "door", "social_distancing", "violation", None, ident, 1_700_000_000.0 + n, data)


def make(path: Path, sinks: tuple[str, ...] = ("mqtt",)) -> Outbox:
    config = OutboxConfig(queue=1_000_000)
    made = Outbox(path, config, site="s", device="d", boot_id="b", clock_ok=lambda: True, new_id=new_id, sinks=sinks)
    made.start()
    return made


def timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def enqueue(folder: Path, count: int) -> dict[str, float]:
    """Everything put at once, then one at a time waiting for each commit."""
    outbox = make(folder / "enqueue.db")
    events = [event(n) for n in range(count)]
    puts: list[float] = []

    def all_at_once() -> None:
        puts.extend(timed(lambda one=one: outbox.put([one])) for one in events)  # type: ignore[misc]
        assert outbox.flush(300)

    def one_alone() -> None:
        outbox.put([event(0)])
        assert outbox.flush(30)

    together = timed(all_at_once)
    single = [timed(one_alone) for _ in range(200)]
    alone = _writes_for(one_alone, 20)
    burst = _writes_for(lambda: _burst(outbox), 1) / BURST
    outbox.stop(30)
    return {
        "durable_per_s": count / together,
        "put_us_median": statistics.median(puts) * 1e6,
        "put_us_p999": sorted(puts)[int(len(puts) * 0.999)] * 1e6,
        "put_to_disk_alone_ms": statistics.median(single) * 1e3,
        "bytes_written_by_one_event_alone": alone,
        "bytes_written_by_one_of_a_burst": burst,
        "bytes_on_disk_per_event": _size(folder / "enqueue.db") / (count + 221 + BURST),
    }


def taken(folder: Path, sinks: tuple[str, ...]) -> float:
    """Bytes written for an event, over its whole life: stored with nineteen others, taken by one sink, the log folded in."""
    outbox = make(folder / f"taken-{len(sinks)}.db", sinks)
    outlet = outbox.outlet("mqtt")

    def twenty() -> None:
        outbox.put([event(n) for n in range(20)])
        assert outbox.flush(30)
        outlet.acknowledge([row.row for row in outlet.read(0, 0, 20)])
        wait_for(lambda: outbox.stat().sinks["mqtt"].depth["events"] == 0, 30)

    twenty()
    written = _writes_for(twenty, 100) / 20
    outbox.stop(30)
    return written


def _burst(outbox: Outbox) -> None:
    outbox.put([event(n) for n in range(BURST)])
    assert outbox.flush(300)


def _writes_for(work: Callable[[], None], times: int) -> float:
    """Bytes written by one of so many."""
    before = _written()
    for _ in range(times):
        work()
    return (_written() - before) / times


def _written() -> int:
    """Bytes this process caused to be written to the block layer (0 on a RAM disk)."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["write_bytes"])


def _size(path: Path) -> int:
    with closing(sqlite3.connect(path)) as cx:
        cx.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return path.stat().st_size


def drain(folder: Path, port: int, count: int) -> dict[str, float]:
    """From a full outbox to the broker, until every row is acknowledged; heartbeats in between."""
    outbox = make(folder / "drain.db")
    outbox.put([event(n) for n in range(count)])
    assert outbox.flush(300)
    config = MqttConfig(host="127.0.0.1", port=port)
    sink = MqttSink(
        config, outbox.outlet("mqtt"), site="s", device="d", boot_id="b", version="0", on_alarm=lambda _: None
    )
    began = time.perf_counter()
    sink.start()
    wait_for(lambda: sink.state().acked >= count, 300)
    took = time.perf_counter() - began
    sink.stop(5)
    outbox.stop(30)
    return {"drain_per_s": count / took}


def paho_alone(port: int, count: int, window: int = 20) -> dict[str, float]:
    """The same payloads from memory, ``window`` in flight."""
    payload = json.dumps({"x": "y" * 480}).encode()
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.max_inflight_messages_set(window)
    room, connected, left = threading.Semaphore(window), threading.Event(), [count]

    def acked(*_: Any) -> None:
        left[0] -= 1
        room.release()

    client.on_publish = acked
    client.on_connect = lambda *_: connected.set()
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert connected.wait(10)
    began = time.perf_counter()
    for _ in range(count):
        room.acquire()
        client.publish("edge/v1/s/d/events/door/social_distancing", payload, qos=1)
    wait_for(lambda: left[0] == 0, 300)
    took = time.perf_counter() - began
    client.disconnect()
    client.loop_stop()
    return {"paho_alone_per_s": count / took}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--dir", type=Path, default=Path.cwd())
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        folder = Path(name)
        result: dict[str, float] = {"events": args.events, "cores": os.cpu_count() or 0}
        result |= enqueue(folder, args.events)
        result["bytes_written_for_one_event_delivered"] = taken(folder, ("mqtt",))
        result["bytes_written_for_one_event_delivered_beside_a_dead_sink"] = taken(folder, ("mqtt", "influxdb"))
        with broker(folder / "mosquitto") as mosquitto:
            result |= paho_alone(mosquitto.port, args.events)
            result |= drain(folder, mosquitto.port, args.events)
        result["drain_to_paho"] = result["drain_per_s"] / result["paho_alone_per_s"]
    print(json.dumps({key: round(value, 3) for key, value in result.items()}, indent=1))


if __name__ == "__main__":
    main()
