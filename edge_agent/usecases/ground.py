"""Puts tracks on the floor: foot point -> metres, smoothed, with an uncertainty; and the pairs near each other.

Hidden feet. The head, cut with the plane at the person's height above the floor, says a second time where somebody
stands. A whole box gives both, and the mean weighted by their variances is better than either; where the box is too
short for the track's own height (for a new track: for a person) the feet are probably hidden and the head counts
alone; cut by the lower edge of the frame they certainly are. The weights are the probabilities of these
explanations, so nothing flips at a threshold.

That takes the camera's geometry, which ``geometry.vertical`` gets from the homography and the assumption of square
pixels and a centred principal point. Each track learns its own height from whole boxes, so that neither the assumed
mean height nor that assumption matter much once somebody was seen whole.
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
"""A track whose place was not measured for longer (unseen, or above the horizon) starts anew on the floor."""
_UNCALIBRATED_FOCAL = 1.7
"""Half diagonals, 61° across the diagonal: a common surveillance lens. Only ratios of it to the truth matter."""


@dataclass(frozen=True, slots=True)
class BoxNoise:
    """Standard deviations of a box in box heights, and of people's heights.

    Real detections with a score about ``usual_score`` jitter from frame to frame by 0.02, 0.025 and 0.03 (across, lower,
    upper end); errors that last several frames count for more in a filter that takes them for white, hence the larger
    values. They grow as the score falls, the lower end's with the square of it: at half the score 4, at the upper end 2 times.
    """

    across: float = 0.035
    foot: float = 0.04
    head: float = 0.05
    tall_m: float = 0.12
    """Of adults about the configured mean, metres, with shoes, hats and the box's margin."""
    tall_least_m: float = 0.04
    """Nobody's height is known better: gait and posture."""
    hidden: float = 0.05
    """Share of boxes that miss the feet, or whose upper end is wrong ..."""
    hidden_most: float = 0.7
    """... by at most this part of the height."""
    usual_score: float = 0.6
    slow: float = 0.3
    """Part of a box's variance that lasts (the detector's habit for a pose): no filter averages it away."""
    edge: float = 0.005
    """A box that ends within this part of the frame's height from the lower edge is cut by it."""


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """What is thought of N boxes: probability that they are whole, that the feet are hidden; how far (0 to 1) the foot
    point moves to where the head says it is; σ of the result in box heights.
    """

    whole: F64
    hidden: F64
    share: F64
    sigma: F64

    def only(self, persons: Bools, sigma: float) -> _View:
        """Others than persons keep their foot point."""
        whole, hidden, share = (np.where(persons, values, 0) for values in (self.whole, self.hidden, self.share))
        return _View(whole, hidden, share, np.where(persons, self.sigma, sigma))


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
        self._told_sizes: set[tuple[int, int]] = set()

    @property
    def remembered(self) -> int:
        """Tracks with a state."""
        return len(self._filters)

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
        self._forget(t)
        ground = self._report(tracks, estimated)
        return ground, near_pairs(tracks, ground)

    def _plane(self, size: tuple[int, int]) -> GroundPlane | None:
        if self.plane is None or self._scaled is None or self._scaled.image_size == size:
            return self._scaled
        width, height = self.plane.image_size
        if abs(width * size[1] / (height * size[0]) - 1) > 0.02 and size not in self._told_sizes:
            self._told_sizes = {size, *list(self._told_sizes)[:9]}  # a source that goes to and fro is told once
            log.warning(
                "frames are %d×%d, calibrated was %d×%d: another aspect, positions may be off", *size, width, height
            )
        self._scaled = self.plane.at(size)
        return self._scaled

    def _measure(self, tracks: Tracks, rows: Rows, size: tuple[int, int]) -> tuple[F64, F64, Bools]:
        """Positions (N,2), covariances (N,2,2), feet hidden (N,) of the boxes alone."""
        plane = self._plane(size)
        # Filtering what the tracker has filtered would lag, and smear the moment at which feet become hidden.
        boxes = (tracks.boxes if tracks.measured is None else tracks.measured).astype(np.float64)
        if plane is None:
            return self._measure_by_height(boxes, size)
        n = len(boxes)
        ends = np.empty((2 * n, 2))
        ends[:n, 0] = ends[n:, 0] = (boxes[:, 0] + boxes[:, 2]) / 2
        ends[:n, 1], ends[n:, 1] = boxes[:, 3], boxes[:, 1]
        lens = plane.lens(ends)
        foot, head = lens[:n], lens[n:]
        pixels = np.maximum(boxes[:, 3] - boxes[:, 1], 1.0)
        tall, var, doubt = self._filters.heights(rows, self._height, self._noise.tall_m**2)
        below = plane.foot_below(head, tall)
        short = plane.pixels_down(below - foot) / pixels
        unsure = self._unsure(tracks)
        view = self._explain(short, np.sqrt(var) / tall, doubt, unsure, boxes=boxes, size=size)
        if self._label not in tracks.labels[:1] or tracks.classes.any():
            view = view.only(
                np.array([tracks.labels[c] == self._label for c in tracks.classes], bool), self._noise.foot
            )
        learn = (rows >= 0) & (view.whole > 0.5) & (unsure < 1.5) & ~tracks.predicted
        if learn.any():
            jitter = (self._noise.foot**2 + self._noise.head**2) * self._height**2
            height = plane.height(foot[learn], head[learn])
            self._filters.learn_height(rows[learn], height, jitter, self._noise.tall_least_m**2)
        self._filters.doubt(rows, view.hidden)
        # The centre of the box is that of head and feet together: only the height in the picture is in question.
        moved = view.share > 0
        foot[moved, 1] += view.share[moved] * (below[moved, 1] - foot[moved, 1])
        xy, jacobian = plane.project_lens(foot)
        return xy, _spread(jacobian, self._noise.across * unsure**1.5 * pixels, view.sigma * pixels), view.hidden > 0.5

    def _unsure(self, tracks: Tracks) -> F64:
        """(N,) by how much the head's error grows where the detector was not sure; the foot's grows by its square."""
        return np.clip(self._noise.usual_score / np.maximum(tracks.scores, 0.01), 0.8, 3.0).astype(np.float64)

    def _explain(self, short: F64, tall: F64, doubt: F64, unsure: F64, *, boxes: F64, size: tuple[int, int]) -> _View:
        """Weigh what explains a box that is ``short`` (N,) of the person, in box heights.

        ``tall`` is σ of the height, relative; ``doubt`` how probably the feet are still hidden; ``unsure`` see ``_unsure``.

        Three explanations: it is whole and jitters; its lower end is hidden by any amount; its upper end is wrong.
        """
        noise = self._noise
        head = (noise.head * unsure) ** 2 + tall**2
        foot = (noise.foot * unsure**2) ** 2
        both = foot + head
        edge = noise.edge * size[1]
        cut, beheaded = boxes[:, 3] >= size[1] - edge, boxes[:, 1] <= edge
        prior = np.minimum(noise.hidden + 0.5 * doubt, 0.9)
        whole = (1 - prior) * np.exp(-0.5 * short**2 / both) / np.sqrt(2 * np.pi * both)
        hidden = np.where(short > 0, prior / noise.hidden_most, 0)
        wrong = np.where(short < 0, noise.hidden / noise.hidden_most, 0)
        unknown = np.isnan(short) | beheaded
        whole[cut | unknown], hidden[cut], hidden[unknown] = 0, 1, 0
        wrong = np.where(unknown, 1, np.where(cut, 0, wrong))
        total = whole + hidden + wrong + 1e-12
        whole, hidden, wrong = whole / total, hidden / total, wrong / total
        fused = foot / both
        share = whole * fused + hidden
        short = np.where(unknown, 0, short)
        variance = whole * (foot * head / both + ((fused - share) * short) ** 2)
        variance += hidden * (head + ((1 - share) * short) ** 2) + wrong * (foot + (share * short) ** 2)
        blind = cut & unknown  # too near to see either end
        hidden, variance = np.where(blind, 1, hidden), np.where(blind, 0.25, variance)
        return _View(whole, hidden, share, np.sqrt(variance))

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
        if not len(filters):
            n = len(tracks)
            return Ground(
                np.full((n, 2), np.nan), np.full((n, 2, 2), np.nan), np.zeros(n, bool), self.plane is not None
            )
        rows = filters.rows(tracks.ids)
        xy, cov = filters.state[rows, :2], filters.cov[rows, :2, :2] + self._noise.slow * filters.noise[rows]
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
