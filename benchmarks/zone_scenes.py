"""Seeded scenes for the use cases of zones and lines: people who cross, dither, come, stay and go, and what is true of it.

The truth comes from the script, not from boxes: who is in the zone at every moment, and every crossing of the line with
its direction. People keep clear of the line and of the zone's border except where they go through, or dither: as the field's
counting tests do, nobody is judged who stands astride.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import numpy as np

from benchmarks.sop_scenes import ASPECT, PACE, TALL, Actor, Stage
from edge_agent.config import CameraConfig, UseCasesConfig

LINE_X = 0.5
ZONE = (0.6, 0.95)
"""From left to right, in fractions of the frame; from half the height down."""
CAPACITY, DWELL_S = 2, 12.0
LEAVE_S = 3.0
UNSURE_S = 1.5
"""What lasts longer or shorter than a limit by no more may be judged either way."""
CAMERA = CameraConfig.model_validate(
    {
        "id": "cam",
        "source": "none",
        "zones": {"shop": [[ZONE[0], 0.4], [ZONE[1], 0.4], [ZONE[1], 0.999], [ZONE[0], 0.999]]},
        "lines": {"kerb": [[LINE_X, 0.05], [LINE_X, 1.0]]},
    }
)
USE_CASES = UseCasesConfig.model_validate(
    {
        "occupancy": {
            "rules": [
                {"name": "shop", "zone": "shop", "capacity": CAPACITY},
                {"name": "hall", "doors": [{"line": "kerb", "inward": "backward"}]},
            ]
        },
        "line_count": {"rules": [{"name": "kerb", "line": "kerb", "forward": "left", "backward": "right"}]},
        "intrusion": {"rules": [{"name": "shop", "zone": "shop", "min_duration_s": 1.0}]},
        "loitering": {"rules": [{"name": "shop", "zone": "shop", "dwell_s": DWELL_S}]},
    }
)
"""As seen from its first point the line's left is to the right in the picture: who walks right goes backward."""
Span = tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A scene and its truth. ``crossings``: seconds, and +1 for to the right. ``stays``: who was in the zone from when to when."""

    stage: Stage
    crossings: list[tuple[float, int]]
    stays: list[Span]

    def inside(self, t: float) -> int:
        """How many are in the zone."""
        return sum(a <= t < b for a, b in self.stays)

    def spans(self, least: int, hold_s: float) -> list[Span]:
        """When at least so many were in the zone, for longer than ``hold_s``; interruptions below ``LEAVE_S`` do not count."""
        edges = sorted({t for stay in self.stays for t in stay})
        found: list[Span] = []
        for a, b in pairwise(edges):
            if self.inside((a + b) / 2) >= least:
                joins = found and a - found[-1][1] < LEAVE_S
                found = [*found[:-1], (found[-1][0], b)] if joins else [*found, (a, b)]
        return [(a, b) for a, b in found if b - a > hold_s]


def make(seed: int, people: int = 3) -> Scene:
    """A scene of about half a minute."""
    rng = Random(seed)
    actors: list[Actor] = []
    crossings: list[tuple[float, int]] = []
    stays: list[Span] = []
    for k in range(people):
        # Lanes apart from each other: who hides whom is the faults' business.
        y = 0.45 + 0.5 * (k + rng.uniform(0.2, 0.8)) / people
        actor = Actor(rng.uniform(0, 4), (rng.choice([0.06, 0.3]), y))
        for _ in range(rng.randint(2, 5)):
            _one_thing(actor, rng, y, crossings, stays)
        _walk(actor, (-0.1, y), crossings)  # out of the picture
        actors.append(actor)
    stage = Stage(actors, length_s=max(actor.t for actor in actors) + 1.0)
    return Scene(stage, sorted(crossings), sorted(stays))


def _one_thing(actor: Actor, rng: Random, y: float, crossings: list[tuple[float, int]], stays: list[Span]) -> None:
    """What somebody does next."""
    right = actor.at[0] > LINE_X
    what = rng.choice(["cross", "cross", "dither", "stay", "turn"])
    if what == "stay":
        actor.stay(rng.uniform(0.5, 4.0))
    elif what == "dither":
        # To and fro over the line, then back to where they came from, or over it.
        side = 1 if right else -1
        for _ in range(rng.randint(1, 4)):
            actor.walk((LINE_X - side * 0.1 * TALL / ASPECT, y))
            actor.walk((LINE_X + side * 0.1 * TALL / ASPECT, y))
        actor.walk((LINE_X + side * 0.06, y))
    elif what == "turn":
        # Up to the line, and not over it.
        actor.walk((LINE_X + (0.05 if right else -0.05), y)).walk((0.3 if not right else 0.55, y))
    elif right:
        _walk(actor, (rng.uniform(0.1, 0.3), y), crossings)
    else:
        _walk(actor, (rng.uniform(0.7, 0.88), y), crossings)
        _linger(actor, rng, crossings, stays)


def _linger(actor: Actor, rng: Random, crossings: list[tuple[float, int]], stays: list[Span]) -> None:
    """Stay in the zone, for clearly less or clearly more than is too long, and leave it."""
    began = actor.t - (actor.at[0] - ZONE[0]) / PACE
    actor.stay(rng.choice([rng.uniform(1.0, DWELL_S - 6.0), rng.uniform(DWELL_S + 3.0, DWELL_S + 12.0)]))
    _walk(actor, (0.55, actor.at[1]), crossings)
    stays.append((began, actor.t - (ZONE[0] - 0.55) / PACE))


def _walk(actor: Actor, to: tuple[float, float], crossings: list[tuple[float, int]]) -> None:
    """Straight on, noting when the line is crossed. Only ``_linger`` goes on into the zone and out of it."""
    begin, start = actor.t, actor.at
    actor.walk(to)
    if (start[0] - LINE_X) * (to[0] - LINE_X) < 0:
        share = (LINE_X - start[0]) / (to[0] - start[0])
        crossings.append((begin + share * (actor.t - begin), 1 if to[0] > start[0] else -1))


def moments(scene: Scene, fps: float, rng: np.random.Generator, gaps: float = 0.02) -> Iterator[float]:
    """Times of frames: late ones, and now and then none for up to a second and a half."""
    t = 0.0
    while t < scene.stage.length_s:
        yield t
        t += (1 + 0.3 * (rng.random() - 0.5)) / fps
        if rng.random() < gaps / fps:
            t += float(rng.uniform(0.5, 1.5))
