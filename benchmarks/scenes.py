"""Seeded detections from ground-truth tracks: what a person detector would have said about a scene.

A scene is a ground-truth file in MOTChallenge format (``frame,id,left,top,width,height,...``, frames from 1). The
faults are those of real detectors, drawn as processes in *time*, so that thinning a sequence out does not change
their nature:

* misses come in bursts (a latent Ornstein-Uhlenbeck process for each person) and more often when somebody nearer to
  the camera hides the person; what is hidden and still found has a low score and a worse box, often of the visible
  part only; now and then something that is not in the ground truth hides the legs;
* box errors have a slow part (the detector's bias for this pose) and a white part, in fractions of the box height;
* clutter: single boxes anywhere with mostly low scores, and fixed places (a sign, a bollard) that come and go;
* double boxes: for a second or so a person has a second box, either the upper body or a displaced copy;
* at the end non-maximum suppression, as every detector does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge_agent.types import F64, I64, Bools, Detections


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """Ground truth of one sequence: row i is person ``ids[i]`` in frame ``frames[i]`` (from 0) with ``boxes[i]`` (xyxy pixels)."""

    name: str
    fps: float
    size: tuple[int, int]
    frames: I64
    ids: I64
    boxes: F64

    @property
    def length(self) -> int:
        """Number of frames."""
        return int(self.frames.max()) + 1

    def every(self, step: int) -> Scene:
        """The same scene at ``fps / step``."""
        keep = self.frames % step == 0
        return replace(
            self, fps=self.fps / step, frames=self.frames[keep] // step, ids=self.ids[keep], boxes=self.boxes[keep]
        )

    def at(self, frame: int) -> tuple[I64, F64]:
        """Ids and boxes of one frame."""
        mask = self.frames == frame
        return self.ids[mask], self.boxes[mask]


@dataclass(frozen=True, slots=True)
class Faults:
    """How bad the detector is. Rates are for a fully visible person; times in seconds."""

    drop: float = 0.15
    """Share of a fully visible person's frames without a box."""
    burst_s: float = 0.3
    """Correlation time of misses, scores and slow box errors."""
    jitter: float = 0.03
    """Standard deviation of centre and height errors, as a fraction of the height."""
    clutter: float = 0.4
    """False boxes in a frame (Poisson), independent from frame to frame."""
    haunts: int = 3
    """Places where a false box comes and goes."""
    double: float = 0.08
    """Share of time in which a person has a second box."""
    double_s: float = 0.7
    """Mean duration of that."""
    cut: float = 0.05
    """Share of time in which a person's legs are hidden by something else."""
    cut_s: float = 0.7
    """Mean duration of that."""
    nms_iou: float = 0.6


def load_mot(path: Path, fps: float, size: tuple[int, int] | None = None) -> Scene:
    """Read a MOTChallenge ground-truth file. Without ``size`` the frame is taken from the boxes' extent."""
    rows = np.loadtxt(path, delimiter=",", ndmin=2)
    boxes = np.column_stack([rows[:, 2:4], rows[:, 2:4] + rows[:, 4:6]])
    width, height = size or (int(boxes[:, 2].max()), int(boxes[:, 3].max()))
    name = path.stem if path.stem not in ("gt", "test") else path.parent.name
    frames = rows[:, 0].astype(np.int64)
    return Scene(name, fps, (width, height), frames - frames.min(), rows[:, 1].astype(np.int64), boxes)


def iou(a: F64, b: F64) -> F64:
    """(N,4) and (M,4) xyxy -> (N,M) intersection over union."""
    inter, area_a, area_b = _overlap(a, b)
    return inter / np.maximum(area_a[:, None] + area_b - inter, 1e-9)


