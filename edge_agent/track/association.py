"""Which detection belongs to which track: costs and the assignment."""

from __future__ import annotations

import lap
import numpy as np

from edge_agent.track.kalman import TAILS, Rows
from edge_agent.types import F64

FORBIDDEN = 1e6
NONE: Rows = np.empty(0, np.intp)


def surprise(mean: F64, variance: F64, fresh: F64, measured: F64, doubt: F64) -> F64:
    """How much worse (N,M) each of ``measured`` (M,4) fits a track than a perfect hit on one seen a moment ago.

    Twice the negative log-likelihood of the measurement, up to a constant: tracks predict ``mean`` with ``variance``,
    a confident box adds ``fresh`` (all (N,4)), others ``doubt`` (M,1) times that. Two terms:

    * Student's t for each axis in place of the squared Mahalanobis distance: a box cut off by an obstacle is far out on
      one axis, which must not outweigh that all others fit.
    * log(det S / det S_fresh), which a plain Mahalanobis gate lacks: without it a track becomes the more attractive the
      less is known about it, and a lost one takes the boxes of those that are seen (Bar-Shalom, Li,
      Multitarget-Multisensor Tracking, 1995, §2.3). So the gate opens with the uncertainty, but never without bound.
    """
    misfit = measured - mean[:, None]
    misfit *= misfit
    misfit /= TAILS * (variance[:, None] + doubt * fresh[:, None])
    cost: F64 = np.log1p(misfit, out=misfit).sum(axis=2)
    cost *= TAILS + 1
    cost += np.log(np.prod(1 + variance / fresh, axis=1))[:, None]
    return cost


def overlaps(a: F64, b: F64) -> tuple[F64, F64]:
    """(N,4) and (M,4) xyxy -> intersection over union, and intersection over the smaller of the two, both (N,M)."""
    sides = np.minimum(a[:, None, 2:], b[:, 2:])
    sides -= np.maximum(a[:, None, :2], b[:, :2])
    np.maximum(sides, 0.0, out=sides)
    inter = sides[..., 0] * sides[..., 1]
    area_a = ((a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1]))[:, None]
    area_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    return inter / np.maximum(area_a + area_b - inter, 1e-9), inter / np.maximum(np.minimum(area_a, area_b), 1e-9)


def assign(cost: F64, limit: float) -> tuple[Rows, Rows]:
    """The assignment of least total cost, leaving a row and a column alone costing ``limit`` together: rows, their columns.

    Jonker & Volgenant 1987, by ``lap.lapjv``.
    """
    if not cost.size:
        return NONE, NONE
    columns = lap.lapjv(cost, extend_cost=True, cost_limit=limit, return_cost=False)[0]
    rows = np.flatnonzero(columns >= 0)
    return rows, columns[rows].astype(np.intp)
