"""The whole agent on a video, against the bare model and against the obvious loop, all in one run on one machine.

``python -m benchmarks.pipeline VIDEO [--rounds 3] [--json]``. Each round measures, one after the other:

- *agent*: ``edge-agent bench`` as a process of its own, which alternates the whole pipeline with the model alone;
- *loop*: read, letterbox, run (ONNX Runtime's default threads), decode, suppress, track, in one thread.

Ratios are taken in each round, against what ran right beside it, and their median over the rounds is given: a
machine's speed drifts by more than what is measured here. CPU per frame outside inference and decoding is what the
agent's process used, less the CPU of those two stages. Exit code 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

from edge_agent import config_file
from edge_agent.bench.result import BenchResult
from edge_agent.config import Config
from edge_agent.detect.backends import InputTensor
from edge_agent.detect.backends.choice import choose
from edge_agent.detect.decoders import FAMILIES
from edge_agent.detect.default_model import take_model
from edge_agent.detect.manifest import Network
from edge_agent.detect.nms import nms
from edge_agent.detect.preprocess import Preprocessor
from edge_agent.track import MultiObjectTracker
from edge_agent.types import Detections

ROOT = Path(__file__).parent.parent
GOALS = {
    "fps against bare model": (">=", 0.90),
    "fps against the obvious loop": (">=", 1.2),
    "CPU ms per frame outside inference and decode": ("<=", 2.0),
    "peak RSS MB": ("<=", 250.0),
    "start-up to first detection s": ("<=", 3.0),
}


def loop(network: Network, config: Config, video: Path, frames: int) -> float:
    """Frames per second of the obvious sequential program, start-up not counted."""
    with network.verified() as paths:
        session = onnxruntime.InferenceSession(paths[0], providers=["CPUExecutionProvider"])
    width, height = network.input.size
    preprocess = Preprocessor(network.input, InputTensor((1, 3, height, width), "NCHW", np.dtype(np.float32)))
    decode = FAMILIES[network.family].decode
    tracker = MultiObjectTracker(config.track)
    capture = cv2.VideoCapture(str(video))
    began, count = 0.0, 0
    while count < frames:
        ok, image = capture.read()
        if not ok:
            break
        tensor, letterbox = preprocess(image)
        outputs = session.run(list(network.outputs), {network.input.name: tensor})
        boxes, scores, classes = decode(outputs, network, config.detect.score_threshold)
        keep = nms(boxes, scores, classes, config.detect.nms_iou, config.detect.max_detections)
        found = Detections(letterbox.to_source(boxes[keep]), scores[keep], classes[keep], network.labels)
        tracker.update(found, count / 7)
        count += 1
        if count == 1:
            began = time.perf_counter()
    capture.release()
    return (count - 1) / (time.perf_counter() - began)


def agent(config: Path, video: Path, frames: int) -> BenchResult:
    """The product's own measurement, in a process of its own."""
    command = [sys.executable, "-m", "edge_agent.cli", "bench", "-c", str(config), "--backend", "onnxruntime"]
    command += ["--source", str(video), "--frames", str(frames), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode != 0:
        raise SystemExit(f"bench ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return BenchResult.model_validate_json(done.stdout)


def measure(video: Path, rounds: int, frames: int, config_path: Path) -> dict[str, Any]:
    """All figures."""
    config = config_file.load(config_path).overridden(backend="onnxruntime")
    model = take_model(config.model, config.models_dir, config.detect).model
    network = choose(model, config.detect).network  # what the agent takes
    loops: list[float] = []
    runs: list[BenchResult] = []
    for number in range(rounds):
        runs.append(agent(config_path, video, frames))
        loops.append(loop(network, config, video, max(frames // 3, 50)))
        sys.stderr.write(f"\rround {number + 1} of {rounds}")
    sys.stderr.write("\n")
    beside = zip(runs, loops, strict=True)
    figures = {
        "fps against bare model": statistics.median(run.ratio.median for run in runs),
        "fps against the obvious loop": statistics.median(run.pipeline_fps.median / fps for run, fps in beside),
        "CPU ms per frame outside inference and decode": statistics.median(_other_cpu_ms(run) for run in runs),
        "peak RSS MB": max(run.peak_rss_mb for run in runs),
        "start-up to first detection s": statistics.median(run.first_detection_s for run in runs),
    }
    return {"figures": figures, "details": {"loop_fps": loops, "agent": [run.model_dump(mode="json") for run in runs]}}


def _other_cpu_ms(run: BenchResult) -> float:
    return run.cpu_ms - run.stages["inference"].cpu_ms - run.stages["decode"].cpu_ms


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, nargs="?", default=ROOT / ".cache" / "vtest.avi")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=795)
    parser.add_argument("-c", "--config", type=Path, default=ROOT / "config.yaml")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = measure(args.video.resolve(), args.rounds, args.frames, args.config)
    missed = [
        name
        for name, (sign, goal) in GOALS.items()
        if not (result["figures"][name] >= goal if sign == ">=" else result["figures"][name] <= goal)
    ]
    if args.json:
        print(json.dumps(result | {"missed": missed}))
    else:
        for name, (sign, goal) in GOALS.items():
            print(
                f"{name:48} {result['figures'][name]:8.2f}   goal {sign} {goal}{'   MISSED' if name in missed else ''}"
            )
        print(json.dumps(result["details"]))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
