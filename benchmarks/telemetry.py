"""What does it cost to know how the box is? A look at heat, throttling and power; a heartbeat; sensors beside every frame.

``python -m benchmarks.telemetry [--json]``. Boxes are trees of files made after real ones (``tests/sysfs_trees.py``) in memory
(/dev/shm), so the cost is that of the agent; what a chip behind a real bus takes comes on top, in the thread that asks it.
Medians of several rounds, microseconds; CPU time of the calling thread where it says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from edge_agent.health.hardware import HardwareProbe
from edge_agent.health.heartbeat import HeartbeatBuilder
from edge_agent.health.host import HostProbe
from edge_agent.sensors.sources import read
from tests.health_fixtures import agent_status
from tests.sensor_fixtures import make_sensors, sensor_config
from tests.sysfs_trees import AGX_ORIN, IIO, NUC, ORIN_NX, RASPBERRY_PI_5, write_tree

BOXES = {"Orin NX": ORIN_NX, "AGX Orin": AGX_ORIN, "Raspberry Pi 5": RASPBERRY_PI_5, "NUC": NUC}


def cost_us(work: Callable[[], object], rounds: int = 7, seconds: float = 0.1) -> float:
    """Median over the rounds of the thread's CPU time for one call."""
    found = []
    for _ in range(rounds):
        calls, until, began = 0, time.monotonic() + seconds, time.thread_time()
        while time.monotonic() < until:
            work()
            calls += 1
        found.append((time.thread_time() - began) / calls * 1e6)
    return statistics.median(found)


def measure(folder: Path) -> dict[str, float]:
    """What was measured → microseconds of CPU."""
    found = {}
    for name, tree in BOXES.items():
        found[f"a look at the hardware, {name}"] = cost_us(HardwareProbe(write_tree(folder / name, tree)).look)
    found["a sample of CPU, memory and disk"] = cost_us(HostProbe(folder, min_interval_s=0.0).sample)
    status, build = agent_status(), HeartbeatBuilder().build
    found["a heartbeat, 1 camera"] = cost_us(lambda: build(status, 1.8e9))
    many = replace(status, cameras=status.cameras * 16)
    found["a heartbeat, 16 cameras"] = cost_us(lambda: build(many, 1.8e9))
    bus = write_tree(folder / "bus", IIO)
    chip = sensor_config(iio={"name": "hdc100x", "channel": "temp"})
    found["reading a sensor by the chip's name"] = cost_us(lambda: read(chip, bus))
    for count in (0, 1, 8, 64):
        sensors = make_sensors(*(sensor_config(f"s{n}", mqtt={"topic": "t"}) for n in range(count)))
        for take in sensors.subscriptions.values():
            take(b"21.5")
        found[f"the latest of {count} sensors, for one frame"] = cost_us(sensors.latest)
        found[f"a look at {count} sensors, four times a second"] = cost_us(sensors.look)
    return found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        found = measure(Path(folder))
    if args.json:
        print(json.dumps(found))
    else:
        for what, microseconds in found.items():
            print(f"{what:48} {microseconds:9.1f} µs")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
