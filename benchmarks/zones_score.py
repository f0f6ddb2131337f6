"""How well occupancy, line count, intrusion and loitering judge scripted scenes whose truth is known.

    python -m benchmarks.zones_score --runs 300 --seed 1 [--fps 15] [--size 1280x720] [--clean] [--dropout 0.1] [--json]

``--clean`` shows the use cases the people as they are, so that thousands of scenes are judged in minutes; else a
detector's and a tracker's faults are between (``sop_scenes.Faults``). Crossings and episodes are right where a told one
and a true one pair up within ``WITHIN_S``; F1 is of those. Occupancy is compared second by second. Exit code 1 below the goals.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np

from benchmarks.parallel import JOBS, each
from benchmarks.sop_scenes import Detector, Faults, Stage, Switches
from benchmarks.zone_scenes import CAMERA, CAPACITY, DWELL_S, UNSURE_S, USE_CASES, Scene, make, moments
from edge_agent.chains import USE_CASES as MAKERS
from edge_agent.config import TrackConfig
from edge_agent.track import MultiObjectTracker
from edge_agent.types import Event, Metric, Observation, Output, Tracks, parse_rfc3339, uuid7_factory
from edge_agent.usecases.ground import CameraGround
from edge_agent.usecases.scene import Places

FPS = (2.0, 5.0, 10.0, 15.0, 30.0, 60.0)
START = 1_700_000_000.0
WITHIN_S = 3.0
GOALS = {
    "clean": {"line_count": 0.98, "over_capacity": 0.99, "presence": 0.99, "stay": 0.99},
    "faults": {"line_count": 0.95, "over_capacity": 0.9, "presence": 0.9, "stay": 0.9},
}
"""Least F1."""


def as_they_are(stage: Stage, t: float, size: tuple[int, int]) -> Tracks:
    """What a detector and a tracker without a fault would say."""
    rows = [(key, box * size[1]) for label, key, box in stage.boxes(t) if label == "person"]
    n = len(rows)
    boxes = np.array([box for _, box in rows], np.float32).reshape(-1, 4)
    ids = np.array([key for key, _ in rows], np.int64)
    return Tracks(ids, boxes, np.ones(n, np.float32), np.zeros(n, np.int32), np.zeros(n, bool), ("person",))


def watch(
    scene: Scene, faults: Faults | None, seed: int, fps: float, size: tuple[int, int]
) -> Iterator[tuple[float, Tracks]]:
    """Time and tracks of each frame; ``faults`` None: none at all but frames that are late or missing."""
    if faults is None:
        for t in moments(scene, fps, np.random.default_rng(seed)):
            yield t, as_they_are(scene.stage, t, size)
        return
    tracker, switches = MultiObjectTracker(TrackConfig()), Switches(faults.switches, seed)
    for t, detections in Detector(scene.stage, faults, ("person",), seed).frames(fps, size):
        yield t, switches.spoil(tracker.update(detections, t), t)


def play(scene: Scene, faults: Faults | None, seed: int, fps: float, size: tuple[int, int]) -> list[Output]:
    """What the four use cases tell of a scene."""
    new_id, ground = uuid7_factory(Random(seed)), CameraGround(CAMERA)
    places = Places(CAMERA)
    cases = [MAKERS[name](section, CAMERA, new_id, places) for name, section in USE_CASES.at_work()]
    told: list[Output] = []
    for index, (t, tracks) in enumerate(watch(scene, faults, seed, fps, size)):
        seen = Observation(CAMERA.id, index, t, START + t, size, tracks, *ground.update(tracks, t, size))
        for case in cases:
            told += case.update(seen)
    for case in cases:
        told += case.close("end_of_file")
    return told


@dataclass(slots=True)
class Tally:
    """Of one kind of event: how many were told, were true, and are both."""

    told: int = 0
    true: int = 0
    hits: int = 0

    def add(self, told: Sequence[float], true: Sequence[float], either: Sequence[float] = ()) -> bool:
        """Pair told times with true ones, in order; whether all pair up. What pairs with ``either`` is no fault."""
        left, spare, hits, false = list(true), list(either), 0, 0
        for t in sorted(told):
            for times in (left, spare):
                near = [u for u in times if abs(u - t) <= WITHIN_S]
                if near:
                    times.remove(min(near, key=lambda u: abs(u - t)))
                    hits += times is left
                    break
            else:
                false += 1
        self.told, self.true, self.hits = self.told + hits + false, self.true + len(true), self.hits + hits
        return not false and not left

    def join(self, other: Tally) -> None:
        """Add what others tallied."""
        self.told, self.true, self.hits = self.told + other.told, self.true + other.true, self.hits + other.hits

    @property
    def f1(self) -> float:
        """Of all that was added."""
        return 2 * self.hits / (self.told + self.true) if self.told + self.true else 1.0


@dataclass(slots=True)
class Score:
    """Sums over scenes."""

    runs: int = 0
    kinds: dict[str, Tally] = field(
        default_factory=lambda: {name: Tally() for name in ("line_count", "over_capacity", "presence", "stay")}
    )
    balance_right: int = 0
    people_off: float = 0.0
    """Of the mean occupancy over the scene, in people."""

    def add(self, scene: Scene, outputs: Sequence[Output]) -> list[str]:
        """Judge one scene; the kinds that are not right."""
        events = [one for one in outputs if isinstance(one, Event)]
        wrong = []
        tally = self.kinds["line_count"]
        right = True
        for name, sign in (("right", 1), ("left", -1)):
            told = [e.utc - START for e in events if e.what == "crossing" and e.data["direction"] == name]
            right &= tally.add(told, [t for t, s in scene.crossings if s == sign])
        wrong += [] if right else ["line_count"]
        truths = {
            "over_capacity": (scene.spans(CAPACITY + 1, 0.0), 3.0),
            "presence": (scene.spans(1, 0.0), 1.0),
            "stay": (scene.stays, DWELL_S),
        }
        for what, (spans, limit_s) in truths.items():
            true = [a for a, b in spans if b - a > limit_s + UNSURE_S]
            either = [a for a, b in spans if abs(b - a - limit_s) <= UNSURE_S]
            told = [parse_rfc3339(e.data["started"]) - START for e in events if e.what == what and e.phase == "started"]
            if not self.kinds[what].add(told, true, either):
                wrong.append(what)
        metrics = [one for one in outputs if isinstance(one, Metric) and one.use_case == "occupancy"]
        self.balance_right += self._balance(metrics) == max(sum(s for _, s in scene.crossings), 0)
        seen_s = sum(one.observed_s for one in metrics)
        mean = sum(one.data["rules"]["shop"]["people_mean"] * one.observed_s for one in metrics) / seen_s
        true_mean = sum(b - a for a, b in scene.stays) / scene.stage.length_s
        self.people_off += abs(mean - true_mean)
        self.runs += 1
        return wrong

    def join(self, other: Score) -> None:
        """Add what others scored."""
        self.runs += other.runs
        self.balance_right += other.balance_right
        self.people_off += other.people_off
        for name, tally in self.kinds.items():
            tally.join(other.kinds[name])

    @staticmethod
    def _balance(metrics: Sequence[Metric]) -> int:
        halls = [one.data["rules"]["hall"] for one in metrics]
        return int(sum(hall["came"] - hall["went"] for hall in halls))

    def figures(self) -> dict[str, float]:
        """What is judged."""
        return {
            "runs": self.runs,
            **{name: round(tally.f1, 4) for name, tally in self.kinds.items()},
            "balance_right": round(self.balance_right / max(self.runs, 1), 4),
            "people_off": round(self.people_off / max(self.runs, 1), 4),
        }


def score_one(
    k: int, *, seed: int, faults: Faults | None, fps: float | None, size: tuple[int, int]
) -> tuple[Score, str]:
    """The score of scene ``k``, and what is wrong with it in words."""
    rng = np.random.default_rng([seed, k])
    scene, own = make(int(rng.integers(2**31))), int(rng.integers(2**31))
    rate = float(rng.choice(FPS)) if fps is None else fps
    score = Score()
    wrong = score.add(scene, play(scene, faults, own, rate, size))
    return score, f"{k} at {rate:g} fps: {', '.join(wrong)}" if wrong else ""


def run(
    runs: int,
    seed: int,
    faults: Faults | None,
    *,
    fps: float | None,
    size: tuple[int, int],
    jobs: int = 1,
    verbose: bool = False,
) -> Score:
    """Score so many scenes; ``fps`` None: of each a frame rate by chance."""
    total = Score()
    for score, wrong in each(functools.partial(score_one, seed=seed, faults=faults, fps=fps, size=size), runs, jobs):
        total.join(score)
        if verbose and wrong:
            print(wrong, file=sys.stderr)
    return total


def met(figures: dict[str, float], goals: dict[str, float]) -> bool:
    """Whether the goals are reached."""
    return all(figures[name] >= least for name, least in goals.items())


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit code 1 below the goals."""
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zones_score", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fps", type=float, help="default: 2, 5, 10, 15, 30 or 60, by chance")
    parser.add_argument("--size", default="1280x720", help="resolution; default: %(default)s")
    parser.add_argument("--jobs", type=int, default=JOBS, help="processes; default: %(default)s")
    parser.add_argument("--clean", action="store_true", help="without faults of detector and tracker")
    parser.add_argument("--dropout", type=float, default=0.1, help="share of boxes the detector misses")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--verbose", action="store_true", help="name every scene that is judged wrongly")
    args = parser.parse_args(argv)
    width, _, height = args.size.partition("x")
    faults = None if args.clean else replace(Faults(), dropout=args.dropout)
    size = int(width), int(height)
    score = run(args.runs, args.seed, faults, fps=args.fps, size=size, jobs=args.jobs, verbose=args.verbose)
    goals = GOALS["clean" if args.clean else "faults"]
    figures = score.figures()
    ok = met(figures, goals)
    print(json.dumps({"seed": args.seed, **figures, "goals": goals, "ok": ok}) if args.json else figures)
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
