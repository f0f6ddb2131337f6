"""IDF1, MOTA, id switches and time per frame of the tracker, beside ``trackers.ByteTrackTracker`` where it is installed.

    python -m benchmarks.tracker [--gt FILE[@FPS] ...] [--seeds N] [--json]

Ground truth in MOTChallenge format; without ``--gt`` the two TUD sequences inside motmetrics. Detections come from
``benchmarks.scenes`` with N seeds from 100 on (0 and 1 were used in development) at three levels of faults and three
frame rates (every frame, every second, every third), the same for both trackers. Ours runs with the defaults of its
configuration. ByteTrack runs with the best of a grid (by mean IDF1 over all the scenes given, at the middle level,
with a seed of its own). Scores are motmetrics'.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scenes import Faults, Scene, detect, iou, load_mot
from edge_agent.config import TrackConfig
from edge_agent.track import MultiObjectTracker
from edge_agent.types import F32, I64, Detections

LEVELS = {
    "mild": Faults(drop=0.05, jitter=0.02, clutter=0.2, haunts=1, double=0.04),
    "middle": Faults(),
    "hard": Faults(drop=0.35, jitter=0.05, clutter=1.0, haunts=5, double=0.12),
}
STEPS = (1, 2, 3)
FIRST_SEED = 100
GRID_SEED = 1000
GRID = {
    "track_activation_threshold": (0.5, 0.6, 0.7),
    "minimum_iou_threshold": (0.1, 0.3),
    "minimum_consecutive_frames": (1, 2),
    "lost_track_buffer": (60,),  # two seconds, as ours
}

Step = Callable[[Detections, float], tuple[I64, F32]]
Make = Callable[[float], Step]


@dataclass(frozen=True, slots=True)
class Result:
    """One run of one tracker over one scene."""

    tracker: str
    scene: str
    fps: float
    level: str
    seed: int
    idf1: float
    mota: float
    switches: int
    ms: float
    frames: int
    boxes: float


def ours(_fps: float) -> Step:
    """The agent's tracker as it comes."""
    tracker = MultiObjectTracker(TrackConfig())

    def step(detections: Detections, t: float) -> tuple[I64, F32]:
        tracks = tracker.update(detections, t)
        return tracks.ids, tracks.boxes

    return step


def bytetrack(options: dict[str, Any]) -> Make:
    """The reference with ``options``; ImportError where it is not installed."""
    import supervision as sv
    from trackers import ByteTrackTracker

    def make(fps: float) -> Step:
        high = options["track_activation_threshold"]
        tracker = ByteTrackTracker(frame_rate=fps, high_conf_det_threshold=high, **options)

        def step(detections: Detections, _t: float) -> tuple[I64, F32]:
            usable = detections.select(detections.scores >= 0.1)
            given = sv.Detections(usable.boxes, confidence=usable.scores, class_id=usable.classes.astype(int))
            out = tracker.update(given)
            named = out.tracker_id >= 0
            return out.tracker_id[named], out.xyxy[named]

        return step

    return make


