"""What a model in shadow takes from the model at work: frames a second with it and without, in turns, on a box that has no time to spare.

    python -m benchmarks.shadow_cost VIDEO [--active person-n] [--shadow person-s] [--fraction 0.1] [--pairs 10] [--seconds 6] [--json]

The pieces are the agent's: as many threads as pay off call the serving detector without a pause, frames of the video from memory; the
shadow runs in its own process at low priority and sees its share of them. It stays loaded in the windows without it. Told is the
median over pairs of neighbouring windows of frames with / frames without, and what the two models saw.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import cv2

sys.path.insert(0, str(Path(__file__).parent.parent))

from edge_agent.config import Config
from edge_agent.detect.apart import DetectorApart
from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.backends.choice import choose
from edge_agent.detect.manifest import find_detector
from edge_agent.detect.serving import ServingDetector
from edge_agent.health.shadow import ShadowStatus
from edge_agent.model_beside import NICENESS, Beside
from edge_agent.model_tally import Tally
from edge_agent.serving_model import Candidate, ServingModel
from edge_agent.types import Frame

ROOT = Path(__file__).parent.parent
FRAMES = 120
"""Of the video, spread over it, in memory."""


def frames_of(video: Path) -> list[Frame]:
    """Spread over the whole of it."""
    capture = cv2.VideoCapture(str(video))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    found = []
    for number in range(count):
        ok, image = capture.read()
        if ok and number % max(1, count // FRAMES) == 0:
            found.append(Frame("film", number, number / 10, 0.0, image))
    capture.release()
    if not found:
        raise SystemExit(f"{video}: no frame can be read")
    return found


def busy(detector: ServingDetector, frames: list[Frame], stop: threading.Event, first: int) -> None:
    """Work without a pause."""
    number = first
    while not stop.is_set():
        detector.detect(frames[number % len(frames)])
        number += 7  # several threads do not look at the same ones


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All windows."""
    config = Config.model_validate(
        {
            "model": args.active,
            "models_dir": ROOT / "models",
            "state_dir": folder,
            "cameras": [{"id": "film", "source": "rtsp://none.example/"}],
        }
    )
    frames, stop = frames_of(args.video), threading.Event()
    serving = ServingModel(config, [Candidate()], stop=stop)
    detector = serving.detector
    choice = choose(find_detector(args.shadow, ROOT / "models"), config.detect)
    apart = DetectorApart(
        choice.backend, LoadRequest(choice.network, choice.config, folder), niceness=NICENESS, growth_mb=200
    )
    tally = Tally(config.track, args.fraction, detector.meter())
    beside = Beside(apart, args.fraction, config.track, tally.told)
    threads = [
        threading.Thread(target=busy, args=(detector, frames, stop, number), daemon=True)
        for number in range(detector.concurrency)
    ]
    for thread in threads:
        thread.start()
    rates: dict[bool, list[float]] = {True: [], False: []}
    time.sleep(2.0)
    for number in range(2 * args.pairs):
        on = number % 4 in {1, 2}  # without, with, with, without: what drifts hits both
        detector.observer = beside.offer if on else None
        time.sleep(0.5)
        before, began = detector.meter().calls, time.monotonic()
        time.sleep(args.seconds)
        rates[on].append((detector.meter().calls - before) / (time.monotonic() - began))
    stop.set()
    for thread in threads:
        thread.join(30)
    seen = tally.into(ShadowStatus(apart.tag.label, "completed", args.fraction, 0.0, 0.0), detector.meter())
    trouble = apart.trouble
    apart.close()
    beside.close()
    detector.close()
    ratios = [with_it / without for with_it, without in zip(rates[True], rates[False], strict=True)]
    told = {key: value for key, value in dataclasses.asdict(seen).items() if key in {"frames", "failed", "agreement"}}
    return {
        "active": serving.now.label,
        "shadow": apart.tag.label,
        "fraction": args.fraction,
        "threads": len(threads),
        "fps_without": round(statistics.median(rates[False]), 2),
        "fps_with": round(statistics.median(rates[True]), 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        **told,
        "score_difference": seen.score_difference,
        "latency_ms": seen.latency_ms,
        "active_latency_ms": seen.active_latency_ms,
        "labels": {label: dataclasses.asdict(of) for label, of in seen.labels.items()},
        "memory_mb": round(apart.memory_mb),
        "trouble": trouble,
    }


def main() -> int:
    """Exit code 1 where the shadow did not come through."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--active", default="person-n")
    parser.add_argument("--shadow", default="person-s")
    parser.add_argument("--fraction", type=float, default=0.1)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args, Path(folder))
    if args.json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        for key, value in result.items():
            sys.stdout.write(f"{key:18} {value}\n")
    return int(result["trouble"] is not None)


if __name__ == "__main__":
    sys.exit(main())
