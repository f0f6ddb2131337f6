"""Kalman filters of many boxes at once, as struct-of-arrays.

Every box has four axes: centre x, top y, width, height. The top is the anchor because feet are what furniture, other
people and the picture's edge hide; a box cut off below is then wrong on one axis only. The axes are filtered
independently (all noises are diagonal), so that a covariance is three numbers for each axis, and a prediction or an
update of all boxes is a handful of array operations.

Noises are fractions of the box height: a person twice as near moves and jitters by twice as many pixels. Velocities
are Ornstein-Uhlenbeck processes in continuous time with the exact discretisation (the integrated Ornstein-Uhlenbeck
model; Bar-Shalom, Li, Kirubarajan, Estimation with Applications to Tracking and Navigation, 2001, §8.2): two steps of
dt/2 are one step of dt, whatever the frame rate. Places keep their velocity for a minute, which is constant velocity;
the rate at which a box grows is forgotten within half a second, or somebody stepping out from behind a car would go
on growing while unseen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_agent.types import F32, F64, Bools

Rows: TypeAlias = NDArray[np.intp]
Axes: TypeAlias = tuple[float, float, float, float]

TAILS = 4.0
"""Degrees of freedom of Student's t for errors of detected boxes: half-seen people jump by many standard deviations."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Standard deviations for the axes (centre x, top y, width, height), in box heights."""

    measured: Axes = (0.05, 0.06, 0.07, 0.07)
    """Of a confidently detected box."""
    velocity: Axes = (0.6, 0.3, 0.1, 0.1)
    """Of the unknown velocity of a new track, per second: a pedestrian walks 0.8 heights in a second."""
    wander: Axes = (0.15, 0.1, 0.1, 0.1)
    """By how much the velocity changes within one second, per second."""
    memory_s: Axes = (60.0, 60.0, 0.5, 0.5)
    """Correlation time of the velocity."""


class BoxFilters:
    """The filters of N boxes. ``mean`` and ``velocity`` are (N,4); ``var`` (3,N,4): place, place with velocity, velocity."""

    def __init__(self, noise: Noise | None = None) -> None:
        noise = noise or Noise()
        self._measured: F64 = np.square(noise.measured)
        self._velocity: F64 = np.square(noise.velocity)
        self._wander: F64 = np.square(noise.wander)
        self._memory: F64 = np.array(noise.memory_s)
        self._dt = 0.0
        self._step = self._discretise(0.0)
        self.mean: F64 = np.empty((0, 4))
        self.velocity: F64 = np.empty((0, 4))
        self.var: F64 = np.empty((3, 0, 4))

    def predict(self, dt: float) -> None:
        """Move all ``dt`` seconds ahead."""
        if dt <= 0 or not len(self.mean):
            return
        if abs(dt - self._dt) > 1e-9:  # differences of steady times differ in the last bits
            self._dt, self._step = dt, self._discretise(dt)
        reach, fade, noise = self._step
        place, cross, velocity = self.var
        scale = np.square(self.mean[:, 3:])
        self.mean += reach * self.velocity
        np.maximum(self.mean[:, 2:], 1.0, out=self.mean[:, 2:])
        self.velocity *= fade
        moved = reach * velocity
        place += reach * (2 * cross + moved)
        cross += moved
        cross *= fade
        velocity *= fade * fade
        self.var += noise[:, None] * scale

    def fresh(self) -> F64:
        """(N,4) variance of a confidently detected box."""
        variance: F64 = self._measured * np.square(self.mean[:, 3:])
        return variance

    def update(self, rows: Rows, measured: F64, doubt: F64) -> None:
        """Correct ``rows`` (K, unique) by ``measured`` (K,4), whose variances are ``doubt`` (K,1) times those of a confident box.

        An axis that fits badly weighs less: one step of the expectation-maximisation for Student's t (Roth, Özkan,
        Gustafsson, A Student's t filter for heavy tailed process and measurement noise, ICASSP 2013).
        """
        if not len(rows):
            return
        place, cross, velocity = self.var[:, rows]
        mean = self.mean[rows]
        error = measured - mean
        noise = self._measured * np.square(mean[:, 3:]) * doubt
        noise *= np.maximum(1.0, (TAILS + np.square(error) / (place + noise)) / (TAILS + 1))
        total = place + noise
        gain, gain_v = place / total, cross / total
        self.mean[rows] = mean + gain * error
        self.velocity[rows] += gain_v * error
        self.var[:, rows] = (1 - gain) * place, (1 - gain) * cross, velocity - gain_v * cross

    def append(self, measured: F64) -> None:
        """New filters at rest on ``measured`` (K,4)."""
        scale = np.square(measured[:, 3:])
        fresh = np.stack([self._measured * scale, np.zeros_like(measured), self._velocity * scale])
        self.mean = np.concatenate([self.mean, measured])
        self.velocity = np.concatenate([self.velocity, np.zeros_like(measured)])
        self.var = np.concatenate([self.var, fresh], axis=1)

    def keep(self, mask: Bools) -> None:
        """Forget the others."""
        self.mean, self.velocity, self.var = self.mean[mask], self.velocity[mask], self.var[:, mask]

    def _discretise(self, dt: float) -> tuple[F64, F64, F64]:
        """Seconds of velocity that reach the place (4,), what remains of the velocity (4,), noise (3,4) as ``var``."""
        tau = self._memory
        fade = np.exp(-dt / tau)
        reach = -tau * np.expm1(-dt / tau)
        both = -tau / 2 * np.expm1(-2 * dt / tau)
        noise = np.stack([tau * tau * (dt - 2 * reach + both), reach * reach / 2, both])
        return reach, fade, noise * self._wander


def to_axes(boxes: F32 | F64) -> F64:
    """(N,4) xyxy -> (N,4) centre x, top y, width, height (at least a pixel)."""
    out = np.empty((len(boxes), 4))
    out[:, 0] = (boxes[:, 0] + boxes[:, 2]) * 0.5
    out[:, 1] = boxes[:, 1]
    np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0, out=out[:, 2:])
    return out


def to_boxes(axes: F64) -> F64:
    """(N,4) centre x, top y, width, height -> (N,4) xyxy."""
    out = np.empty((len(axes), 4))
    out[:, 0] = axes[:, 0] - axes[:, 2] * 0.5
    out[:, 1] = axes[:, 1]
    out[:, 2:] = out[:, :2] + axes[:, 2:]
    return out