def visibility(boxes: F64) -> F64:
    """(N,) share of each box not covered by the boxes of people nearer to the camera (whose feet are lower in the picture)."""
    hidden = np.zeros(len(boxes))
    grid = (np.arange(12) + 0.5) / 12
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        nearer = boxes[boxes[:, 3] > y2]
        if len(nearer):
            u, v = np.meshgrid(x1 + (x2 - x1) * grid, y1 + (y2 - y1) * grid)
            inside = (
                (u[..., None] > nearer[:, 0])
                & (u[..., None] < nearer[:, 2])
                & (v[..., None] > nearer[:, 1])
                & (v[..., None] < nearer[:, 3])
            )
            hidden[i] = inside.any(axis=-1).mean()
    return 1 - hidden


def detect(scene: Scene, faults: Faults, seed: int) -> list[Detections]:
    """One ``Detections`` for each frame. The same scene, faults and seed give the same boxes."""
    rng = np.random.default_rng([seed, scene.length, len(scene.ids)])
    people = {int(i): _Person(rng) for i in np.unique(scene.ids)}
    haunts = _haunts(scene, faults, rng)
    dt = 1 / scene.fps
    out = []
    for frame in range(scene.length):
        ids, boxes = scene.at(frame)
        seen = visibility(boxes)
        found: list[tuple[F64, float]] = []
        for i, box, visible in zip(ids, boxes, seen, strict=True):
            found += people[int(i)].detect(box, float(visible), dt, faults, rng)
        for haunt in haunts:
            found += haunt.detect(haunt.box, 1.0, dt, faults, rng)
        found += _clutter(scene, faults, rng)
        out.append(_nms(_clip(found, scene.size), faults.nms_iou))
    return out


class _Spell:
    """Something that is there for a share of the time, in spells of a mean duration, with a character for each spell."""

    def __init__(self) -> None:
        self._left = 0.0
        self.character = np.zeros(3)

    def step(self, dt: float, share: float, mean_s: float, rng: np.random.Generator) -> bool:
        """Whether it is there now."""
        start, length, *character = rng.random(5)
        self._left -= dt
        if self._left <= 0 and start < 1 - np.exp(-dt * share / mean_s):
            self._left = -np.log(max(length, 1e-9)) * mean_s
            self.character = np.array(character)
        return self._left > 0


