"""Which detection belongs to which track: overlaps, costs and the assignment."""

from __future__ import annotations

import lap
import numpy as np
from numpy.typing import NDArray

from edge_agent.types import F64, I32

Rows = NDArray[np.intp]
FORBIDDEN = 1e6


def overlaps(a: F64, b: F64) -> tuple[F64, F64]:
    """(N,4) and (M,4) xyxy -> intersection over union, and intersection over the smaller of the two, both (N,M)."""
    low = np.maximum(a[:, None, :2], b[:, :2])
    high = np.minimum(a[:, None, 2:], b[:, 2:])
    sides = np.maximum(high - low, 0.0)
    inter = sides[..., 0] * sides[..., 1]
    area_a = ((a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1]))[:, None]
    area_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    return inter / np.maximum(area_a + area_b - inter, 1e-9), inter / np.maximum(np.minimum(area_a, area_b), 1e-9)


def mahalanobis(mean: F64, spread: F64, measured: F64) -> F64:
    """Squared distances (N,M) of ``measured`` (M,4) from predictions ``mean`` (N,4) with variances ``spread`` (N,4)."""
    difference = measured - mean[:, None]
    difference *= difference
    distance: F64 = np.einsum("nmk,nk->nm", difference, 1.0 / spread)
    return distance


def forbid_other_classes(cost: F64, tracks: I32, detections: I32) -> None:
    """A track keeps its class."""
    cost[tracks[:, None] != detections] = FORBIDDEN


def assign(cost: F64, limit: float) -> tuple[Rows, Rows]:
    """The assignment of least total cost in which every pair costs less than ``limit``: rows and their columns.

    Leaving a row and a column alone costs ``limit`` together (Jonker & Volgenant 1987, by lap.lapjv).
    """
    if not cost.size:
        none = np.empty(0, np.intp)
        return none, none
    columns = lap.lapjv(cost, extend_cost=True, cost_limit=limit, return_cost=False)[0]
    rows = np.flatnonzero(columns >= 0)
    return rows, columns[rows].astype(np.intp)
