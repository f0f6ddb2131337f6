"""Seeded scenes for procedures: people who walk, stand and carry things by a script, and what a detector says of them.

A ``Stage`` is filled by a script: actors have a clock of their own and go on from one thing to the next. Positions are
fractions of the frame, so one scene can be had at any resolution and frame rate. The faults are those of detectors and
trackers: misses, single and in bursts, everything shorter than what a script hides on purpose; jitter with a slow part;
false boxes; somebody passing in front; identities that are lost or exchanged; frames that come late or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from edge_agent.types import F64, Detections, Tracks

Point = tuple[float, float]
ASPECT = 16 / 9
TALL = 0.26
"""A person's height in frame heights; the width is 0.4 of that."""
QUIET_FPS = 2.0
PACE = 0.13
"""Walking, frame widths a second: 0.9 body heights, 1.5 m/s."""


@dataclass(frozen=True, slots=True)
class Faults:
    """How wrong detector and tracker are. Rates are per second."""

    dropout: float = 0.1
    """Share of boxes that are missed; half of them in bursts of ``burst_s`` on average."""
    burst_s: float = 0.4
    jitter: float = 0.015
    """σ of a box's sides, in its heights; as much again is slow."""
    ghosts: float = 0.3
    """False boxes; each lasts up to 0.3 s."""
    occlusions: float = 0.04
    """Somebody is hidden for 0.5 to 2 s."""
    switches: float = 0.05
    """A track gets a new id, or two exchange theirs."""
    late: float = 0.2
    """Frames come up to this part of their interval late ..."""
    gaps: float = 0.01
    """... and now and then none comes for a second."""


@dataclass(slots=True)
class Actor:
    """A person. ``hidden`` are intervals in which nobody could see them; things carried are hidden with them."""

    t: float
    at: Point
    keys: list[tuple[float, Point]] = field(default_factory=list)
    hidden: list[tuple[float, float]] = field(default_factory=list)
    carried: list[tuple[str, float, float]] = field(default_factory=list)
    """Label, from, to."""

    def __post_init__(self) -> None:
        self.keys.append((self.t, self.at))

    def walk(self, to: Point, pace: float = PACE) -> Actor:
        """Go there in a straight line."""
        away = float(np.hypot(to[0] - self.at[0], (to[1] - self.at[1]) / ASPECT))
        self.t, self.at = self.t + away / pace, to
        self.keys.append((self.t, to))
        return self

    def stay(self, seconds: float) -> Actor:
        """Stand there."""
        self.t += seconds
        self.keys.append((self.t, self.at))
        return self

    def take(self, label: str) -> None:
        """Carry or wear something from now on."""
        self.carried.append((label, self.t, np.inf))

    def drop(self, label: str) -> None:
        """... and no longer."""
        i = next(i for i, (name, _, until) in enumerate(self.carried) if name == label and until == np.inf)
        self.carried[i] = (label, self.carried[i][1], self.t)

    def where(self, t: float) -> Point | None:
        """The feet; None before the first and after the last moment."""
        if not self.keys[0][0] <= t <= self.keys[-1][0]:
            return None
        times = [key for key, _ in self.keys]
        x, y = (float(np.interp(t, times, [at[i] for _, at in self.keys])) for i in (0, 1))
        return x, y


@dataclass(slots=True)
class Prop:
    """Something that lies at a place for a time: its centre and its height in frame heights."""

    label: str
    at: Point
    size: float = 0.05
    begin: float = 0.0
    end: float = np.inf


@dataclass(slots=True)
class Stage:
    """A scene. ``length_s`` is how long it lasts."""

    actors: list[Actor] = field(default_factory=list)
    props: list[Prop] = field(default_factory=list)
    sensors: Callable[[float], dict[str, float]] = lambda _: {}
    length_s: float = 60.0
    quiet_from: float = np.inf
    """From then on nobody comes: frames are needed at ``QUIET_FPS`` only, as what is left is to wait."""

    def boxes(self, t: float, hidden: bool = True) -> list[tuple[str, int, F64]]:
        """Label, a number that stays the same, and box (xyxy, frame heights) of all that is in view."""
        found = []
        for i, actor in enumerate(self.actors):
            at = actor.where(t)
            if at is None or (hidden and any(a <= t < b for a, b in actor.hidden)):
                continue
            x, y = at[0] * ASPECT, at[1]
            box = np.array([x - 0.2 * TALL, y - TALL, x + 0.2 * TALL, y])
            found.append(("person", 100 * i, box))
            for k, (label, begin, end) in enumerate(actor.carried):
                if begin <= t < end:
                    found.append((label, 100 * i + k + 1, _on(box, label)))
        for i, prop in enumerate(self.props):
            if prop.begin <= t < prop.end:
                x, y, half = prop.at[0] * ASPECT, prop.at[1], prop.size / 2
                found.append((prop.label, 100_000 + i, np.array([x - half, y - half, x + half, y + half])))
        return found


def _on(body: F64, label: str) -> F64:
    """Where on a body a thing is: a helmet on top, a vest on the chest, what is carried before the belly."""
    x1, y1, x2, y2 = body
    top, bottom, wide = {"helmet": (-0.02, 0.12, 0.4), "vest": (0.18, 0.5, 0.8)}.get(label, (0.35, 0.55, 0.6))
    half, centre, height = wide * (x2 - x1) / 2, (x1 + x2) / 2, y2 - y1
    return np.array([centre - half, y1 + top * height, centre + half, y1 + bottom * height])