class _Person:
    """The detector's behaviour towards one person: latent processes with unit variance and a common correlation time."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.latent = rng.standard_normal(7)  # miss, score, slow errors of cx, top, bottom and log width, visible part
        self.double, self.cut = _Spell(), _Spell()

    def detect(
        self, box: F64, visible: float, dt: float, faults: Faults, rng: np.random.Generator
    ) -> list[tuple[F64, float]]:
        """Boxes and scores for somebody at ``box``, ``dt`` seconds after the last call."""
        keep = np.exp(-dt / faults.burst_s)
        self.latent = keep * self.latent + np.sqrt(1 - keep**2) * rng.standard_normal(7)
        white = rng.standard_normal(6)
        double = self.double.step(dt, faults.double, faults.double_s, rng)
        cut = 0.2 + 0.25 * self.cut.character[0] if self.cut.step(dt, faults.cut, faults.cut_s, rng) else 0.0
        if self.latent[6] > 0:
            cut = max(cut, 0.6 * (1 - visible))
        visible = min(visible, 1 - cut)
        if _normal_cdf(float(self.latent[0])) < 1 - (1 - faults.drop) * _found(visible):
            return []
        score = float(0.22 + 0.55 * visible + 0.09 * self.latent[1] + 0.05 * white[4])
        spread = faults.jitter * (1 + 1.5 * (1 - visible))
        found = _distort(box, cut, spread * (0.7 * self.latent[2:6] + 0.7 * white[:4]))
        result = [(found, float(np.clip(score, 0.05, 0.98)))]
        if double:
            result.append((self._second(found), float(np.clip(score - 0.15 + 0.1 * white[5], 0.05, 0.95))))
        return result

    def _second(self, box: F64) -> F64:
        x1, y1, x2, y2 = box
        width, height = x2 - x1, y2 - y1
        kind, across, down = self.double.character
        if kind < 0.5:
            return np.array([x1, y1, x2, y1 + height * (0.35 + 0.3 * across)])
        moved: F64 = box + np.tile([0.7 * width * (across - 0.5), 0.5 * height * (down - 0.5)], 2)
        return moved


class _Haunt(_Person):
    """A place with a false box, there about a third of the time, with a middling score."""

    def __init__(self, box: F64, rng: np.random.Generator) -> None:
        super().__init__(rng)
        self.box = box

    def detect(
        self, box: F64, visible: float, dt: float, faults: Faults, rng: np.random.Generator
    ) -> list[tuple[F64, float]]:
        poor = replace(faults, drop=0.67, double=0.0, cut=0.0)
        return [(b, s - 0.4) for b, s in super().detect(box, visible, dt, poor, rng) if s > 0.45]


def _found(visible: float) -> float:
    """Probability to be found at all by visibility: nothing below a tenth, everything from 0.7."""
    return float(np.clip((visible - 0.1) / 0.6, 0, 1))


def _normal_cdf(z: float) -> float:
    return 0.5 * (1 + float(np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))))


def _distort(box: F64, cut: float, error: F64) -> F64:
    """``box`` without the share ``cut`` of it at the bottom; errors of centre, top, bottom and log width, in heights."""
    x1, y1, x2, y2 = box
    height = y2 - y1
    centre = (x1 + x2) / 2 + error[0] * height
    half = (x2 - x1) / 2 * np.exp(1.5 * error[3])
    top, bottom = y1 + error[1] * height, y2 + error[2] * height - cut * height
    return np.array([centre - half, top, centre + half, max(bottom, top + 0.1 * height)])


def _somewhere(scene: Scene, rng: np.random.Generator) -> F64:
    """The size of somebody in the scene at a random place."""
    box = scene.boxes[rng.integers(len(scene.boxes))]
    size = box[2:] - box[:2]
    corner = rng.random(2) * np.maximum(np.array(scene.size) - size, 1)
    return np.concatenate([corner, corner + size])


def _haunts(scene: Scene, faults: Faults, rng: np.random.Generator) -> list[_Haunt]:
    return [_Haunt(_somewhere(scene, rng), rng) for _ in range(faults.haunts)]


def _clutter(scene: Scene, faults: Faults, rng: np.random.Generator) -> list[tuple[F64, float]]:
    return [
        (_somewhere(scene, rng), float(np.clip(0.05 + rng.exponential(0.15), 0.05, 0.9)))
        for _ in range(rng.poisson(faults.clutter))
    ]


def _clip(found: list[tuple[F64, float]], size: tuple[int, int]) -> list[tuple[F64, float]]:
    """Detectors see no farther than the picture; what is left of a box there must be some pixels wide."""
    inside = [(np.clip(box, 0, np.tile(size, 2)), score) for box, score in found]
    return [(box, score) for box, score in inside if (box[2:] - box[:2]).min() >= 4]


def _nms(found: list[tuple[F64, float]], limit: float) -> Detections:
    found = sorted(((b, s) for b, s in found if s >= 0.05), key=lambda item: -item[1])
    boxes = np.array([b for b, _ in found]).reshape(-1, 4)
    overlap = iou(boxes, boxes)
    kept: Bools = np.ones(len(found), bool)
    for i in range(len(found)):
        if kept[i]:
            kept[i + 1 :] &= overlap[i, i + 1 :] <= limit
    scores = np.array([s for _, s in found])[kept] if found else np.zeros(0)
    return Detections(
        boxes[kept].astype(np.float32), scores.astype(np.float32), np.zeros(len(scores), np.int32), ("person",)
    )


def _overlap(a: F64, b: F64) -> tuple[F64, F64, F64]:
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.prod(np.maximum(high - low, 0), axis=2)
    return inter, np.prod(a[:, 2:] - a[:, :2], axis=1), np.prod(b[:, 2:] - b[:, :2], axis=1)
