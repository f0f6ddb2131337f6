"""How long no frame goes through a detector while another model takes over: 100 swaps on a loaded box, two models in turn.

    python -m benchmarks.hot_swap [--swaps 100] [--cameras 2] [--fps 10] [--json]

The pieces are the agent's: ``ServingModel`` loads and warms the next model beside the one at work, at low priority, and swaps;
``DetectionPool`` brings frames from paced cameras, and its workers note when each one began and ended and which model it was.
Two times are told for the two seconds around each swap: ``idle``, the longest in which no frame was inside a detector, and
``silent``, the longest between two results, which holds a frame's own time and whatever else the box does. Both are told for
two quiet seconds after each swap as well (``usual``). Exit code 1 where ``silent`` exceeds its usual median by more than
``--goal-ms``, a frame was lost to the swap, or one names a model that was not at work while it was inside.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))

import itertools

from edge_agent.capture.slots import LatestSlot
from edge_agent.config import Config
from edge_agent.detect.manifest import find_model
from edge_agent.detect.serving import ServingDetector
from edge_agent.ota.offer import Bundle
from edge_agent.pipeline import CameraChain, CameraLane, DetectionPool
from edge_agent.serving_model import Candidate, ServingModel
from edge_agent.supervisor import Supervisor
from edge_agent.track import MultiObjectTracker
from edge_agent.types import Detections, Frame
from edge_agent.usecases.ground import CameraGround

ROOT = Path(__file__).parent.parent
GOAL_MS = 200.0
QUIET_S = 4.0
"""After each swap, before the next model is loaded: its last two seconds are what is usual, under the same load."""


@dataclass
class Noted:
    """Fulfils ``pipeline.Detector``: the serving one, with what each frame took."""

    serving: ServingDetector
    calls: list[tuple[float, float, str]] = field(default_factory=list)
    """Begin and end (monotonic) and the model's version."""

    @property
    def concurrency(self) -> int:
        """See ``Detector``."""
        return self.serving.concurrency

    def detect(self, frame: Frame) -> Detections:
        """See ``Detector``."""
        began = time.monotonic()
        found = self.serving.detect(frame)
        assert found.model is not None
        self.calls.append((began, time.monotonic(), found.model.version))
        return found


def seeds(folder: Path, versions: Sequence[str]) -> None:
    """The bundled detector under several versions."""
    model = find_model("person-n", ROOT / "models")
    for version in versions:
        place = folder / "person-n" / version
        place.mkdir(parents=True)
        for path in model.folder.iterdir():
            (place / path.name).symlink_to(path)
        manifest = yaml.safe_load((model.folder / "manifest.yaml").read_text())
        (place / "manifest.yaml").unlink()
        (place / "manifest.yaml").write_text(yaml.safe_dump(manifest | {"version": version}))


def paced(slot: LatestSlot, camera: str, fps: float, stop: threading.Event) -> None:
    """A camera: noise, ``fps`` times a second."""
    picture = np.random.default_rng(0).integers(0, 255, (576, 768, 3), np.uint8)
    began, number = time.monotonic(), 0
    while not stop.wait(max(0.0, began + number / fps - time.monotonic())):
        slot.put(Frame(camera, number, number / fps, time.time(), picture))
        number += 1
    slot.close()


