"""Puts tracks on the floor: foot point -> metres, smoothed, with an uncertainty; and the pairs near each other.

Hidden feet. Where the feet are not seen (box cut by the lower edge of the frame, or much lower than the track's own
height or, for a new track, than a person), the head is cut with the plane at the person's height above the floor.
That takes the camera's geometry, which ``geometry.vertical`` gets from the homography and the assumption of square
pixels and a centred principal point. Each track learns its own height from full boxes, so that neither the assumed mean
height nor that assumption matter once somebody was seen whole.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass

import numpy as np

from edge_agent.config import CameraConfig
from edge_agent.types import F64, Bools, Ground, Pairs, Tracks
from edge_agent.usecases.calibrate import fit_ground
from edge_agent.usecases.geometry import GroundPlane
from edge_agent.usecases.smoothing import GroundFilters, Motion, Rows

log = logging.getLogger(__name__)

PAIR_LIMIT_M = 5.0
FORGET_S = 5.0
"""A track unseen for longer starts anew on the floor; trackers give up earlier or later than that."""
_UNCALIBRATED_FOCAL = 1.7
"""Half diagonals, 61° across the diagonal: a common surveillance lens. Only ratios of it to the truth matter."""


@dataclass(frozen=True, slots=True)
class BoxNoise:
    """Standard deviations of a track's box, in box heights, and of people's heights."""

    across: float = 0.025
    foot: float = 0.03
    head: float = 0.035
    tall_m: float = 0.12
    """Of adults about the configured mean, metres, with shoes, hats and the box's margin."""
    tall_least_m: float = 0.03
    """Nobody's height is known better: gait and posture."""
    hidden: float = 3.0
    """So many σ lower than expected, a box does not reach the feet."""
    edge: float = 0.005
    """A box that ends within this part of the frame's height from the lower edge is cut by it."""


