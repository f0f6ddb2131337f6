"""What a person has on them or is near: from the boxes of people and objects of one frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_agent.types import F64, Bools
from edge_agent.usecases.evidence import FALSE, TRUE, UNKNOWN

_SIDE, _ABOVE = 0.15, 0.1
"""By how much of its width and height a person's box is widened: arms, and helmets that the detector cuts off."""
_TIE = 0.2
"""Two people are equally near an object where its places in their boxes differ by less than this."""


def has(people: F64, objects: F64, seen: Bools) -> NDArray[np.int8]:
    """(P,) ``Truth``: whether each of (P,4) people has one of (K,4) objects in the hand or on the body.

    An object belongs to the one person in whose box its centre lies nearest to the middle; between two of whom that is
    equally true it is unknown whose it is. ``seen`` (K,): an object that was there a moment ago may still be.
    """
    result = np.full(len(people), FALSE, np.int8)
    if not len(objects) or not len(people):
        return result
    x, y = (objects[:, 0] + objects[:, 2]) / 2, (objects[:, 1] + objects[:, 3]) / 2
    width, height = (people[:, i + 2, None] - people[:, i, None] for i in (0, 1))
    off = np.abs(x - (people[:, 0, None] + people[:, 2, None]) / 2) / np.maximum(width, 1.0)
    on = (off <= 0.5 + _SIDE) & (y >= people[:, 1, None] - _ABOVE * height) & (y <= people[:, 3, None])
    off = np.where(on, off, np.inf)
    nearest = off.min(axis=0)
    for k in np.flatnonzero(nearest < np.inf).tolist():
        candidates = np.flatnonzero(off[:, k] <= nearest[k] + _TIE)
        sure = seen[k] and len(candidates) == 1
        result[candidates] = np.maximum(result[candidates], TRUE if sure else UNKNOWN)
    return result


def gaps_m(people: F64, others: F64, metres: F64) -> F64:
    """(P,K) metres between boxes in the picture, 0 where they touch; ``metres`` (P,) for each pixel at each person."""
    apart = np.maximum(people[:, None, :2] - others[None, :, 2:], others[None, :, :2] - people[:, None, 2:])
    apart = np.maximum(apart, 0)
    gaps: F64 = np.hypot(apart[:, :, 0], apart[:, :, 1]) * metres[:, None]
    return gaps


def share_covered(points: F64, boxes: F64) -> float:
    """The share of (M,2) points that lies in one of (P,4) boxes, same unit."""
    if not len(boxes):
        return 0.0
    x, y = points[:, :1], points[:, 1:]
    inside = (x >= boxes[:, 0]) & (x <= boxes[:, 2]) & (y >= boxes[:, 1]) & (y <= boxes[:, 3])
    return float(inside.any(axis=1).mean())
