"""Makers of outboxes, events and metrics for the tests of store and sinks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_agent.config import OutboxConfig
from edge_agent.outbox import Outbox
from edge_agent.types import Event, Metric, Phase, uuid7_factory
from tests.contract import SYNTHETIC

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


def make_outbox(
    path: Path,
    *,
    clock_ok: bool = True,
    wall: Any = time.time,
    report_every_s: float = 60.0,
    sinks: Sequence[str] = ("mqtt",),
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
