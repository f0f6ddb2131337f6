"""How people go through the example procedures, rightly and wrongly, and what should be told of it.

A recipe says for each step where and for how long somebody acts; a variant of it leaves a step out, exchanges two, is too
fast, and so on. The truth is written down from the script alone, by what the documentation promises (docs/sop.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.sop_scenes import Actor, Point, Prop, Stage

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
LINGER_S = 10.0
Hook = Callable[[Stage, list[Actor]], None]


@dataclass(frozen=True, slots=True)
class Act:
    """What is done for one step: at a spot, for a time; it counts as done after ``need`` seconds."""

    step: str
    spot: Point
    need: float
    dwell: tuple[float, float]
    begin: Hook | None = None
    """On arrival; what it changes is seen a second later at the earliest."""
    finish: Hook | None = None
    """When leaving."""
    min_s: float | None = None
    max_s: float | None = None
    within_s: float | None = None
    optional: bool = False
    delay: float = 0.0
    """From arrival to what can be seen."""


@dataclass(frozen=True, slots=True)
class Truth:
    """One fact that should be told; ``t`` is when it can be known."""

    step: str
    what: str
    t: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """A procedure and how to act it."""

    name: str
    labels: tuple[str, ...]
    acts: tuple[Act, ...]
    variants: tuple[tuple[str, int], ...]
    home: Point
    """Where nothing is done and nothing ends."""
    party: int = 1
    setup: Hook | None = None
    ends_s: float | None = None
    """A trigger ends it so long after everybody is gone; None: it ends by itself."""
    idle_s: float = 60.0
    station: bool = False

    @property
    def file(self) -> Path:
        """The configuration."""
        return EXAMPLES / f"sop-{self.name}.yaml"


@dataclass(slots=True)
class Scene:
    """A stage with what should be told of it. ``order``: the steps that were done, in the order they were begun."""

    recipe: Recipe
    variant: tuple[str, int]
    stage: Stage
    truths: list[Truth] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    unseen: str | None = None
    """The step that nobody could see."""


@dataclass(slots=True)
class _Done:
    act: Act
    arrived: float
    left: float
    done: float


class _Play:
    """Acts a variant out and notes when everything happened."""

    def __init__(self, recipe: Recipe, rng: np.random.Generator) -> None:
        self.recipe, self.rng = recipe, rng
        side = -0.08 if rng.random() < 0.5 else 1.08
        start = float(rng.uniform(0.5, 2.0))
        self.party = [Actor(start + 0.4 * i, (side, recipe.home[1] + 0.02 * i)) for i in range(recipe.party)]
        self.stage = Stage(actors=list(self.party))
        if recipe.setup is not None:
            recipe.setup(self.stage, self.party)
        self.done: list[_Done] = []
        self.go(recipe.home)

    @property
    def t(self) -> float:
        return self.party[0].t

    def go(self, spot: Point) -> None:
        """All walk there, and wait for each other."""
        wobble = self.rng.uniform(-0.02, 0.02, 2)
        for i, actor in enumerate(self.party):
            actor.walk((spot[0] + wobble[0] + 0.05 * i, spot[1] + wobble[1]))
        latest = max(actor.t for actor in self.party)
        for actor in self.party:
            actor.stay(latest - actor.t)

    def stay(self, seconds: float) -> None:
        for actor in self.party:
            actor.stay(seconds)

    def act(self, act: Act, dwell: float | None = None, pause: bool = False) -> _Done:
        """Do one step."""
        self.go(act.spot)
        arrived = self.t
        if act.delay:
            self.stay(act.delay)
        if act.begin is not None:
            act.begin(self.stage, self.party)
        seconds = float(self.rng.uniform(*act.dwell)) if dwell is None else dwell
        away = 0.0
        if pause:
            self.stay(seconds / 2)
            gone = self.t
            self.go(self.recipe.home)
            self.stay(float(self.rng.uniform(3, 6)))
            self.go(act.spot)
            away, seconds = self.t - gone, seconds / 2
        self.stay(seconds)
        if act.finish is not None:
            act.finish(self.stage, self.party)
        done = _Done(act, arrived, self.t, arrived + act.delay + act.need + away)
        self.done.append(done)
        return done

    def leave(self) -> float:
        """Everybody walks out; when the last one is gone."""
        for actor in self.party:
            actor.walk((-0.1 if self.rng.random() < 0.5 else 1.1, actor.at[1]))
        return max(actor.t for actor in self.party)


def make(recipe: Recipe, variant: tuple[str, int], seed: int) -> Scene:
    """Act a variant of a recipe out."""
    rng = np.random.default_rng(seed)
    kind, k = variant
    play = _Play(recipe, rng)
    scene = Scene(recipe, variant, play.stage)
    acts = list(recipe.acts)
    if kind == "skip":
        acts.pop(k)
    elif kind == "swap":
        acts[k], acts[k + 1] = acts[k + 1], acts[k]
    elif kind == "abandon":
        acts = acts[: k + 1]
    elif kind == "ok":
        acts = [act for act in acts if not act.optional or rng.random() < 0.7]
    subject = recipe.acts[k]
    for act in acts:
        chosen = act is subject
        if chosen and kind == "slow" and act.within_s is not None:
            play.go(recipe.home)
            play.stay(act.within_s - (play.t - play.done[-1].done) + 4)
        dwell = None
        if chosen and kind == "fast" and act.min_s is not None:
            dwell = float(rng.uniform(0.5, 0.75)) * act.min_s
        if chosen and kind == "slow" and act.max_s is not None:
            dwell = act.max_s + 5
        done = play.act(act, dwell, pause=chosen and kind == "pause")
        if chosen and kind == "hidden":
            scene.unseen = act.step
            for actor in play.party:
                actor.hidden.append((done.arrived - 1.0, done.left + 1.0))
        if chosen and kind == "repeat":
            play.go(recipe.home)
            play.stay(float(rng.uniform(4, 7)))
            play.act(act)
    if recipe.party == 1:
        play.go(recipe.home)
    play.stay(1.0)
    gone = play.leave()
    _bystanders(play.stage, rng, gone)
    quiet = recipe.idle_s if recipe.ends_s is None else recipe.ends_s
    play.stage.length_s = gone + quiet + 12.0
    play.stage.quiet_from = max(actor.keys[-1][0] for actor in play.stage.actors) + 5.0
    _tell(scene, play.done, gone)
    return scene


def _tell(scene: Scene, deeds: Sequence[_Done], gone: float) -> None:
    """Write the truth down."""
    recipe, (kind, k) = scene.recipe, scene.variant
    over = gone + (recipe.ends_s if recipe.ends_s is not None else 0.0)
    subject = recipe.acts[k]
    seen: set[str] = set()
    later = [deed for deed in deeds if recipe.acts.index(deed.act) > k]
    for deed in deeds:
        step, t = deed.act.step, deed.done
        if step != scene.unseen:
            scene.order.append(step)
        if step == scene.unseen:
            scene.truths.append(Truth(step, "unknown", later[1].done if len(later) > 1 else over))
        elif step in seen:
            if not (recipe.name == "restock" and step in ("take", "fill")):
                scene.truths.append(Truth(step, "repeated", t))
            else:
                scene.order.pop()
        elif deed.act is subject and kind == "swap":
            scene.truths.append(Truth(step, "wrong_order", t))
        elif deed.act is subject and kind == "fast":
            scene.truths.append(Truth(step, "too_fast", later[0].arrived + later[0].act.need if later else over))
        elif deed.act is subject and kind == "slow":
            since = deeds[deeds.index(deed) - 1].done if deed.act.within_s is not None else deed.arrived
            scene.truths.append(Truth(step, "too_slow", since + (deed.act.within_s or deed.act.max_s or 0.0)))
        else:
            scene.truths.append(Truth(step, "completed", deed.left if deed.act.max_s is not None else t))
        seen.add(step)
    missing = [act for act in recipe.acts if act.step not in seen and not act.optional]
    if missing and recipe.ends_s is None and recipe.acts[-1].step not in seen:
        scene.truths.append(
            Truth(missing[0].step, "abandoned", gone if not recipe.station else deeds[-1].left + recipe.idle_s)
        )
    else:
        for act in missing:
            after = [deed for deed in deeds if recipe.acts.index(deed.act) > recipe.acts.index(act)]
            ends = over if recipe.ends_s is not None else deeds[-1].done + LINGER_S
            scene.truths.append(Truth(act.step, "skipped", after[1].done if len(after) > 1 else ends))


def _bystanders(stage: Stage, rng: np.random.Generator, until: float) -> None:
    """People who walk through, in front of all zones."""
    for _ in range(int(rng.integers(0, 3))):
        begin, left = float(rng.uniform(0, until)), rng.random() < 0.5
        walker = Actor(begin, (-0.1 if left else 1.1, 0.97))
        stage.actors.append(walker.walk((1.1 if left else -0.1, 0.97), pace=float(rng.uniform(0.08, 0.16))))


# ---- the six examples


def _hold(label: str) -> Hook:
    return lambda _, party: party[0].take(label)


def _let_go(label: str) -> Hook:
    return lambda _, party: party[0].drop(label)


def _stopped(stage: Stage, party: list[Actor]) -> None:
    at = party[0].t
    stage.sensors = lambda t: {"spindle_rpm": 0.0 if t >= at else 1200.0}


def _runs(stage: Stage, _: list[Actor]) -> None:
    stage.sensors = lambda _: {"spindle_rpm": 1200.0}


def _locks(stage: Stage, party: list[Actor]) -> None:
    stage.props.append(Prop("padlock", (0.45, 0.33), begin=party[0].t))


def _unlocks(stage: Stage, party: list[Actor]) -> None:
    for prop in stage.props:
        prop.end = party[0].t


def _dresses(_: Stage, party: list[Actor]) -> None:
    party[0].take("helmet")
    party[0].take("vest")


def _puts_box(stage: Stage, party: list[Actor]) -> None:
    stage.props.append(Prop("cash_box", (0.13, 0.62), begin=party[0].t))


def _takes_box(stage: Stage, party: list[Actor]) -> None:
    stage.props[-1].end = party[0].t


def _desk_clerk(stage: Stage, party: list[Actor]) -> None:
    party[0].take("parcel")
    clerk = Actor(0.0, (0.68, 0.7))
    stage.actors.append(clerk.stay(200.0))


def _gives(stage: Stage, party: list[Actor]) -> None:
    party[0].drop("parcel")
    clerk = stage.actors[1]
    clerk.carried.append(("parcel", party[0].t, np.inf))


RECIPES = (
    Recipe(
        "hand-wash",
        ("person",),
        (
            Act("wash", (0.17, 0.6), 20, (23, 28), min_s=20),
            Act("dry", (0.44, 0.58), 2, (5, 8), within_s=30),
            Act("handle_food", (0.78, 0.7), 3, (6, 15), optional=True),
        ),
        (
            *(("ok", 0),) * 3,
            *(("skip", k) for k in (0, 1)),
            *(("swap", k) for k in (0, 1)),
            *(("hidden", k) for k in (0, 1)),
            ("repeat", 1),
            ("fast", 0),
            ("pause", 0),
            ("slow", 1),
            ("abandon", 0),
        ),
        home=(0.5, 0.88),
        ends_s=2,
    ),
    Recipe(
        "ppe",
        ("person", "helmet", "vest"),
        (
            Act("put_on", (0.25, 0.7), 2, (6, 10), _dresses, delay=2.0),
            Act("enter", (0.75, 0.7), 1, (0.1, 0.2)),
            Act("work", (0.75, 0.7), 3, (6, 12)),
        ),
        (*(("ok", 0),) * 2, ("abandon", 0), ("hidden", 0)),
        home=(0.5, 0.36),
        ends_s=3,
    ),
    Recipe(
        "lock-out",
        ("person", "padlock"),
        (
            Act("stop", (0.16, 0.68), 2, (6, 9), _stopped, delay=1.0),
            Act("lock", (0.55, 0.62), 3, (3, 5), _locks, delay=1.0),
            Act("try_start", (0.16, 0.68), 2, (5, 8)),
            Act("work", (0.8, 0.7), 3, (8, 14)),
            Act("unlock", (0.55, 0.62), 3, (4, 6), _unlocks, delay=1.0),
        ),
        (*(("ok", 0),) * 3, ("skip", 2), ("skip", 3), ("swap", 2), ("abandon", 2), ("abandon", 3), ("hidden", 3)),
        home=(0.5, 0.93),
        setup=_runs,
        station=True,
        idle_s=120,
    ),
    Recipe(
        "cash-count",
        ("person", "cash_box"),
        (
            Act("meet", (0.1, 0.68), 2, (5, 7)),
            Act("count_cash", (0.1, 0.68), 15, (18, 26), _puts_box, _takes_box, min_s=15, max_s=300),
            Act("sign", (0.34, 0.68), 2, (5, 8)),
        ),
        (*(("ok", 0),) * 3, ("skip", 1), ("fast", 1), ("abandon", 1), ("hidden", 2)),
        home=(0.15, 0.93),
        party=2,
        ends_s=5,
        station=True,
    ),
    Recipe(
        "hand-over",
        ("person", "parcel"),
        (
            Act("arrive", (0.14, 0.7), 1, (4, 6)),
            Act("meet", (0.57, 0.7), 2, (5, 8)),
            Act("give", (0.57, 0.7), 2, (5, 8), _gives, delay=0.5),
        ),
        (*(("ok", 0),) * 2, ("abandon", 1), ("hidden", 2)),
        home=(0.35, 0.8),
        setup=_desk_clerk,
        ends_s=10,
    ),
    Recipe(
        "restock",
        ("person", "box"),
        (
            Act("take", (0.15, 0.7), 2, (5, 8)),
            Act("fill", (0.51, 0.7), 10, (13, 18), min_s=10),
            Act("discard", (0.86, 0.7), 2, (5, 8)),
        ),
        (
            *(("ok", 0),) * 3,
            *(("skip", k) for k in (0, 1)),
            *(("swap", k) for k in (0, 1)),
            *(("repeat", k) for k in (0, 1)),
            *(("hidden", k) for k in (0, 1)),
            *(("abandon", k) for k in (0, 1)),
            ("fast", 1),
            ("pause", 1),
        ),
        home=(0.36, 0.93),
        setup=lambda _, party: party[0].take("box"),
    ),
)
"""All of them; a variant that is named several times comes as often."""
