"""Constant-velocity Kalman filters of many boxes at once, as struct-of-arrays.

Every box has four axes: centre x, bottom y (the foot, what stands on the ground), width, height. The axes are filtered
independently (all noises are diagonal), so that a filter is three numbers of covariance for each axis and a
prediction or an update of all boxes is a handful of array operations.

Noises are fractions of the box height: a person twice as near moves and jitters twice as many pixels. The process
noise is white acceleration in continuous time (Bar-Shalom, Li, Kirubarajan, Estimation with Applications to
Tracking and Navigation, 2001, §6.2.2), so that two steps of dt/2 are one step of dt and any frame rate behaves alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.types import F32, F64, Bools

Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Noise:
    """Standard deviations for the axes (centre x, bottom y, width, height), in heights."""

    measured: tuple[float, float, float, float] = (0.04, 0.05, 0.06, 0.06)
    """Of a detected box."""
    velocity: tuple[float, float, float, float] = (0.6, 0.3, 0.1, 0.1)
    """Of the unknown velocity of a new track, per second: a pedestrian walks 0.8 heights in a second."""
    wander: tuple[float, float, float, float] = (0.3, 0.2, 0.1, 0.1)
    """By how much the velocity changes within one second, per second."""


class BoxFilters:
    """The filters of N boxes. ``mean`` and ``velocity`` are (N,4); ``var`` (3,N,4): position, position-velocity, velocity."""

    def __init__(self, noise: Noise | None = None) -> None:
        noise = noise or Noise()
        self._r = np.square(noise.measured)
        self._v = np.square(noise.velocity)
        self._q = np.square(noise.wander)
        self.mean: F64 = np.empty((0, 4))
        self.velocity: F64 = np.empty((0, 4))
        self.var: F64 = np.empty((3, 0, 4))

    def __len__(self) -> int:
        return len(self.mean)

    def predict(self, dt: float) -> None:
        """Move all ``dt`` seconds ahead."""
        if dt <= 0 or not len(self.mean):
            return
        position, cross, velocity = self.var
        q = self._q * np.square(self.mean[:, 3:])
        self.mean += self.velocity * dt
        np.maximum(self.mean[:, 2:], 1.0, out=self.mean[:, 2:])
        position += (2 * dt) * cross + (dt * dt) * velocity + (dt**3 / 3) * q
        cross += dt * velocity + (dt * dt / 2) * q
        velocity += dt * q

    def spread(self) -> F64:
        """(N,4) variance of the difference between a detected box and the prediction."""
        return self.var[0] + self._r * np.square(self.mean[:, 3:])

    def update(self, rows: Rows, measured: F64) -> None:
        """Correct ``rows`` (unique) by the boxes ``measured`` (len(rows),4), in the filters' axes."""
        if not len(rows):
            return
        position, cross, velocity = self.var[:, rows]
        mean = self.mean[rows]
        total = position + self._r * np.square(mean[:, 3:])
        gain, gain_v = position / total, cross / total
        error = measured - mean
        self.mean[rows] = mean + gain * error
        self.velocity[rows] += gain_v * error
        self.var[:, rows] = (1 - gain) * position, (1 - gain) * cross, velocity - gain_v * cross

    def append(self, measured: F64) -> None:
        """New filters at rest on ``measured`` (K,4)."""
        scale = np.square(measured[:, 3:])
        fresh = np.stack([self._r * scale, np.zeros_like(measured), self._v * scale])
        self.mean = np.concatenate([self.mean, measured])
        self.velocity = np.concatenate([self.velocity, np.zeros_like(measured)])
        self.var = np.concatenate([self.var, fresh], axis=1)

    def keep(self, mask: Bools) -> None:
        """Forget the others."""
        self.mean, self.velocity, self.var = self.mean[mask], self.velocity[mask], self.var[:, mask]


def to_axes(boxes: F32 | F64) -> F64:
    """(N,4) xyxy -> (N,4) centre x, bottom y, width, height (at least a pixel)."""
    out = np.empty((len(boxes), 4))
    out[:, 0] = (boxes[:, 0] + boxes[:, 2]) * 0.5
    out[:, 1] = boxes[:, 3]
    np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0, out=out[:, 2:])
    return out


def to_boxes(axes: F64) -> F64:
    """(N,4) centre x, bottom y, width, height -> (N,4) xyxy."""
    out = np.empty((len(axes), 4))
    half = axes[:, 2] * 0.5
    out[:, 0] = axes[:, 0] - half
    out[:, 1] = axes[:, 1] - axes[:, 3]
    out[:, 2] = axes[:, 0] + half
    out[:, 3] = axes[:, 1]
    return out