def score(scene: Scene, found: list[tuple[I64, F32]]) -> dict[str, float]:
    """motmetrics' IDF1, MOTA and id switches, a box being right from an IoU of 0.5."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import motmetrics as mm

        book = mm.MOTAccumulator(auto_id=True)
        for frame, (ids, boxes) in enumerate(found):
            true_ids, true = scene.at(frame)
            distance = 1 - iou(true, boxes.astype(np.float64))
            distance[distance > 0.5] = np.nan
            book.update(true_ids, ids, distance)
        summary = mm.metrics.create().compute(book, metrics=["idf1", "mota", "num_switches"], name="x")
    return {key: float(summary[key].iloc[0]) for key in ("idf1", "mota", "num_switches")}


def run(name: str, make: Make, scene: Scene, level: str, seed: int) -> Result:
    """One tracker over one scene."""
    given = detect(scene, LEVELS[level], seed)
    step = make(scene.fps)
    began = time.perf_counter()
    found = [step(detections, frame / scene.fps) for frame, detections in enumerate(given)]
    ms = (time.perf_counter() - began) / len(given) * 1e3
    marks = score(scene, found)
    boxes = sum(map(len, given)) / len(given)
    return Result(
        name, scene.name, round(scene.fps, 2), level, seed, marks["idf1"], marks["mota"], int(marks["num_switches"]),
        ms, len(given), boxes,
    )  # fmt: skip


def best_options(scenes: list[Scene]) -> dict[str, Any]:
    """Of the grid, the options with the best mean IDF1 at the middle level."""
    tried = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    marks = [
        np.mean([run("grid", bytetrack(options), scene, "middle", GRID_SEED).idf1 for scene in scenes])
        for options in tried
    ]
    return tried[int(np.argmax(marks))]


def results(scenes: list[Scene], seeds: int, makers: dict[str, Make]) -> Iterator[Result]:
    """Every tracker over every scene, frame rate, level and seed; trackers take turns, so that load hits both."""
    for scene, step, level, seed in itertools.product(scenes, STEPS, LEVELS, range(FIRST_SEED, FIRST_SEED + seeds)):
        for name, make in makers.items():
            yield run(name, make, scene.every(step), level, seed)


def table(rows: list[Result], title: str, key: Callable[[Result], str]) -> str:
    """Markdown: means over the runs that share a key. The last column is the time in terms of the last tracker's."""
    lines = [f"| {title} | tracker | IDF1 | MOTA | switches | ms/frame | time ratio |", "|---|---|---|---|---|---|---|"]
    for value in dict.fromkeys(map(key, rows)):
        groups = {
            n: [r for r in rows if r.tracker == n and key(r) == value] for n in dict.fromkeys(r.tracker for r in rows)
        }
        means = {
            n: [float(np.mean([getattr(r, f) for r in g])) for f in ("idf1", "mota", "switches", "ms")]
            for n, g in groups.items()
        }
        last = list(means.values())[-1][3]
        lines += [
            f"| {value} | {name} | {m[0]:.3f} | {m[1]:.3f} | {m[2]:.1f} | {m[3]:.2f} | {m[3] / last:.2f} |"
            for name, m in means.items()
        ]
    return "\n".join(lines)


def _load(text: str) -> Scene:
    path, _, fps = text.partition("@")
    return load_mot(Path(path), float(fps or 25))


def included() -> list[Scene]:
    import motmetrics

    data = Path(motmetrics.__file__).parent / "data"
    return [load_mot(data / name / "gt.txt", 25.0, (640, 480)) for name in ("TUD-Campus", "TUD-Stadtmitte")]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tracker", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument(
        "--gt", nargs="+", metavar="FILE[@FPS]", help="ground truth in MOTChallenge format; 25 fps unless said"
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON object with every run instead of tables")
    options = parser.parse_args()
    scenes = [_load(text) for text in options.gt] if options.gt else included()
    makers: dict[str, Make] = {"edge-agent": ours}
    chosen: dict[str, Any] = {}
    try:
        chosen = best_options(scenes)
        makers["ByteTrack"] = bytetrack(chosen)
    except ImportError:
        pass  # the reference is not a dependency
    rows = list(results(scenes, options.seeds, makers))
    if options.json:
        print(json.dumps({"bytetrack": chosen, "runs": [asdict(row) for row in rows]}))
        return
    print(f"ByteTrack's options: {chosen}\n" if chosen else "ByteTrack is not installed (pip install trackers)\n")
    for title, key in (
        ("all", lambda r: "mean"),
        ("scene", lambda r: f"{r.scene} at {r.fps:g} fps"),
        ("faults", lambda r: r.level),
    ):
        print(table(rows, title, key) + "\n")


if __name__ == "__main__":
    main()
