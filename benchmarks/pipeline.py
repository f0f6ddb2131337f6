"""The whole agent on a video, against the bare model and against the obvious loop, all in one run on one machine.

``python -m benchmarks.pipeline VIDEO [--rounds 3] [--json]``. Each round measures, one after the other:

- *bare*: the model alone on a ready tensor, as many threads as the agent has workers, before and after the agent;
- *loop*: read, letterbox, run (ONNX Runtime's default threads), decode, suppress, track, in one thread;
- *agent*: ``edge-agent run --source VIDEO --no-mqtt --record …`` as a process of its own.

Ratios are taken in each round, against what ran right beside it, and their median over the rounds is given: a
machine's speed drifts by more than what is measured here. CPU per frame outside
inference and decoding is what the agent's process used, less the inference and decoding CPU timed inside it.
Exit code 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

from edge_agent import config_file
from edge_agent.config import Config, DetectConfig
from edge_agent.detect.backends import InputTensor, LoadRequest
from edge_agent.detect.backends.onnxruntime import OnnxRuntimeBackend
from edge_agent.detect.decoders import FAMILIES
from edge_agent.detect.manifest import Model, find_model
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


def bare(model: Model, workers: int, seconds: float) -> float:
    """Inferences per second of the model alone."""
    backend = OnnxRuntimeBackend(LoadRequest(model.network("onnxruntime"), DetectConfig(), ROOT))
    width, height = model.manifest.input.size
    counts = [0] * workers
    until = 0.0

    def work(i: int) -> None:
        run = backend.runner()
        tensor = np.random.default_rng(i).standard_normal((1, 3, height, width)).astype(np.float32)
        run(tensor)
        barrier.wait()
        while time.perf_counter() < until:
            run(tensor)
            counts[i] += 1

    barrier = threading.Barrier(workers + 1)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(workers)]
    for thread in threads:
        thread.start()
    until = time.perf_counter() + 3600
    barrier.wait()
    began = time.perf_counter()
    until = began + seconds
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def loop(model: Model, config: Config, video: Path, frames: int) -> float:
    """Frames per second of the obvious sequential program, start-up not counted."""
    network = model.network("onnxruntime")
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
        outputs = session.run(list(model.manifest.outputs), {model.manifest.input.name: tensor})
        boxes, scores, classes = decode(outputs, network, config.detect.score_threshold)
        keep = nms(boxes, scores, classes, config.detect.nms_iou, config.detect.max_detections)
        found = Detections(letterbox.to_source(boxes[keep]), scores[keep], classes[keep], model.manifest.labels)
        tracker.update(found, count / 7)
        count += 1
        if count == 1:
            began = time.perf_counter()
    capture.release()
    return (count - 1) / (time.perf_counter() - began)


def agent(config: Path, video: Path, frames: int, folder: Path) -> dict[str, float]:
    """One process of the agent, told to time its own parts."""
    result = folder / "parts.json"
    command = [sys.executable, "-m", "benchmarks.instrumented_run", str(result), "run", "-c", str(config)]
    command += ["--source", str(video), "--no-mqtt", "--record", str(folder / "out.jsonl"), "--max-frames", str(frames)]
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode != 0:
        raise SystemExit(f"the agent ended with {done.returncode}:\n{done.stderr[-2000:]}")
    parts: dict[str, float] = json.loads(result.read_text())
    parts["start_s"] = parts["first_detection"] - began
    return parts


def measure(video: Path, rounds: int, frames: int, config_path: Path) -> dict[str, Any]:
    """All figures."""
    config = config_file.load(config_path)
    model = find_model(config.model, config.models_dir)
    workers = config.detect.workers or len(os.sched_getaffinity(0))
    bares, loops, runs = [], [], []
    for number in range(rounds):
        before = bare(model, workers, 5.0)
        with tempfile.TemporaryDirectory() as folder:
            runs.append(agent(private(config_path, Path(folder)), video, frames, Path(folder)))
        bares.append((before + bare(model, workers, 5.0)) / 2)
        loops.append(loop(model, config, video, max(frames // 3, 50)))
        sys.stderr.write(f"\rround {number + 1} of {rounds}")
    sys.stderr.write("\n")
    median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    figures = {
        "fps against bare model": statistics.median(r["fps"] / b for r, b in zip(runs, bares, strict=True)),
        "fps against the obvious loop": statistics.median(r["fps"] / x for r, x in zip(runs, loops, strict=True)),
        "CPU ms per frame outside inference and decode": median["other_cpu_ms"],
        "peak RSS MB": max(run["peak_rss_mb"] for run in runs),
        "start-up to first detection s": median["start_s"],
    }
    details = {"workers": workers, "frames": frames, "bare_fps": bares, "loop_fps": loops, "agent": runs}
    return {"figures": figures, "details": details}


def private(config: Path, folder: Path) -> Path:
    """The same configuration with its state in a folder of its own and no fixed port."""
    text = config.read_text(encoding="utf-8").replace("port: 8080", "port: 0")
    models = config_file.load(config).models_dir
    copy = folder / "config.yaml"
    copy.write_text(f"state_dir: {folder / 'state'}\nmodels_dir: {models}\n{text}", encoding="utf-8")
    return copy


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
