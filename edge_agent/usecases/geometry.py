"""From pixels to the floor: a plane homography with radial lens distortion, and the person's height above it.

Everything is vectorised over points, float64, and needs numpy only. Pixel coordinates pass through three systems:
pixels of the frame -> lens coordinates (origin at the image centre, unit half the image diagonal, distorted) ->
undistorted lens coordinates, in which straight lines are straight and the homography holds.

Sources: Hartley & Zisserman, Multiple View Geometry (2nd ed., 2004), §2.3 (homography), §8.8 (camera from a plane);
Brown, Decentering Distortion of Lenses (1966), for the radial model.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace

import numpy as np

from edge_agent.types import F64

MAX_M_PER_PIXEL = 5.0
"""Where one pixel is more metres than this (towards the horizon) a position is not known: NaN."""
_MAX_RADIUS = 10.0
_FOCAL_RANGE = (0.4, 8.0)
"""Plausible focal lengths in half diagonals: fields of view between 136° and 14° across the diagonal."""
_FOCAL_DEFAULT = 1.7
"""Where the points do not tell it (a camera that looks straight down): 61° across the diagonal."""


def undistort(points: F64, k1: float, k2: float) -> F64:
    """Distorted to undistorted lens coordinates, (N,2); NaN where the model folds back and has no inverse."""
    if k1 == 0 and k2 == 0:
        return points
    given = np.sqrt(np.einsum("ni,ni->n", points, points))
    radius = np.interp(given, *_radii(k1, k2), right=np.nan)
    # One Newton step from so near leaves no error; at the fold, where the slope is zero, it must not be a leap.
    square = radius * radius
    slope = np.maximum(1 + square * (3 * k1 + 5 * k2 * square), 1e-3)
    radius -= (radius * (1 + square * (k1 + k2 * square)) - given) / slope
    square = radius * radius
    undistorted: F64 = points / (1 + square * (k1 + k2 * square))[:, None]
    return undistorted


@functools.lru_cache(maxsize=64)
def _radii(k1: float, k2: float) -> tuple[F64, F64]:
    """Distorted radii in rising order up to the fold of the lens, or to where no picture reaches, and the undistorted ones."""
    # The fold is the smallest positive root of 1 + 3 k1 r² + 5 k2 r⁴, in the form of the formula that needs no division by k2.
    inside = 9 * k1 * k1 - 20 * k2
    inverse = (np.sqrt(inside) - 3 * k1) / 2 if inside >= 0 else 0.0
    # Denser towards the fold, where the inverse goes up like a root.
    radius = (1 - np.square(np.linspace(1, 0, 2049))) / np.sqrt(max(inverse, _MAX_RADIUS**-2))
    square = radius * radius
    return radius * (1 + square * (k1 + k2 * square)), radius


def distort(points: F64, k1: float, k2: float) -> F64:
    """Undistorted to distorted lens coordinates, (N,2); NaN beyond the radius where the model folds back."""
    square = np.einsum("ni,ni->n", points, points)
    gain = 1 + square * (k1 + k2 * square)
    gain[1 + square * (3 * k1 + 5 * k2 * square) <= 0] = np.nan
    distorted: F64 = points * gain[:, None]
    return distorted


def inverse2(matrices: F64) -> F64:
    """Inverses of (N,2,2) matrices; inf or NaN where singular. Several times faster than LAPACK for so small ones."""
    a, b, c, d = matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 1, 0], matrices[:, 1, 1]
    out = np.empty_like(matrices)
    out[:, 0, 0], out[:, 0, 1], out[:, 1, 0], out[:, 1, 1] = d, -b, -c, a
    out /= (a * d - b * c)[:, None, None]
    return out


@dataclass(frozen=True, eq=False)
class GroundPlane:
    """The calibrated floor of one camera; immutable, so any thread may use it.

    ``image_size`` is (width, height) of the frames it takes pixels of. ``to_plane`` (3,3) maps undistorted lens
    coordinates to metres, its third row positive below the horizon; ``up`` (3,) is one metre of height in homogeneous
    lens coordinates (see ``vertical``). ``errors_m`` are the reprojection errors of the points it was fitted to.
    """

    image_size: tuple[int, int]
    to_plane: F64
    from_plane: F64
    up: F64
    k1: float
    k2: float
    errors_m: F64
    scale: tuple[float, float] = (1.0, 1.0)
    """Pixels of the frame for each pixel of the picture that was calibrated."""
    _unit: F64 = field(init=False, repr=False)
    _centre: F64 = field(init=False, repr=False)
    _wild: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        width, height = (self.image_size[i] / self.scale[i] for i in (0, 1))
        object.__setattr__(self, "_unit", np.array(self.scale) * (np.hypot(width, height) / 2))
        object.__setattr__(self, "_centre", np.array(self.image_size) / 2)
        object.__setattr__(self, "_wild", (MAX_M_PER_PIXEL / min(self.scale)) ** 2)

    @property
    def rms_m(self) -> float:
        """Root mean square of ``errors_m``."""
        return float(np.sqrt(np.mean(np.square(self.errors_m))))

    def at(self, size: tuple[int, int]) -> GroundPlane:
        """The same floor for frames of another size (the same view, resized)."""
        width, height = (self.image_size[i] / self.scale[i] for i in (0, 1))
        return replace(self, image_size=size, scale=(size[0] / width, size[1] / height))

    def lens(self, pixels: F64) -> F64:
        """Frame pixels (N,2) to undistorted lens coordinates."""
        return undistort((pixels - self._centre) / self._unit, self.k1, self.k2)

    def pixels(self, points: F64) -> F64:
        """Undistorted lens coordinates (N,2) to frame pixels."""
        return distort(points, self.k1, self.k2) * self._unit + self._centre

    def pixels_down(self, steps: F64) -> F64:
        """Small steps (N,2) in lens coordinates as pixels down the frame (N,); the lens' distortion is neglected."""
        down: F64 = steps[:, 1] * self._unit[1]
        return down

    def to_ground(self, pixels: F64) -> F64:
        """(N,2) frame pixels to metres; NaN at and above the horizon."""
        return self.project(pixels)[0]

    def to_pixel(self, metres: F64) -> F64:
        """(N,2) metres to frame pixels; NaN for what is behind the camera."""
        return self.head_pixel(metres, np.zeros(len(metres)))

    def head_pixel(self, metres: F64, height_m: F64) -> F64:
        """Frame pixels of points ``height_m`` (N,) above the floor at ``metres`` (N,2)."""
        image = metres @ self.from_plane[:, :2].T + self.from_plane[:, 2] + height_m[:, None] * self.up
        depth = np.where(image[:, 2] > 0, image[:, 2], np.nan)
        return self.pixels(image[:, :2] / depth[:, None])

    def project(self, pixels: F64) -> tuple[F64, F64]:
        """(N,2) frame pixels to (N,2) metres and the (N,2,2) Jacobian, metres per pixel; NaN where it cannot be known."""
        return self.project_lens(self.lens(pixels))

    def project_lens(self, points: F64) -> tuple[F64, F64]:
        """As ``project``, from undistorted lens coordinates; the Jacobian is still by frame pixels."""
        image = points @ self.to_plane[:, :2].T + self.to_plane[:, 2]
        depth = np.where(image[:, 2] > 0, image[:, 2], np.nan)
        metres = image[:, :2] / depth[:, None]
        jacobian = (self.to_plane[:2, :2] - metres[:, :, None] * self.to_plane[2, :2]) / depth[:, None, None]
        if self.k1 or self.k2:
            jacobian = self._by_distorted(jacobian, points)
        jacobian /= self._unit
        wild = ~(np.einsum("nij,nij->n", jacobian, jacobian) < self._wild)
        if wild.any():
            metres[wild] = np.nan
            jacobian[wild] = np.nan
        return metres, jacobian

    def height(self, foot: F64, head: F64) -> F64:
        """Metres (N,) that a person is tall whose foot and head are at these undistorted lens coordinates (N,2).

        Uses the picture's vertical only. NaN above the horizon, where there is no foot point.
        """
        ground = foot @ self.to_plane[2, :2] + self.to_plane[2, 2]
        level = head[:, 1] * self.up[2] - self.up[1]
        level = np.where((ground > 0) & (level != 0), ground * level, np.nan)
        height: F64 = (foot[:, 1] - head[:, 1]) / level
        return height

    def foot_below(self, head: F64, height_m: F64) -> F64:
        """Undistorted lens coordinates (N,2) of the floor under heads seen at ``head`` (N,2), ``height_m`` (N,) above it.

        The head is cut with the plane at that height; NaN where the head is above that plane's horizon.
        """
        ray = head @ self.to_plane[2, :2] + self.to_plane[2, 2]
        # As ``from_plane`` is the inverse of ``to_plane``, the floor under the head is seen at share·(head, 1) - height·up.
        share = (1 + height_m * (self.to_plane[2] @ self.up)) / np.where(ray > 0, ray, np.nan)
        depth = share - height_m * self.up[2]
        image = share[:, None] * head - height_m[:, None] * self.up[:2]
        foot: F64 = image / np.where((depth > 0) & (share > 0), depth, np.nan)[:, None]
        return foot

    def _by_distorted(self, jacobian: F64, points: F64) -> F64:
        """(N,2,2) derivatives by undistorted lens coordinates as those by distorted ones.

        The lens' own derivative at ``points`` (N,2) is gain·I + bend·p·pᵀ, inverted by Sherman and Morrison's formula.
        """
        square = np.einsum("ni,ni->n", points, points)
        gain = 1 + square * (self.k1 + self.k2 * square)
        slope = 1 + square * (3 * self.k1 + 5 * self.k2 * square)
        share = ((2 * self.k1 + 4 * self.k2 * square) / slope)[:, None] * points
        by_distorted: F64 = (jacobian - (jacobian @ points[:, :, None]) * share[:, None, :]) / gain[:, None, None]
        return by_distorted