def measure(swaps: int, cameras: int, fps: float, folder: Path) -> dict[str, Any]:
    """All swaps; gaps in milliseconds."""
    seeds(folder / "models", ("1.0", "2.0"))
    config = Config.model_validate(
        {
            "model": "person-n@1.0",
            "models_dir": folder / "models",
            "state_dir": folder / "state",
            "cameras": [{"id": f"c{n}", "source": "rtsp://none.example/"} for n in range(cameras)],
        }
    )
    stop, ready = threading.Event(), threading.Condition()
    serving = ServingModel(config, [Candidate()], stop=stop)
    noted, supervisor = Noted(serving.detector), Supervisor(stop)
    slots = [LatestSlot(ready) for _ in range(cameras)]
    lanes = [CameraLane(slot, _chain(config, n)) for n, slot in enumerate(slots)]
    pool = DetectionPool(noted, lanes, ready, serving.detector.concurrency)
    for number in range(serving.detector.concurrency):
        supervisor.spawn(f"detect:{number}", pool.work, essential=True, deadline_s=30.0, restart=False)
    for camera, slot in zip(config.cameras, slots, strict=True):
        threading.Thread(target=paced, args=(slot, camera.id, fps, stop), daemon=True).start()
    time.sleep(3.0)
    swapped: list[tuple[float, str]] = []
    loads: list[float] = []
    for number in range(swaps):
        version = ("2.0", "1.0")[number % 2]
        began = time.monotonic()
        bundle = Bundle(name="person-n", version=version, sha256=f"{number:064x}")
        serving.warm(Candidate(bundle, folder / "models" / "person-n" / version, "benchmark"))
        loads.append(time.monotonic() - began)
        serving.swap()
        swapped.append((time.monotonic(), version))
        time.sleep(QUIET_S)
    stop.set()
    supervisor.join("detect:", 10.0)
    around = [_gap(noted.calls, at) for at, _ in swapped]
    idle, silent = ([gap[kind] for gap in around] for kind in (0, 1))
    between = [_gap(noted.calls, at + QUIET_S - 1.0) for at, _ in swapped]
    usual_idle, usual_silent = ([gap[kind] for gap in between] for kind in (0, 1))
    return {
        "swaps": swaps,
        "frames": len(noted.calls),
        "failed_frames": sum(lane.chain.stats.failed for lane in lanes),
        "half_a_model": _wrong(noted.calls, swapped),
        **_spread("idle_ms", idle),
        **_spread("silent_ms", silent),
        **_spread("usual_idle_ms", usual_idle),
        **_spread("usual_silent_ms", usual_silent),
        "load_and_warm_s_median": round(statistics.median(loads), 2),
        "fps": round(len(noted.calls) / (noted.calls[-1][1] - noted.calls[0][0]), 1),
        "worker_failure": str(supervisor.failure or ""),
    }


def _chain(config: Config, number: int) -> CameraChain:
    camera = config.cameras[number]
    tracker = MultiObjectTracker(config.track)
    return CameraChain(camera.id, tracker=tracker, ground=CameraGround(camera), use_cases=[], emit=lambda _: None)


def _spread(name: str, values: list[float]) -> dict[str, float]:
    high = sorted(values)[int(0.95 * (len(values) - 1))]
    numbers = {"max": max(values), "p95": high, "median": statistics.median(values)}
    return {f"{name}_{key}": round(value, 1) for key, value in numbers.items()}


def _gap(calls: list[tuple[float, float, str]], at: float, around_s: float = 1.0) -> tuple[float, float]:
    """``idle`` and ``silent`` in milliseconds, from a second before (loading) to one after."""
    near = sorted((began, ended) for began, ended, _ in list(calls) if at - around_s < ended and began < at + around_s)
    if len(near) < 2:
        return 2000 * around_s, 2000 * around_s
    idle, until = 0.0, near[0][1]
    for began, ended in near:
        idle, until = max(idle, began - until), max(until, ended)
    results = sorted(ended for _, ended in near)
    silent = max(later - earlier for earlier, later in itertools.pairwise(results))
    return 1000 * idle, 1000 * silent


def _wrong(calls: list[tuple[float, float, str]], swapped: list[tuple[float, str]]) -> int:
    """Frames that name a model which did not serve at any moment while they were inside."""
    wrong, times = 0, [0.0, *(at for at, _ in swapped)]
    versions = ["1.0", *(version for _, version in swapped)]
    for began, ended, version in calls:
        # A pointer and the note of its time are not one moment: a millisecond of grace.
        inside = {
            served
            for n, served in enumerate(versions)
            if times[n] - 0.005 <= ended and (n + 1 == len(times) or times[n + 1] + 0.005 >= began)
        }
        wrong += version not in inside
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--cameras", type=int, default=2)
    parser.add_argument("--fps", type=float, default=10.0, help="of each camera; default: %(default)s")
    parser.add_argument("--goal-ms", type=float, default=GOAL_MS)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    logging.disable()
    with tempfile.TemporaryDirectory(prefix="swap-") as folder:
        result = measure(args.swaps, args.cameras, args.fps, Path(folder))
    result["goal_ms"] = args.goal_ms
    text = json.dumps(result) if args.json else "\n".join(f"{key:24} {value}" for key, value in result.items())
    sys.stdout.write(text + "\n")
    lost = result["failed_frames"] or result["half_a_model"] or result["worker_failure"]
    return 1 if lost or result["silent_ms_max"] - result["usual_silent_ms_median"] > args.goal_ms else 0


if __name__ == "__main__":
    sys.exit(main())
