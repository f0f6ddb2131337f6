"""How long an update takes from the question to a model that is ready, by part; and what is fetched when the line breaks 20 times.

    python -m benchmarks.ota_update [--sizes 5 100] [--dir FOLDER] [--json]

Over a real HTTP server on this machine, so the network counts as nothing; compiling and the self-test are left out, as they
depend on the model. ``--dir`` is where the box's disk is: a RAM disk flatters every fsync.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from edge_agent.ota import transfer
from tests.ota_fixtures import MODEL, Client, make_operator, mirror_of

CUTS = 20


def measure(folder: Path, megabytes: int) -> dict[str, Any]:
    """One update, then one with broken connections."""
    operator = make_operator(folder / "operator")
    operator.publish("1.0", size=1000)
    with mirror_of(operator, folder / "mirror") as mirror:
        server = mirror.server
        assert server is not None
        box = Client(folder / "box", server.url, operator.root)
        box.update()
        operator.publish("2.0", size=megabytes * 1_000_000)
        mirror.copy()
        times: dict[str, float] = {}
        began = time.perf_counter()
        client = box.client()
        offer = client.look(MODEL)
        times["ask_s"] = time.perf_counter() - began
        archive = client.fetch(offer, lambda _: None, threading.Event())
        times["fetch_and_check_s"] = time.perf_counter() - began - times["ask_s"]
        box.store.add(archive, offer.bundle)
        times["unpack_and_check_s"] = time.perf_counter() - began - sum(times.values())
        archive.unlink()
        box.install()
        activation = box.activation()
        activation.activate(None)
        activation.confirm()
        times["all_s"] = time.perf_counter() - began
        with mock.patch.object(transfer, "PAUSE_S", 0.001):
            resumed = _resumed(box, server, offer.length)
        return {"megabytes": megabytes, **{key: round(value, 3) for key, value in times.items()}, **resumed}


def _resumed(box: Client, server: Any, length: int) -> dict[str, Any]:
    """The same bundle on a box that knows nothing, over a line that breaks at 20 places."""
    fresh = Client(box.state.with_name("fresh"), box.url, box.root)
    client = fresh.client()
    offer = client.look(MODEL)
    cuts = sorted(random.Random(1).sample(range(1, length), CUTS))
    server.ranges.clear()
    server.cuts += [b - a for a, b in zip([0, *cuts], cuts, strict=False)]
    began = time.perf_counter()
    archive = client.fetch(offer, lambda _: None, threading.Event())
    took = time.perf_counter() - began
    starts = [int(asked.removeprefix("bytes=").removesuffix("-") or 0) for asked in server.ranges]
    return {
        "cuts": CUTS,
        "cut_fetch_s": round(took, 3),
        "cut_requests": len(starts),
        "went_on_where_it_broke": starts == [0, *cuts],
        "cut_whole": archive.stat().st_size == length,
    }


def rows(folder: Path, sizes: list[int]) -> Iterator[dict[str, Any]]:
    """One for each size."""
    for size in sizes:
        yield measure(folder / str(size), size)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[5, 100], metavar="MB")
    parser.add_argument("--dir", type=Path, metavar="FOLDER")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    logging.disable()
    good = True
    with tempfile.TemporaryDirectory(dir=args.dir, prefix="ota-") as place:
        for row in rows(Path(place), args.sizes):
            good = good and row["went_on_where_it_broke"] and row["cut_whole"]
            text = json.dumps(row) if args.json else "  ".join(f"{key} {value}" for key, value in row.items())
            sys.stdout.write(text + "\n")
    if not args.json:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        sys.stdout.write(f"peak memory of this process, server and operator included: {peak} MB\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
