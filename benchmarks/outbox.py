"""What the outbox costs and holds, with a real mosquitto.

    python -m benchmarks.outbox [--events 20000] [--rounds 3] [--dir FOLDER]   # durable enqueue, drain, bytes written
    python -m benchmarks.outbox --backlog                                      # 72 hours of one event a second, delivered
    python -m benchmarks.outbox --fill                                         # more than it may hold

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
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.outbox_delivery import delivery, event, make
from benchmarks.outbox_limits import backlog, fill
from edge_agent.outbox import Outbox
from tests.mosquitto import wait_for

BURST = 5000


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument(
        "--rounds", type=int, default=3, help="of delivery; each ratio is of two that followed each other"
    )
    parser.add_argument(
        "--backlog", type=int, nargs="?", const=72 * 3600, metavar="N", help="deliver so many that waited"
    )
    parser.add_argument("--fill", type=float, nargs="?", const=16.0, metavar="MB", help="twice as much as it may hold")
    parser.add_argument("--dir", type=Path, default=Path.cwd())
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        folder = Path(name)
        result: dict[str, Any] = {"cores": os.cpu_count(), "load": os.getloadavg()[0]}
        if args.backlog:
            result["backlog"] = backlog(folder, args.backlog)
        if args.fill:
            result["fill"] = fill(folder, args.fill)
        if not (args.backlog or args.fill):
            result |= {"events": args.events, **enqueue(folder, args.events)}
            result["bytes_written_for_one_event_delivered"] = taken(folder, ("mqtt",))
            result["bytes_written_for_one_event_delivered_beside_a_dead_sink"] = taken(folder, ("mqtt", "influxdb"))
            result |= delivery(folder, args.events, args.rounds)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
