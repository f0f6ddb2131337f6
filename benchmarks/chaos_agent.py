"""The agent under test of ``benchmarks.chaos``: the product's outbox and MQTT sink, put together as ``app.py`` does it.

    python -m benchmarks.chaos_agent STATE HOST PORT ACCEPTED --life N --rate R

In place of cameras: ``rate`` events a second from each of three, episodes of three events, and a metric a second. Whatever
is committed is told, id by id, in the file ACCEPTED, outside the state folder. SIGTERM stops it as it does the agent.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
import time
import uuid
from itertools import count
from pathlib import Path

from benchmarks.chaos_judge import LIFE
from edge_agent import __version__
from edge_agent.config import OutboxConfig
from edge_agent.config_mqtt import MqttConfig
from edge_agent.outbox import Outbox
from edge_agent.sinks.mqtt import MqttSink
from edge_agent.state_dir import state_lock
from edge_agent.types import Event, Metric, Output, Phase, uuid7_factory

CAMERAS = ("door", "till", "yard")


_PHASES: tuple[Phase, ...] = ("started", "updated", "ended")


def feed(outbox: Outbox, stop: threading.Event, life: int, rate: float) -> None:
    """Put, at a steady rate, until the stop."""
    new_id = uuid7_factory()
    started, metrics = time.monotonic(), count(life * LIFE)
    for n in count():
        if stop.wait(max(0.0, started + n / rate - time.monotonic())):
            return
        utc = time.time()
        items: list[Output] = []
        for camera in CAMERAS:
            data = {"n": n, "distance_m": 1.42, "zone": "till", "text": "x" * 200}
            episode = f"{camera}-{life}-{n // 3}"
            items.append(
                Event(new_id(utc), camera, "social_distancing", "violation", _PHASES[n % 3], episode, utc, data)
            )
        if n % max(1, round(rate)) == 0:
            number = next(metrics)
            items += [Metric(camera, "social_distancing", utc, 1.0, 1.0, {"n": number}) for camera in CAMERAS]
        outbox.put(items)


def beat(sink: MqttSink, stop: threading.Event) -> None:
    """A heartbeat a second, past the outbox."""
    while not stop.wait(1.0):
        sink.publish_now("heartbeat", {"alive": True}, retain=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("accepted", type=Path)
    parser.add_argument("--life", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="events a second from each camera; 0: only deliver")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    accepted = os.open(args.accepted, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    boot_id = uuid.uuid4().hex
    with state_lock(args.state):
        outbox = Outbox(
            args.state / "outbox.db",
            OutboxConfig(max_mb=40),
            site="lab",
            device="box",
            boot_id=boot_id,
            clock_ok=lambda: True,
            new_id=uuid7_factory(),
        )
        outbox.on_event(lambda doc: _tell(accepted, doc["id"]))
        sink = MqttSink(
            MqttConfig(host=args.host, port=args.port, keepalive_s=5, reconnect_spread_s=0.5, reconnect_max_s=2),
            outbox.outlet("mqtt"),
            site="lab",
            device="box",
            boot_id=boot_id,
            version=__version__,
            on_alarm=lambda event: outbox.put([event]),
        )
        outbox.start()
        sink.start()
        threading.Thread(target=beat, args=(sink, stop), daemon=True).start()
        if args.rate:
            feed(outbox, stop, args.life, args.rate)
        stop.wait()
        outbox.flush(1.3)  # the order and the times of Agent._stop
        sink.stop(1.0, 0.8)
        outbox.stop(0.5)


def _tell(file: int, ident: str) -> None:
    os.write(file, f"{ident}\n".encode())  # one call: a kill leaves a line or none


if __name__ == "__main__":
    main()