def vertical(from_plane: F64) -> tuple[F64, F64]:
    """Scale ``from_plane`` (metres to lens coordinates, (3,3)) and find what one metre of height adds to it.

    With square pixels and the principal point at the image centre, the columns of K⁻¹·H are two orthogonal axes of the
    floor of equal length and the camera's place (Zhang 2000, §3.1); that gives the focal length by least squares, and
    the cross product of the axes is the vertical. Returns the scaled homography, positive in front of the camera
    and with axes of length one, and ``up`` (3,): a point h metres above (x, y) is seen at H·(x, y, 1) + h·up.
    """
    x, y = from_plane[:, 0], from_plane[:, 1]
    flat = np.array([x[0] * y[0] + x[1] * y[1], x[0] ** 2 + x[1] ** 2 - y[0] ** 2 - y[1] ** 2])
    deep = np.array([x[2] * y[2], x[2] ** 2 - y[2] ** 2])
    # flat / f² + deep = 0 for both equations
    square = -(flat @ flat) / (flat @ deep) if flat @ deep < 0 else np.inf
    focal = float(np.sqrt(square))
    if not _FOCAL_RANGE[0] <= focal <= _FOCAL_RANGE[1]:
        focal = _FOCAL_DEFAULT
    camera = np.array([1 / focal, 1 / focal, 1.0])
    axes = from_plane * camera[:, None]
    length = float(np.sqrt(np.linalg.norm(axes[:, 0]) * np.linalg.norm(axes[:, 1])))
    axes = axes / length
    up = np.cross(axes[:, 0], axes[:, 1])
    up /= np.linalg.norm(up)
    # The camera is above the floor: with its place -[x y up]⁻¹·t, the height above the floor must be positive.
    if -np.linalg.solve(np.column_stack([axes[:, :2], up]), axes[:, 2])[2] < 0:
        up = -up
    return from_plane / length, up / camera