class Detector:
    """What a detector says of a stage, from a seed: ``fps`` frames a second of ``size`` (width, height) pixels."""

    def __init__(self, stage: Stage, faults: Faults, labels: tuple[str, ...], seed: int) -> None:
        self._stage, self._faults, self._labels = stage, faults, labels
        self._rng = np.random.default_rng(seed)
        self._miss_until: dict[int, float] = {}
        self._slow: dict[int, F64] = {}
        self._ghosts: list[tuple[float, int, F64]] = []
        self._occlusions = _occlusions(stage, faults, self._rng)

    def frames(self, fps: float, size: tuple[int, int]) -> Iterator[tuple[float, Detections]]:
        """Time and detections, frame by frame."""
        t, last = 0.0, 0.0
        while t < self._stage.length_s:
            yield t, self._detect(t, t - last, size)
            last = t
            rate = fps if t < self._stage.quiet_from else min(fps, QUIET_FPS)
            t += (1 + self._faults.late * (self._rng.random() - 0.5)) / rate
            if self._rng.random() < self._faults.gaps / rate:
                t += 1.0

    def _detect(self, t: float, dt: float, size: tuple[int, int]) -> Detections:
        faults, rng = self._faults, self._rng
        rows: list[tuple[F64, float, int]] = []
        for label, key, box in self._stage.boxes(t):
            if label == "person" or key < 100_000:
                owner = key // 100
                if any(a <= t < b for who, a, b in self._occlusions if who == owner):
                    continue
            if self._missed(key, t, dt):
                continue
            keep = np.exp(-dt / 0.7)
            slow = keep * self._slow.get(key, rng.standard_normal(4)) + np.sqrt(1 - keep**2) * rng.standard_normal(4)
            self._slow[key] = slow
            noise = faults.jitter * (box[3] - box[1]) * (rng.standard_normal(4) + slow)
            score = 0.35 if rng.random() < 0.05 else float(rng.uniform(0.6, 0.95))
            rows.append((box + noise, score, self._labels.index(label)))
        if rng.random() < faults.ghosts * dt:
            self._ghosts.append((t + rng.uniform(0, 0.3), int(rng.integers(len(self._labels))), self._somewhere()))
        self._ghosts = [ghost for ghost in self._ghosts if ghost[0] > t]
        rows += [(box, float(rng.uniform(0.3, 0.7)), label) for _, label, box in self._ghosts]
        return _as_detections(rows, self._labels, size)

    def _missed(self, key: int, t: float, dt: float) -> bool:
        faults, rng = self._faults, self._rng
        if rng.random() < faults.dropout / 2:
            return True
        # In bursts for the same share of time: they begin at this rate and last for ``burst_s`` on average.
        if rng.random() < dt * faults.dropout / 2 / faults.burst_s:
            self._miss_until[key] = t + float(rng.exponential(faults.burst_s))
        return t < self._miss_until.get(key, -1.0)

    def _somewhere(self) -> F64:
        x, y, height = self._rng.uniform(0, ASPECT), self._rng.uniform(0.3, 1.0), TALL * self._rng.uniform(0.3, 1.1)
        return np.array([x - 0.2 * height, y - height, x + 0.2 * height, y])


def _occlusions(stage: Stage, faults: Faults, rng: np.random.Generator) -> list[tuple[int, float, float]]:
    """Who is hidden by somebody in front, from when to when."""
    found = []
    for i, _ in enumerate(stage.actors):
        for _ in range(rng.poisson(faults.occlusions * stage.length_s)):
            begin = float(rng.uniform(0, stage.length_s))
            found.append((i, begin, begin + float(rng.uniform(0.5, 2.0))))
    return found


def _as_detections(rows: list[tuple[F64, float, int]], labels: tuple[str, ...], size: tuple[int, int]) -> Detections:
    width, height = size
    boxes = np.array([box for box, _, _ in rows]).reshape(-1, 4) * height
    boxes = np.clip(boxes, 0, [width, height, width, height])
    there = np.flatnonzero((boxes[:, 2] - boxes[:, 0] > 3) & (boxes[:, 3] - boxes[:, 1] > 3))
    scores = np.array([score for _, score, _ in rows], np.float32)
    classes = np.array([label for _, _, label in rows], np.int32)
    return Detections(boxes[there].astype(np.float32), scores[there], classes[there], labels)


class Switches:
    """Spoils a tracker's identities: a track gets a new id for good, or two people exchange theirs."""

    def __init__(self, rate: float, seed: int) -> None:
        self._rate, self._rng = rate, np.random.default_rng(seed)
        self._names: dict[int, int] = {}
        self._next = 1_000_000
        self._t = 0.0
        self.count = 0

    def spoil(self, tracks: Tracks, t: float) -> Tracks:
        """The same tracks under other names."""
        dt, self._t = t - self._t, t
        ids = tracks.ids.tolist()
        if ids and self._rng.random() < self._rate * dt:
            self.count += 1
            people = [i for i, c in zip(ids, tracks.classes.tolist(), strict=True) if tracks.labels[c] == "person"]
            if len(people) > 1 and self._rng.random() < 0.5:
                a, b = self._rng.choice(people, 2, replace=False).tolist()
                self._names[a], self._names[b] = self._names.get(b, b), self._names.get(a, a)
            else:
                self._names[int(self._rng.choice(ids))] = self._next
                self._next += 1
        renamed = np.array([self._names.get(i, i) for i in ids], np.int64)
        order = np.argsort(renamed)
        return Tracks(
            renamed[order],
            tracks.boxes[order],
            tracks.scores[order],
            tracks.classes[order],
            tracks.predicted[order],
            tracks.labels,
            None if tracks.measured is None else tracks.measured[order],
        )
