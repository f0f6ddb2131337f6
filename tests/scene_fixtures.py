"""People and objects at places, as a use case is shown them: no detector, no tracker, no faults but those that are asked for."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge_agent.config import CameraConfig
from edge_agent.types import Code, Ground, Observation, Tracks, uuid7_factory
from edge_agent.types import SensorValue as Reading
from edge_agent.usecases.ground import near_pairs
from edge_agent.usecases.scene import SensorValue
from edge_agent.usecases.sop import Sop

START = 1_700_000_000.0  # a Tuesday, 22:13:20 UTC
SIZE = (1600, 900)
HEIGHT = 200
"""Of a person, pixels."""
Place = tuple[float, float]
Person = tuple[int, Place]
"""Track id, and the feet in fractions of the frame."""
Thing = tuple[int, str, Place]
"""Track id, label, and the centre in fractions of the frame."""


def box(feet: Place) -> list[float]:
    """Of a person."""
    x, y = feet[0] * SIZE[0], feet[1] * SIZE[1]
    return [x - 40, y - HEIGHT, x + 40, y]


def observe(
    t: float,
    people: Sequence[Person] = (),
    things: Sequence[Thing] = (),
    *,
    predicted: Sequence[int] = (),
    sensors: Mapping[str, SensorValue | Reading] | None = None,
    codes: Sequence[Code] = (),
) -> Observation:
    """One frame. On the floor a person's height is 1.7 m in both directions."""
    labels = ["person", *dict.fromkeys(label for _, label, _ in things)]
    rows = [(ident, 0, box(feet)) for ident, feet in people]
    for ident, label, (x, y) in things:
        middle = np.array([x * SIZE[0], y * SIZE[1]])
        rows.append((ident, labels.index(label), [*(middle - 15), *(middle + 15)]))
    rows.sort()
    boxes = np.array([row[2] for row in rows], np.float32).reshape(-1, 4)
    n = len(rows)
    tracks = Tracks(
        np.array([row[0] for row in rows], np.int64),
        boxes,
        np.ones(n, np.float32),
        np.array([row[1] for row in rows], np.int32),
        np.array([row[0] in predicted for row in rows], bool),
        tuple(labels),
    )
    xy = np.column_stack([(boxes[:, 0] + boxes[:, 2]) / 2, boxes[:, 3]]).astype(np.float64) * 1.7 / HEIGHT
    ground = Ground(xy, np.tile(0.01 * np.eye(2), (n, 1, 1)), np.zeros(n, bool), True)
    seen = _Seen("cam", 0, t, START + t, SIZE, tracks, ground, near_pairs(tracks, ground), codes=codes)
    object.__setattr__(seen, "sensors", sensors or {})
    return seen


class _Seen(Observation):
    __slots__ = ("sensors",)


def square(x: float, y: float, side: float = 0.2) -> list[Place]:
    """A zone about a middle."""
    half = side / 2
    return [(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)]


ZONES = {"left": square(0.2, 0.6), "middle": square(0.5, 0.6), "right": square(0.8, 0.6), "far": square(0.6, 0.9, 0.1)}
LEFT, MIDDLE, RIGHT, FAR, NOWHERE = (0.2, 0.6), (0.5, 0.6), (0.8, 0.6), (0.6, 0.9), (0.35, 0.9)


def camera(**settings: Any) -> CameraConfig:
    """A camera with three zones beside each other."""
    return CameraConfig.model_validate({"id": "cam", "source": "none", "zones": ZONES, **settings})


def sop(*steps: Mapping[str, Any], **settings: Any) -> Sop:
    """One procedure of these steps on that camera."""
    from edge_agent.config_sop import SopConfig

    procedure = {"name": "it", "requires_labels": ["person"], "steps": list(steps), **settings}
    return Sop(SopConfig.model_validate({"procedures": [procedure]}), camera(), uuid7_factory(random.Random(1)))
