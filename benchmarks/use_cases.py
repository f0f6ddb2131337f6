"""What each use case costs: time for one frame with so many tracks, beside the rest of the chain.

    python -m benchmarks.use_cases [--tracks 20] [--seconds 60] [--goal-ms 0.3] [--json]

People walk about, meet, cross a line and stand in a zone, at 10 frames a second on 1280x720; every use case has the rules of
``docs/examples`` or like them. The time is that of the process (other processes on the box do not count), the median of
the frames; exit code 1 where a use case takes more than ``--goal-ms``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from edge_agent.chains import USE_CASES
from edge_agent.config import CameraConfig, UseCasesConfig
from edge_agent.config_classifiers import ClassifierConfig
from edge_agent.types import Look, Observation, Tracks, uuid7_factory
from edge_agent.usecases.ground import CameraGround
from edge_agent.usecases.scene import Places

SIZE = (1280, 720)
FPS = 10.0
START = 1_700_000_000.0
CAMERA = CameraConfig.model_validate(
    {
        "id": "cam",
        "source": "none",
        "zones": {
            "left": [[0, 0.3], [0.5, 0.3], [0.5, 1], [0, 1]],
            "right": [[0.5, 0.3], [1, 0.3], [1, 1], [0.5, 1]],
        },
        "lines": {"middle": [[0.5, 0], [0.5, 1]]},
    }
)
STEPS = [{"step": "a", "when": {"zone": "left", "for_s": 2}}, {"step": "b", "when": {"zone": "right", "for_s": 2}}]
SECTIONS: dict[str, Any] = {
    "social_distancing": {},
    "sop": {"procedures": [{"name": "walk", "requires_labels": ["person"], "steps": STEPS}]},
    "occupancy": {
        "rules": [
            {"name": "left", "zone": "left", "capacity": 8},
            {"name": "hall", "doors": [{"line": "middle"}]},
        ]
    },
    "line_count": {"rules": [{"name": "middle", "line": "middle"}]},
    "intrusion": {"rules": [{"name": "right", "zone": "right"}]},
    "loitering": {"rules": [{"name": "left", "zone": "left", "dwell_s": 20}]},
    "ppe": {"rules": [{"name": "left", "zone": "left", "wears": ["helmet"]}]},
    "attributes": {"rules": [{"name": "left", "zone": "left", "has": {"helmet": ["helmet"], "bag": ["bag"]}}]},
    "attention": {"enabled": True, "rules": [{"name": "all", "facing": ["helmet"]}]},
}
"""A use case that is not named here is not measured; a test holds this to ``chains.USE_CASES``."""


def walk(tracks: int, seconds: float, seed: int = 1) -> Iterator[tuple[float, Tracks]]:
    """So many people who wander about; each has one frame in ten missing, and now and then a new id."""
    rng = np.random.default_rng(seed)
    at, pace = rng.uniform([0.1, 0.4], [0.9, 0.95], (tracks, 2)), rng.normal(0, 0.05, (tracks, 2))
    ids, fresh = np.arange(1, tracks + 1), tracks + 1
    for k in range(round(seconds * FPS)):
        pace += rng.normal(0, 0.02, pace.shape)
        pace = np.clip(pace, -0.1, 0.1)
        at = at + pace / FPS
        out = (at < [0.05, 0.4]) | (at > [0.95, 0.98])
        pace[out] *= -1
        at = np.clip(at, [0.05, 0.4], [0.95, 0.98])
        if rng.random() < 0.02:
            ids[rng.integers(tracks)], fresh = fresh, fresh + 1
        x, y = at[:, 0] * SIZE[0], at[:, 1] * SIZE[1]
        tall = 0.3 * y
        boxes = np.column_stack([x - 0.2 * tall, y - tall, x + 0.2 * tall, y]).astype(np.float32)
        order, n = np.argsort(ids), tracks
        missed = rng.random(n) < 0.1
        yield (
            k / FPS,
            Tracks(
                ids[order].astype(np.int64),
                boxes[order],
                np.full(n, 0.8, np.float32),
                np.zeros(n, np.int32),
                missed,
                ("person",),
                boxes[order],
            ),
        )


def looks(tracks: Tracks, k: int) -> list[Look]:
    """What a classifier says of two of the tracks in frame ``k``."""
    boxes = tracks.boxes[[k % len(tracks), (k + 7) % len(tracks)]].tolist()
    return [Look((x1, y1, x2, y2), {"helmet": 0.1 if k % 3 else 0.9}) for x1, y1, x2, y2 in boxes]


def measure(tracks: int, seconds: float) -> dict[str, tuple[float, float]]:
    """Median and 95th percentile of one frame, milliseconds, by use case; after a warm-up of a tenth of the frames.

    ``(scene)``: identities over gaps, zones and lines, which all but social distancing share.
    """
    ground = CameraGround(CAMERA)
    frames = [
        Observation("cam", k, t, START + t, SIZE, seen, *ground.update(seen, t, SIZE), attributes=looks(seen, k))
        for k, (t, seen) in enumerate(walk(tracks, seconds))
    ]
    places = Places(CAMERA, {"helmet": ClassifierConfig(model="ppe-head")})
    work: dict[str, Callable[[Observation], object]] = {"(scene)": lambda seen: places.of("person").look(seen)}
    for name, section in UseCasesConfig.model_validate(SECTIONS).at_work():
        work[name] = USE_CASES[name](section, CAMERA, uuid7_factory(), places).update
    spent: dict[str, list[int]] = {name: [] for name in work}
    for seen in frames:
        for name, update in work.items():
            before = time.process_time_ns()
            update(seen)
            spent[name].append(time.process_time_ns() - before)
    warm = {name: np.array(times[len(times) // 10 :]) / 1e6 for name, times in spent.items()}
    return {name: (float(np.median(times)), float(np.percentile(times, 95))) for name, times in warm.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit code 1 above the goal."""
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.use_cases", description=__doc__.splitlines()[0])
    parser.add_argument("--tracks", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the scene")
    parser.add_argument("--goal-ms", type=float, default=0.3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    costs = measure(args.tracks, args.seconds)
    late = [name for name, (median, _) in costs.items() if median > args.goal_ms]
    if args.json:
        named = {name: {"median_ms": round(a, 4), "p95_ms": round(b, 4)} for name, (a, b) in costs.items()}
        print(json.dumps({"tracks": args.tracks, "goal_ms": args.goal_ms, "use_cases": named, "ok": not late}))
    else:
        print(f"{'use case':20}{'median ms':>10}{'p95 ms':>10}   with {args.tracks} tracks, goal {args.goal_ms:g} ms")
        for name, (median, p95) in costs.items():
            print(f"{name:20}{median:10.3f}{p95:10.3f}   {'above' if name in late else 'ok'}")
    return 1 if late else 0


if __name__ == "__main__":
    raise SystemExit(main())
