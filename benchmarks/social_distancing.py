"""How far the distances between people are off, with a simulated detector on ground-truth boxes.

    python -m benchmarks.social_distancing SCENE.txt [SCENE.txt ...] --points points.json [--seeds 3] [--ablate]

SCENE is a ground-truth file in MOTChallenge format of a camera that ``points.json`` calibrates (an object with
``image_size`` and ``points`` as in ``config.yaml``). The identities are those of the ground truth, so that the ground
plane is measured and not the tracker. Truth is the projection of the clean boxes' foot points; the annotation's own
noise (some centimetres near, a few decimetres far away) is part of every number here.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.scenes import Scene, load_mot, visibility
from edge_agent.config import CameraConfig
from edge_agent.types import F64, I64, Bools, Ground, Pairs, Tracks
from edge_agent.usecases.geometry import GroundPlane
from edge_agent.usecases.ground import BoxNoise, CameraGround
from edge_agent.usecases.smoothing import Motion

FPS = 7.0
MAX_PREDICTED_S = 0.6


@dataclass(frozen=True, slots=True)
class Faults:
    """White errors of a box in box heights as measured on real detections, misses and hidden feet."""

    across: float = 0.025
    top: float = 0.035
    bottom: float = 0.03
    slow: float = 0.5
    """Part of the errors' variance that is slow (correlated over ``slow_s``)."""
    slow_s: float = 0.7
    drop: float = 0.10
    """Share of frames in which a fully visible person is missed; more where others stand in front."""
    cut_share: float = 0.6
    """Of the part of the person that others in front hide, this share is cut off the box's bottom ..."""
    cut_people: float = 0.5
    """... for this share of spells of ``low_s``; else the detector completes the person, as most are trained to."""
    low_share: float = 0.05
    """Share of time in which something else hides the legs (a wall, a car), for about ``low_s``."""
    low_s: float = 1.0


def simulate(scene: Scene, faults: Faults, seed: int) -> Iterator[tuple[float, Tracks, F64]]:
    """Time, tracks with the ground truth's ids, and the clean boxes of the same rows, frame by frame."""
    rng = np.random.default_rng(seed)
    dt = 1 / scene.fps
    keep = np.exp(-dt / faults.slow_s)
    slow: dict[int, F64] = {}
    low: dict[int, tuple[float, float]] = {}
    seen: dict[int, float] = {}
    for frame in range(scene.length):
        t = frame * dt
        ids, clean = scene.at(frame)
        order = np.argsort(ids)
        ids, clean = ids[order], clean[order]
        boxes, predicted, report = clean.copy(), np.zeros(len(ids), bool), np.zeros(len(ids), bool)
        for row, (ident, visible) in enumerate(zip(ids.tolist(), visibility(clean), strict=True)):
            white, start, share = rng.standard_normal(7), rng.random(), 0.2 + 0.25 * rng.random()
            slow[ident] = keep * slow.get(ident, white[4:]) + np.sqrt(1 - keep**2) * white[4:]
            if start < dt * faults.low_share / faults.low_s:
                low[ident] = (t + faults.low_s, share)
            until, part = low.get(ident, (0.0, 0.0))
            cuts = (hash((ident, int(t / faults.low_s), seed)) % 1000) / 1000 < faults.cut_people
            cut = max(faults.cut_share * (1 - visible) * cuts, part if t < until else 0.0)
            boxes[row] = _wrong(clean[row], cut, faults, white[:3], slow[ident])
            missed = rng.random() < 1 - (1 - faults.drop) * np.clip((visible - 0.1) / 0.5, 0, 1)
            if not missed:
                seen[ident] = t
            predicted[row] = missed
            report[row] = t - seen.get(ident, -np.inf) <= MAX_PREDICTED_S
        n = int(report.sum())
        tracks = Tracks(
            ids[report],
            boxes[report].astype(np.float32),
            np.full(n, 0.6, np.float32),
            np.zeros(n, np.int32),
            predicted[report],
            ("person",),
        )
        yield t, tracks, clean[report]


def _wrong(box: F64, cut: float, faults: Faults, white: F64, slow: F64) -> F64:
    x1, y1, x2, y2 = box
    height = y2 - y1
    sigma = np.array([faults.across, faults.top, faults.bottom])
    across, top, bottom = height * sigma * (np.sqrt(1 - faults.slow) * white + np.sqrt(faults.slow) * slow)
    return np.array([x1 + across, y1 + top, x2 + across, y2 + bottom - cut * height])


