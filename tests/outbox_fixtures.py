"""Makers of outboxes, events and metrics for the tests of store and sinks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_agent.config import OutboxConfig
from edge_agent.health.heartbeat import HeartbeatBuilder
from edge_agent.outbox import Outbox
from edge_agent.outbox.limits import Wants
from edge_agent.sinks.batch import BatchPump
from edge_agent.sinks.store import BatchSink
from edge_agent.types import Event, Heartbeat, Metric, Phase, Telemetry, uuid7_factory
from tests.contract import SYNTHETIC
from tests.health_fixtures import agent_status

new_id = uuid7_factory()
UTC = 1_700_000_000.0


def make_event(
    n: int = 0,
    phase: Phase | None = None,
    episode: str = "",
    camera: str = "door",
    utc: float | None = None,
    **data: Any,
) -> Event:
    """A made-up one, numbered in its data."""
    ident = new_id(UTC)
    when = UTC + n if utc is None else utc
    return Event(ident, camera, SYNTHETIC, "thing", phase, episode or ident, when, {"n": n, **data})


def make_metric(n: int = 0, camera: str = "door", **data: Any) -> Metric:
    return Metric(camera, SYNTHETIC, UTC + 60 * n, 60.0, 58.5, {"people": n, **data})


def make_telemetry(n: int = 0, sensor: str = "thermometer") -> Telemetry:
    return Telemetry(sensor, UTC + n, float(n), "°C", "good")


def make_heartbeat(**changes: Any) -> Heartbeat:
    """The stored copy of one; ``changes`` are to the status it tells."""
    return Heartbeat(json.loads(HeartbeatBuilder().build(agent_status(**changes), UTC)))


def make_outbox(
    path: Path,
    *,
    clock_ok: bool = True,
    wall: Any = time.time,
    report_every_s: float = 60.0,
    sinks: Sequence[str] = ("mqtt",),
    wants: Wants | None = None,
    retention_days: float = 3650.0,
    **config: Any,
) -> Outbox:
    return Outbox(
        path,
        OutboxConfig(**{"commit_ms": 5, **config}),
        site="site",
        device="box",
        boot_id="boot-1",
        clock_ok=lambda: clock_ok,
        new_id=new_id,
        sinks=sinks,
        wants=wants,
        retention_days=retention_days,
        wall=wall,
        report_every_s=report_every_s,
    )


@contextmanager
def running(path: Path, **options: Any) -> Iterator[Outbox]:
    """Started, and stopped at the end."""
    outbox = make_outbox(path, **options)
    outbox.start()
    try:
        yield outbox
    finally:
        outbox.stop(5.0)


def rows(outbox: Outbox, priority: int = 0, sink: str = "mqtt") -> list[Any]:
    """Everything of a priority that waits for a sink."""
    outlet, found = outbox.outlet(sink), list[Any]()
    while page := outlet.read(priority, found[-1].row if found else 0, 100):
        found += page
    return found


@contextmanager
def pumping(outbox: Outbox, name: str, sink: BatchSink) -> Iterator[BatchPump]:
    """The outbox's messages for ``name`` go to ``sink``, with pauses of 50 ms at most after a failure."""
    pump = BatchPump(name, outbox.outlet(name), sink, pause_max_s=0.05)
    pump.start()
    try:
        yield pump
    finally:
        pump.end(5.0)
        pump.join(10.0)


def depth(outbox: Outbox, sink: str) -> int:
    """Messages that wait for a sink."""
    return sum(outbox.stat().sinks[sink].depth.values())