class CameraGround:
    """The ``GroundProjector`` of one camera. Not thread-safe; called in frame order.

    ``label`` names the persons, to whom the reasoning about heights applies; others are projected by foot point only.
    Raises ConfigError for points that cannot carry a ground plane (see ``calibrate.fit_ground``).
    """

    def __init__(
        self,
        camera: CameraConfig,
        label: str = "person",
        *,
        noise: BoxNoise | None = None,
        motion: Motion | None = None,
    ) -> None:
        self.plane = fit_ground(camera.ground, f"cameras.{camera.id}.ground") if camera.ground else None
        self._label = label
        self._height = camera.person_height_m
        self._noise = noise or BoxNoise()
        self._filters = GroundFilters(motion)
        self._scaled = self.plane

    def update(self, tracks: Tracks, t: float, size: tuple[int, int]) -> tuple[Ground, Pairs]:
        """See ``pipeline.GroundProjector``."""
        filters = self._filters
        rows = filters.rows(tracks.ids)
        old = rows >= 0
        filters.predict(rows[old], t)
        measured, cov, estimated = self._measure(tracks, rows, size)
        known = ~tracks.predicted & ~np.isnan(measured[:, 0])
        again = old & known
        filters.update(rows[again], measured[again], cov[again])
        new = known & ~old
        if new.any():
            tall = self._height
            filters.append(tracks.ids[new], t, measured[new], cov[new], tall=tall, tall_var=self._noise.tall_m**2)
        if len(filters) > len(tracks):
            self._forget(t)
        ground = self._report(tracks, estimated)
        return ground, near_pairs(tracks, ground)

    def _plane(self, size: tuple[int, int]) -> GroundPlane | None:
        plane = self._scaled
        if plane is None or plane.image_size == size:
            return plane
        width, height = plane.image_size
        if abs(width * size[1] / (height * size[0]) - 1) > 0.02:
            log.warning(
                "frames are %d×%d, calibrated was %d×%d: another aspect, positions may be off", *size, width, height
            )
        self._scaled = plane.at(size)
        return self._scaled

    def _measure(self, tracks: Tracks, rows: Rows, size: tuple[int, int]) -> tuple[F64, F64, Bools]:
        """Positions (N,2), covariances (N,2,2), feet hidden (N,) of the boxes alone."""
        plane = self._plane(size)
        boxes = tracks.boxes.astype(np.float64)
        if plane is None:
            return self._measure_by_height(boxes, size)
        noise = self._noise
        n = len(boxes)
        ends = np.empty((2 * n, 2))
        ends[:n, 0] = ends[n:, 0] = (boxes[:, 0] + boxes[:, 2]) / 2
        ends[:n, 1], ends[n:, 1] = boxes[:, 3], boxes[:, 1]
        lens = plane.lens(ends)
        foot, head = lens[:n], lens[n:]
        pixels = boxes[:, 3] - boxes[:, 1]
        height = plane.height(foot, head)

        old = rows >= 0
        tall = np.where(old, self._filters.tall[rows], self._height) if len(self._filters) else np.full(n, self._height)
        var = (
            np.where(old, self._filters.tall_var[rows], noise.tall_m**2)
            if len(self._filters)
            else np.full(n, noise.tall_m**2)
        )
        jitter = (noise.foot**2 + noise.head**2) * tall**2
        cut = boxes[:, 3] >= size[1] * (1 - noise.edge)
        whole = (boxes[:, 1] > size[1] * noise.edge) & ~cut
        hidden = (cut | (height < tall - noise.hidden * np.sqrt(var + jitter))) & (boxes[:, 1] > size[1] * noise.edge)
        if self._label in tracks.labels:
            hidden &= tracks.classes == tracks.labels.index(self._label)
        learn = old & whole & ~hidden & ~tracks.predicted & (np.abs(height - tall) < 3 * np.sqrt(var + jitter))
        if learn.any():
            self._filters.learn_height(rows[learn], height[learn], float(np.mean(jitter)), noise.tall_least_m**2)
        sigma_foot = np.where(hidden, np.hypot(noise.head, np.sqrt(var) / tall), noise.foot) * pixels
        if hidden.any():
            foot = np.where(hidden[:, None], plane.foot_below(head, tall), foot)
        xy, jacobian = plane.project_lens(foot)
        return xy, _spread(jacobian, noise.across * pixels, sigma_foot), hidden

    def _measure_by_height(self, boxes: F64, size: tuple[int, int]) -> tuple[F64, F64, Bools]:
        """Without calibration: everybody is as tall as configured and looked at level; x to the right, y away."""
        noise = self._noise
        pixels = np.maximum(boxes[:, 3] - boxes[:, 1], 1.0)
        focal = _UNCALIBRATED_FOCAL * np.hypot(*size) / 2
        away = focal * self._height / pixels
        across = (boxes[:, 0] + boxes[:, 2] - size[0]) / 2 * away / focal
        jacobian = np.zeros((len(boxes), 2, 2))
        jacobian[:, 0, 0] = away / focal
        jacobian[:, 1, 1] = away / pixels
        jacobian[:, 0, 1] = across / pixels
        sigma = np.hypot(np.hypot(noise.foot, noise.head), noise.tall_m / self._height)
        cut = (boxes[:, 3] >= size[1] * (1 - noise.edge)) | (boxes[:, 1] <= size[1] * noise.edge)
        cov = _spread(jacobian, noise.across * pixels, np.where(cut, 4 * sigma, sigma) * pixels)
        return np.column_stack([across, away]), cov, cut

    def _forget(self, t: float) -> None:
        keep = t - self._filters.seen <= FORGET_S
        if not keep.all():
            self._filters.keep(keep)

    def _report(self, tracks: Tracks, estimated: Bools) -> Ground:
        filters = self._filters
        rows = filters.rows(tracks.ids)
        xy, cov = (
            filters.xy[rows] if len(filters) else np.empty((len(rows), 2)),
            filters.pp[rows] if len(filters) else np.empty((len(rows), 2, 2)),
        )
        missing = rows < 0
        if missing.any():
            xy[missing], cov[missing] = np.nan, np.nan
        return Ground(xy, cov, estimated & ~missing, self.plane is not None)


def _spread(jacobian: F64, across: F64, along: F64) -> F64:
    """Covariance (N,2,2) in m² of pixels with σ ``across`` and ``along`` (N,), uncorrelated, through (N,2,2) Jacobians."""
    scaled = jacobian * np.stack([across, along], axis=1)[:, None, :]
    cov: F64 = scaled @ scaled.transpose(0, 2, 1)
    return cov


def near_pairs(tracks: Tracks, ground: Ground, limit_m: float = PAIR_LIMIT_M) -> Pairs:
    """Every pair of tracks nearer than ``limit_m``, with σ of the distance from the covariances of both."""
    n = len(tracks)
    first, second = _upper(n)
    xy = ground.xy
    apart = xy[second] - xy[first]
    distance = np.sqrt(apart[:, 0] ** 2 + apart[:, 1] ** 2)
    near = np.flatnonzero(distance < limit_m)
    first, second, apart, distance = first[near], second[near], apart[near], distance[near]
    cov = ground.cov[first] + ground.cov[second]
    way = apart / np.maximum(distance, 1e-9)[:, None]
    variance = np.einsum("ni,nij,nj->n", way, cov, way)
    return Pairs(tracks.ids[first], tracks.ids[second], distance, np.sqrt(np.maximum(variance, 0)))


@functools.lru_cache(maxsize=256)
def _upper(n: int) -> tuple[Rows, Rows]:
    return np.triu_indices(n, 1)