@dataclass(slots=True)
class Score:
    """Counts over all frames, and the errors of the pairs that are nearer than 5 m in truth."""

    hit: int = 0
    extra: int = 0
    missed: int = 0
    error: float = 0.0
    place: float = 0.0
    inside: int = 0
    pairs: int = 0
    places: int = 0
    seconds: float = 0.0
    frames: int = 0

    def add(self, truth: F64, found: F64, sigma: F64) -> None:
        """Distances of all pairs of a frame, NaN where one is not known; (M,) each."""
        known = ~np.isnan(truth) & ~np.isnan(found)
        near, told = truth < 2, found < 2
        self.hit += int((near & told).sum())
        self.extra += int((~near & told).sum())
        self.missed += int((near & ~told).sum())
        use = known & (truth < 5)
        off = np.abs(found - truth)[use]
        self.error += float(off.sum())
        self.inside += int((off <= 2 * sigma[use]).sum())
        self.pairs += int(use.sum())

    def row(self) -> str:
        """One row of the table."""
        f1 = 2 * self.hit / max(2 * self.hit + self.extra + self.missed, 1)
        return (
            f"{f1:.3f} | {self.error / self.pairs:.3f} | {self.place / self.places:.3f} | "
            f"{self.inside / self.pairs:.2f} | {self.seconds / self.frames * 1e3:.3f}"
        )


class PerFrame:
    """The plain way to compare with: every foot point through the homography, no memory."""

    def __init__(self, plane: GroundPlane) -> None:
        self._plane = plane

    def update(self, tracks: Tracks, _t: float, _size: tuple[int, int]) -> tuple[Ground, Pairs]:
        """Foot points in metres; no pairs."""
        xy = self._plane.to_ground(_feet(tracks.boxes.astype(np.float64)))
        xy[tracks.predicted] = np.nan
        none: Bools = np.zeros(len(xy), bool)
        empty = np.empty(0)
        ids: I64 = np.empty(0, np.int64)
        return Ground(xy, np.zeros((len(xy), 2, 2)), none, True), Pairs(ids, ids, empty, empty)


def _feet(boxes: F64) -> F64:
    return np.column_stack([(boxes[:, 0] + boxes[:, 2]) / 2, boxes[:, 3]])


def measure(scene: Scene, projector: CameraGround | PerFrame, plane: GroundPlane, faults: Faults, seed: int) -> Score:
    """Run a scene through a projector."""
    score = Score()
    for t, tracks, clean in simulate(scene, faults, seed):
        began = time.perf_counter()
        ground, _ = projector.update(tracks, t, scene.size)
        score.seconds += time.perf_counter() - began
        score.frames += 1
        truth = plane.to_ground(_feet(clean))
        i, j = np.triu_indices(len(truth), 1)
        cov = ground.cov[i] + ground.cov[j]
        apart = ground.xy[j] - ground.xy[i]
        distance = np.hypot(*apart.T)
        way = apart / np.maximum(distance, 1e-9)[:, None]
        sigma = np.sqrt(np.einsum("ni,nij,nj->n", way, cov, way))
        score.add(np.hypot(*(truth[j] - truth[i]).T), distance, sigma)
        off = np.hypot(*(ground.xy - truth).T)
        score.place += float(np.nansum(off))
        score.places += int((~np.isnan(off)).sum())
    return score


def _variants(ablate: bool) -> dict[str, tuple[BoxNoise, Motion]]:
    noise, motion = BoxNoise(), Motion()
    variants = {"as shipped": (noise, motion)}
    if ablate:
        variants |= {
            "no reasoning about hidden feet": (replace(noise, hidden=1e-9, edge=-1.0, head=1e3), motion),
            "no gate for blunders": (noise, replace(motion, gate=1e9)),
        }
        variants |= {f"wander {w} m/s": (noise, replace(motion, wander=w)) for w in (0.25, 1.0, 2.0)}
        variants |= {
            f"box noise × {k}": (
                replace(noise, foot=noise.foot * k, head=noise.head * k, across=noise.across * k),
                motion,
            )
            for k in (0.5, 2.0)
        }
        variants |= {f"hidden {h:.0%}": (replace(noise, hidden=h), motion) for h in (0.02, 0.1)}
    return variants


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="+", type=Path)
    parser.add_argument("--points", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--ablate", action="store_true")
    args = parser.parse_args()
    data = json.loads(args.points.read_text())
    size = (data["image_size"][0], data["image_size"][1])
    camera = CameraConfig.model_validate(
        {"id": "c", "source": "-", "ground": {"image_size": size, "points": data["points"]}}
    )
    plane = CameraGround(camera).plane
    assert plane is not None
    print(
        "| scene | variant | F1 at 2 m | distance error, m | place error, m | within 2 σ | ms |\n|---|---|---|---|---|---|---|"
    )
    for path in args.scenes:
        scene = load_mot(path, FPS, size)
        for name, options in {"every frame by itself": None, **_variants(args.ablate)}.items():
            total = Score()
            for seed in range(args.seeds):
                projector = (
                    PerFrame(plane) if options is None else CameraGround(camera, noise=options[0], motion=options[1])
                )
                score = measure(scene, projector, plane, Faults(), seed)
                for field in Score.__slots__:
                    setattr(total, field, getattr(total, field) + getattr(score, field))
            print(f"| {scene.name} | {name} | {total.row()} |", flush=True)


if __name__ == "__main__":
    main()
