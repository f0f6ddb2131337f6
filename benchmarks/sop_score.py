"""How well procedures are judged, on scripted scenes with a detector's and a tracker's faults.

    python -m benchmarks.sop_score --dropout 0.1 --seed 1 --runs 200 [--json] [--curve] [--fps 15] [--size 1280x720] [--jobs 2]

POS is the agreement in the order of the steps (1 - edit distance / length, the mean of the runs); F1 that of the
outcomes (step and what became of it); delay the time from when an outcome can be known to when it is told. Exit code 1
below the goals: POS and F1 0.95, mean delay 2 s, and no step that nobody could see is ever told completed.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np

from benchmarks.parallel import JOBS, each
from benchmarks.sop_scenes import Detector, Faults, Switches
from benchmarks.sop_scripts import RECIPES, Recipe, Scene, make
from edge_agent.config import CameraConfig, TrackConfig
from edge_agent.config_file import load
from edge_agent.config_sop import SopConfig
from edge_agent.track import MultiObjectTracker
from edge_agent.types import Event, Observation, parse_rfc3339, uuid7_factory
from edge_agent.usecases.ground import CameraGround
from edge_agent.usecases.sop import Sop

GOALS = {"pos": 0.95, "f1": 0.95, "delay_s": 2.0, "unseen_passed": 0}
FPS = (5.0, 10.0, 15.0, 30.0)
START = 1_700_000_000.0
DONE = {"completed", "wrong_order", "repeated", "too_fast", "too_slow"}


@dataclass(frozen=True, slots=True)
class Told:
    """An event, and when (on the camera's clock) it was told."""

    event: Event
    t: float

    @property
    def key(self) -> tuple[str, str]:
        """Step and what became of it."""
        return str(self.event.data["step"]), self.event.what


@functools.cache
def configured(recipe: Recipe) -> tuple[CameraConfig, SopConfig]:
    """Camera and procedure of an example."""
    config = load(recipe.file)
    assert config.use_cases.sop is not None
    return config.cameras[0], config.use_cases.sop


class Seen(Observation):
    """An observation with sensor values."""

    __slots__ = ("sensors",)


def play(scene: Scene, faults: Faults, seed: int, fps: float, size: tuple[int, int]) -> list[Told]:
    """Run tracker, ground plane and procedures over a scene; what they tell."""
    camera, config = configured(scene.recipe)
    sop = Sop(config, camera, uuid7_factory(Random(seed)))
    tracker, ground = MultiObjectTracker(TrackConfig()), CameraGround(camera)
    detector, switches = Detector(scene.stage, faults, scene.recipe.labels, seed), Switches(faults.switches, seed)
    told: list[Told] = []
    for index, (t, detections) in enumerate(detector.frames(fps, size)):
        tracks = switches.spoil(tracker.update(detections, t), t)
        seen = Seen(camera.id, index, t, START + t, size, tracks, *ground.update(tracks, t, size))
        object.__setattr__(seen, "sensors", scene.stage.sensors(t))
        told += [Told(event, t) for event in sop.update(seen) if isinstance(event, Event)]
    told += [Told(event, t) for event in sop.close("end_of_file") if isinstance(event, Event)]
    return told


@dataclass(slots=True)
class Score:
    """Sums over scenes."""

    runs: int = 0
    pos: float = 0.0
    hits: int = 0
    told: int = 0
    true: int = 0
    delays: list[float] = field(default_factory=list)
    unseen_passed: int = 0

    def add(self, scene: Scene, told: Sequence[Told]) -> list[str]:
        """Judge one scene; what is wrong with it."""
        outcomes = [one for one in told if one.event.what != "run"]
        expected = Counter((truth.step, truth.what) for truth in scene.truths)
        found = Counter(one.key for one in outcomes)
        self.runs += 1
        self.hits += (expected & found).total()
        self.told += found.total()
        self.true += expected.total()
        self.pos += agreement(scene.order, order_of(told))
        self.unseen_passed += sum(one.key == (scene.unseen, "completed") for one in outcomes)
        for truth in scene.truths:
            when = [one.t for one in outcomes if one.key == (truth.step, truth.what)]
            if when:
                self.delays.append(max(when[0] - truth.t, 0.0))
        faults = [f"missed {key}" for key in (expected - found).elements()]
        faults += [f"false {key}" for key in (found - expected).elements()]
        return faults

    def join(self, other: Score) -> None:
        """Add what others scored."""
        self.runs, self.pos, self.hits = self.runs + other.runs, self.pos + other.pos, self.hits + other.hits
        self.told, self.true, self.delays = self.told + other.told, self.true + other.true, self.delays + other.delays
        self.unseen_passed += other.unseen_passed

    def figures(self) -> dict[str, float]:
        """What is judged."""
        delays = self.delays or [0.0]
        return {
            "runs": self.runs,
            "pos": round(self.pos / max(self.runs, 1), 4),
            "f1": round(2 * self.hits / max(self.told + self.true, 1), 4),
            "delay_s": round(float(np.mean(delays)), 3),
            "delay_p95_s": round(float(np.percentile(delays, 95)), 3),
            "unseen_passed": self.unseen_passed,
        }


def order_of(told: Sequence[Told]) -> list[str]:
    """The steps that were done, in the order in which they were begun."""
    begun = {
        (one.event.episode, step["step"]): step["started"]
        for one in told
        if one.event.what == "run"
        for step in one.event.data.get("steps", [])
    }
    done = []
    for one in told:
        if one.event.what in DONE:
            # What is too slow may be told before it was begun.
            started = one.event.data["started"] or begun.get((one.event.episode, one.key[0]))
            done += [(parse_rfc3339(started), one.key[0])] if started is not None else []
    return [step for _, step in sorted(done)]


def agreement(a: Sequence[str], b: Sequence[str]) -> float:
    """1 - Levenshtein distance / length of the longer."""
    if not a and not b:
        return 1.0
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return 1 - row[-1] / max(len(a), len(b))


def draw(seed: int, k: int, fps: float | None) -> tuple[Scene, int, float]:
    """Scene ``k`` of a seed, the seed of its faults, and its frame rate (by chance where ``fps`` is None)."""
    rng = np.random.default_rng([seed, k])
    recipe = RECIPES[k % len(RECIPES)]
    variant = recipe.variants[int(rng.integers(len(recipe.variants)))]
    scene, faults, rate = make(recipe, variant, int(rng.integers(2**31))), int(rng.integers(2**31)), rng.choice(FPS)
    return scene, faults, float(rate) if fps is None else fps


def score_one(k: int, *, seed: int, faults: Faults, fps: float | None, size: tuple[int, int]) -> tuple[str, Score, str]:
    """Procedure and score of scene ``k``, and what is wrong with it in words."""
    scene, own_seed, rate = draw(seed, k, fps)
    score = Score()
    wrong = score.add(scene, play(scene, faults, own_seed, rate, size))
    said = f"{k} {scene.recipe.name} {scene.variant} {rate:g} fps: {'; '.join(wrong)}" if wrong else ""
    return scene.recipe.name, score, said


def run(
    runs: int,
    seed: int,
    faults: Faults,
    *,
    fps: float | None,
    size: tuple[int, int],
    jobs: int = 1,
    verbose: bool = False,
) -> tuple[Score, dict[str, Score]]:
    """Score so many scenes, the recipes and their variants in turn."""
    total, by_name = Score(), {recipe.name: Score() for recipe in RECIPES}
    work = functools.partial(score_one, seed=seed, faults=faults, fps=fps, size=size)
    for name, score, wrong in each(work, runs, jobs):
        total.join(score)
        by_name[name].join(score)
        if verbose and wrong:
            print(wrong, file=sys.stderr)
    return total, by_name


def met(figures: dict[str, float]) -> bool:
    """Whether the goals are reached."""
    return (
        figures["pos"] >= GOALS["pos"]
        and figures["f1"] >= GOALS["f1"]
        and figures["delay_s"] <= GOALS["delay_s"]
        and figures["unseen_passed"] <= GOALS["unseen_passed"]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit code 1 below the goals."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sop_score", description=__doc__.splitlines()[0])
    parser.add_argument("--dropout", type=float, default=0.1, help="share of boxes the detector misses")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=120)
    parser.add_argument("--fps", type=float, help="default: 5, 10, 15 or 30, by chance")
    parser.add_argument("--size", default="1280x720", help="resolution; default: %(default)s")
    parser.add_argument("--jobs", type=int, default=JOBS, help="processes; default: %(default)s")
    parser.add_argument("--curve", action="store_true", help="dropouts of 0 to 30 %% instead of one")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--verbose", action="store_true", help="name every scene that is judged wrongly")
    args = parser.parse_args(argv)
    width, _, height = args.size.partition("x")
    size = int(width), int(height)
    if args.curve:
        curve = {}
        for dropout in (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3):
            faults = replace(Faults(), dropout=dropout)
            total, _ = run(args.runs, args.seed, faults, fps=args.fps, size=size, jobs=args.jobs)
            curve[dropout] = total.figures()
            if not args.json:
                print(f"dropout {dropout:4.2f}: {curve[dropout]}", flush=True)
        if args.json:
            print(json.dumps(curve))
        return 0
    faults = replace(Faults(), dropout=args.dropout)
    total, by_name = run(args.runs, args.seed, faults, fps=args.fps, size=size, jobs=args.jobs, verbose=args.verbose)
    figures = total.figures()
    if args.json:
        report = {"dropout": args.dropout, "seed": args.seed, **figures, "goals": GOALS, "ok": met(figures)}
        print(json.dumps(report | {"procedures": {name: score.figures() for name, score in by_name.items()}}))
    else:
        for name, score in [*by_name.items(), ("all", total)]:
            print(f"{name:12} {score.figures()}")
    return 0 if met(figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
