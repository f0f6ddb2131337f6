"""Constant-velocity Kalman filters on the floor, and what is known of each person's height; struct-of-arrays.

The process noise is white acceleration in continuous time (Bar-Shalom, Li, Kirubarajan, Estimation with Applications
to Tracking and Navigation, 2001, §6.2.2): two steps of dt/2 are one step of dt, so any frame rate behaves alike, and
walking straight on is followed without lag.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.types import F64, I64, Bools
from edge_agent.usecases.geometry import inverse2

Rows = NDArray[np.intp]
_PP, _PV, _VV = (np.kron(block, np.eye(2)) for block in ([[1, 0], [0, 0]], [[0, 1], [1, 0]], [[0, 0], [0, 1]]))
"""Where place, place with velocity, and velocity stand in a covariance (4,4)."""


@dataclass(frozen=True, slots=True)
class Motion:
    """How people move: standard deviations for each axis of the floor."""

    velocity_mps: float = 1.0
    """Of the unknown velocity of somebody new: people walk 1.3 m/s in any direction."""
    wander: float = 0.5
    """By how much (m/s) a velocity changes within one second: from walking to standing takes two or three."""
    hidden_s: float = 1.0
    """How long feet stay hidden, once they are."""
    gate: float = 3.0
    """A measurement farther off than this many σ is a blunder: its σ grows until it is this far off."""


class GroundFilters:
    """Filters of many tracks. ``ids`` sorted; ``state`` (N,4) is x, y and their velocities, ``cov`` (N,4,4) its covariance.

    ``tall`` and ``tall_var`` (N,) are the learned height in metres and its variance; ``t`` (N,) the time a row stands
    at, ``seen`` (N,) that of its last measurement; ``hidden`` (N,) how probably the feet were hidden then,
    ``noise`` (N,2,2) its covariance.
    """

    def __init__(self, motion: Motion | None = None) -> None:
        self.motion = motion or Motion()
        self.ids: I64 = np.empty(0, np.int64)
        self.t: F64 = np.empty(0)
        self.seen: F64 = np.empty(0)
        self.state: F64 = np.empty((0, 4))
        self.cov: F64 = np.empty((0, 4, 4))
        self.tall: F64 = np.empty(0)
        self.tall_var: F64 = np.empty(0)
        self.hidden: F64 = np.empty(0)
        self.noise: F64 = np.empty((0, 2, 2))

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: I64) -> Rows:
        """Row of each id, -1 where there is none."""
        if len(ids) == len(self.ids) and (ids == self.ids).all():
            return np.arange(len(ids))
        if not len(self.ids):
            return np.full(len(ids), -1)
        rows = np.searchsorted(self.ids, ids)
        rows[rows == len(self.ids)] = 0
        return np.where(self.ids[rows] == ids, rows, -1)

    def predict(self, rows: Rows, t: float) -> None:
        """Bring ``rows`` (unique) to time ``t``, seconds."""
        dt = t - self.t[rows]
        if not dt.any():
            return
        self.t[rows] = t
        self.state[rows, :2] += dt[:, None] * self.state[rows, 2:]
        dt = dt[:, None, None]
        cov = self.cov[rows]
        cov[:, :2] += dt * cov[:, 2:]
        cov[:, :, :2] += dt * cov[:, :, 2:]
        cov += self.motion.wander**2 * dt * (_VV + dt * (_PV / 2 + dt * (_PP / 3)))
        self.cov[rows] = cov

    def update(self, rows: Rows, measured: F64, cov: F64) -> None:
        """Correct ``rows`` (unique, at the time of the measurement) by positions (n,2) with covariance (n,2,2)."""
        if not len(rows):
            return
        self.seen[rows] = self.t[rows]
        self.noise[rows] = cov
        state, cov_state = self.state[rows], self.cov[rows]
        place = cov_state[:, :2, :2]
        off = measured - state[:, :2]
        total = inverse2(place + cov)
        surprise = np.einsum("ni,nij,nj->n", off, total, off) / self.motion.gate**2
        if (surprise > 1).any():
            total = inverse2(place + cov * np.maximum(surprise, 1)[:, None, None])
        gain = cov_state[:, :, :2] @ total
        self.state[rows] = state + (gain @ off[:, :, None])[:, :, 0]
        cov_state -= gain @ cov_state[:, :2]
        # Rounding leaves the halves of a covariance a little apart, and the filter would drive them farther; so they are kept one.
        self.cov[rows] = (cov_state + cov_state.transpose(0, 2, 1)) / 2

    def heights(self, rows: Rows, tall: float, var: float) -> tuple[F64, F64, F64]:
        """Height, its variance and the lasting part of the doubt in the feet of ``rows``; the given ones where a row is -1."""
        n = len(rows)
        if not len(self.ids):
            return np.full(n, tall), np.full(n, var), np.zeros(n)
        old = rows >= 0
        doubt = self.hidden[rows] * np.exp(-np.maximum(self.t[rows] - self.seen[rows], 0) / self.motion.hidden_s)
        return np.where(old, self.tall[rows], tall), np.where(old, self.tall_var[rows], var), np.where(old, doubt, 0)

    def doubt(self, rows: Rows, hidden: F64) -> None:
        """Remember how probably the feet of ``rows`` are hidden; -1 is passed over."""
        old = rows >= 0
        self.hidden[rows[old]] = hidden[old]

    def learn_height(self, rows: Rows, height: F64, var: float, least: float) -> None:
        """Correct the height of ``rows`` by observed ones (n,), metres; the variance stays at ``least`` or above."""
        now = self.tall_var[rows]
        gain = now / (now + var)
        self.tall[rows] += gain * (height - self.tall[rows])
        self.tall_var[rows] = np.maximum(now * (1 - gain), least)

    def append(self, ids: I64, t: float, xy: F64, cov: F64, *, tall: float, tall_var: float) -> None:
        """Begin tracks at positions (n,2) with covariance (n,2,2)."""
        n = len(ids)
        whole = np.tile(self.motion.velocity_mps**2 * _VV, (n, 1, 1))
        whole[:, :2, :2] = cov
        new = {
            "ids": ids,
            "t": np.full(n, t),
            "seen": np.full(n, t),
            "state": np.hstack([xy, np.zeros((n, 2))]),
            "cov": whole,
            "tall": np.full(n, tall),
            "tall_var": np.full(n, tall_var),
            "hidden": np.zeros(n),
            "noise": cov,
        }
        order = np.argsort(np.concatenate([self.ids, ids]), kind="stable")
        for name, values in new.items():
            setattr(self, name, np.concatenate([getattr(self, name), values])[order])

    def keep(self, mask: Bools) -> None:
        """Forget the rows that are not in ``mask``."""
        for name in ("ids", "t", "seen", "state", "cov", "tall", "tall_var", "hidden", "noise"):
            setattr(self, name, getattr(self, name)[mask])
