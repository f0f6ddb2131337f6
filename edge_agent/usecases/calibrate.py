"""Fits the ground plane to measured points and refuses points that cannot carry one.

The homography comes from the normalised direct linear transform (Hartley & Zisserman 2004, algorithm 4.2), then
Levenberg-Marquardt minimises the error in metres on the floor, as metres are what is judged later. The radial
coefficient k1 is fitted together with it only where leaving points out shows that it predicts them better.
"""

from __future__ import annotations

import logging

import numpy as np

from edge_agent.config import GroundConfig
from edge_agent.errors import ConfigError
from edge_agent.types import F64
from edge_agent.usecases.geometry import GroundPlane, undistort, vertical

log = logging.getLogger(__name__)

MIN_THICKNESS = 0.01
"""Points are on a line where they spread across it by less than this part of their spread along it."""
SAME_PIXELS = 0.5
"""Points nearer than this in the picture are one."""
MIN_POINTS_FOR_LENS = 7
"""Nine unknowns, and every point left out must still be predicted by a solution that is overdetermined."""
LENS_GAIN = 0.75
"""k1 is used where it brings the left-out error below this part of the error without it ..."""
LENS_MIN_GAIN_M = 0.001
"""... and by at least this much: below, nobody measured so well."""
MAX_K1 = 0.5
_FOLDS = 10


def fit_ground(config: GroundConfig, where: str = "ground") -> GroundPlane:
    """The ground plane of the points. ``where`` is the key path that messages name.

    Raises ConfigError for points that are degenerate (on a line, repeated, not one view of one floor) or disagree by
    more than ``max_error_m`` (RMS); then the message lists the reprojection error of every point in metres.
    """
    pixels = np.array([point.pixel for point in config.points], np.float64)
    metres = np.array([point.ground_m for point in config.points], np.float64)
    _refuse_degenerate(pixels, metres, where)
    size = np.array(config.image_size, np.float64)
    lens = (pixels - size / 2) / (np.hypot(*size) / 2)
    k1, k2 = _lens(config, lens, metres)
    points = undistort(lens, k1, k2)
    if (lost := np.flatnonzero(np.isnan(points[:, 0]))).size:
        text = f"point {lost[0] + 1} lies beyond the radius to which k1 = {k1:g}, k2 = {k2:g} describe a lens"
        raise ConfigError([f"{where}.lens: {text}"])
    to_plane = _refine(points, metres, _dlt(points, metres))
    weights = points @ to_plane[2, :2] + to_plane[2, 2]
    if not (np.all(weights > 0) or np.all(weights < 0)):
        raise ConfigError(
            [
                f"{where}.points: no camera sees one floor like this, the horizon runs between the points; are two swapped?"
            ]
        )
    to_plane = to_plane if weights[0] > 0 else -to_plane
    errors = _errors(to_plane, points, metres)
    if not np.sqrt(np.mean(errors**2)) <= config.max_error_m:
        raise ConfigError([_disagreement(config, errors, points, metres, where)])
    start: F64 = np.asarray(np.linalg.inv(to_plane), np.float64)
    from_plane, up = vertical(start)
    inverse: F64 = np.asarray(np.linalg.inv(from_plane), np.float64)
    return GroundPlane(config.image_size, inverse, from_plane, up, k1, k2, errors)


def table(config: GroundConfig, errors: F64) -> str:
    """One line for each point: pixel, metres, reprojection error in metres."""
    return "\n".join(
        f"  point {number}: pixel [{point.pixel[0]:g}, {point.pixel[1]:g}], metres [{point.ground_m[0]:g}, "
        f"{point.ground_m[1]:g}]: off by {error:.3f} m"
        for number, (point, error) in enumerate(zip(config.points, errors, strict=True), 1)
    )


def _refuse_degenerate(pixels: F64, metres: F64, where: str) -> None:
    apart = np.hypot(*(pixels[:, None] - pixels).transpose(2, 0, 1))
    same = np.argwhere(np.triu(apart < SAME_PIXELS, 1))
    problems = [
        f"{where}.points: points {i + 1} and {j + 1} are at the same pixel [{pixels[i, 0]:g}, {pixels[i, 1]:g}]; leave one out"
        for i, j in same[:5]
    ]
    if not problems:
        problems = [
            f"{where}.points: {_flat_words(len(pixels))} {space}, so they do not span the floor; add points off that line"
            for space, points in (("in the picture", pixels), ("on the floor", metres))
            if _flat(points)
        ]
    if problems:
        raise ConfigError(problems)


def _flat_words(count: int) -> str:
    return "three of the four points are on one line" if count == 4 else "all points but one at most are on one line"


def _flat(points: F64) -> bool:
    """Whether all points but one lie on a line: then no four of them are in general position (H&Z §4.1.3)."""
    n = len(points)
    centred = points - points.mean(axis=0)
    total = centred.T @ centred
    # Scatter of the others about their own mean, for every point left out.
    others = total - n / (n - 1) * centred[:, :, None] * centred[:, None, :]
    spread = np.sqrt(np.maximum(np.linalg.eigvalsh(others), 0))
    return bool(np.any(spread[:, 0] <= MIN_THICKNESS * spread[:, 1]))


def _normaliser(points: F64) -> F64:
    centre = points.mean(axis=0)
    scale = np.sqrt(2) / np.mean(np.hypot(*(points - centre).T))
    return np.array([[scale, 0, -scale * centre[0]], [0, scale, -scale * centre[1]], [0, 0, 1]])


def _dlt(points: F64, metres: F64) -> F64:
    before, after = _normaliser(points), _normaliser(metres)
    n = len(points)
    p = np.column_stack([points, np.ones(n)]) @ before.T
    q = metres @ after[:2, :2].T + after[:2, 2]
    rows = np.zeros((2 * n, 9))
    rows[:n, :3], rows[:n, 6:] = p, -q[:, :1] * p
    rows[n:, 3:6], rows[n:, 6:] = p, -q[:, 1:] * p
    solution = np.linalg.svd(rows)[2][-1].reshape(3, 3)
    matrix: F64 = np.linalg.inv(after) @ solution @ before
    return matrix / np.linalg.norm(matrix)


def _apply(matrix: F64, points: F64) -> F64:
    image = points @ matrix[:, :2].T + matrix[:, 2]
    with np.errstate(invalid="ignore", divide="ignore"):
        metres: F64 = image[:, :2] / image[:, 2:]
    return metres


def _errors(matrix: F64, points: F64, metres: F64) -> F64:
    errors: F64 = np.hypot(*(_apply(matrix, points) - metres).T)
    return errors


def _refine(points: F64, metres: F64, start: F64) -> F64:
    return _fit(points, metres, start, with_lens=False)[0]


def _fit(lens: F64, metres: F64, start: F64, *, with_lens: bool) -> tuple[F64, float]:
    """Levenberg-Marquardt on the homography (and k1), error in metres. Returns both."""
    # Conditioned as in the direct transform; the floor only shifted and scaled evenly, so that metres stay comparable.
    before, after = _normaliser(lens), _normaliser(metres)
    goal = metres @ after[:2, :2].T + after[:2, 2]
    matrix = after @ start @ np.linalg.inv(before)
    matrix /= np.linalg.norm(matrix)

    def residuals(h: F64, k1: float) -> F64:
        points = undistort(lens, k1, 0.0) if with_lens else lens
        return (_apply(h @ before, points) - goal).ravel()

    k1, damping = 0.0, 1e-3
    now = residuals(matrix, k1)
    for _ in range(60):
        # Eight directions across the homography's free scale, and the lens.
        basis = np.linalg.svd(matrix.reshape(1, 9))[2][1:].reshape(8, 3, 3)
        columns = [(residuals(matrix + 1e-6 * way, k1) - now) / 1e-6 for way in basis]
        if with_lens:
            columns.append((residuals(matrix, k1 + 1e-6) - now) / 1e-6)
        slope = np.column_stack(columns)
        if not np.isfinite(slope).all():
            break
        normal = slope.T @ slope
        while damping < 1e9:
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-12), -slope.T @ now)
            trial = matrix + np.tensordot(step[:8], basis, 1)
            trial /= np.linalg.norm(trial)
            trial_k1 = float(np.clip(k1 + step[8], -MAX_K1, MAX_K1)) if with_lens else 0.0
            then = residuals(trial, trial_k1)
            if then @ then <= now @ now:
                break
            damping *= 10
        else:
            break
        gain = now @ now - then @ then
        matrix, k1, now, damping = trial, trial_k1, then, max(damping / 10, 1e-12)
        if gain <= 1e-12 * (now @ now) or now @ now < 1e-24:
            break
    matrix = np.linalg.inv(after) @ matrix @ before
    return matrix / np.linalg.norm(matrix), k1


def _lens(config: GroundConfig, lens: F64, metres: F64) -> tuple[float, float]:
    if config.lens != "auto":
        return config.lens.k1, config.lens.k2
    if len(lens) < MIN_POINTS_FOR_LENS:
        return 0.0, 0.0
    plain, bent = (_left_out(lens, metres, with_lens=with_lens) for with_lens in (False, True))
    if not (bent < LENS_GAIN * plain and plain - bent > LENS_MIN_GAIN_M):
        return 0.0, 0.0
    k1 = _fit(lens, metres, _dlt(lens, metres), with_lens=True)[1]
    if abs(k1) >= MAX_K1 or np.isnan(undistort(lens, k1, 0.0)).any():
        return 0.0, 0.0
    log.info(
        "lens distortion k1 = %.4f from the points (error of a point left out: %.3f m, without: %.3f m)",
        k1,
        bent,
        plain,
    )
    return k1, 0.0


def _left_out(lens: F64, metres: F64, *, with_lens: bool) -> float:
    """RMS error in metres of points that the fit has not seen (cross validation, at most ten folds)."""
    folds = np.arange(len(lens)) % _FOLDS
    start = _dlt(lens, metres)
    squares = []
    for fold in range(min(_FOLDS, len(lens))):
        rest = folds != fold
        if _flat(lens[rest]):
            continue
        matrix, k1 = _fit(lens[rest], metres[rest], start, with_lens=with_lens)
        squares.append(_errors(matrix, undistort(lens[~rest], k1, 0.0), metres[~rest]) ** 2)
    return float(np.sqrt(np.mean(np.concatenate(squares)))) if squares else np.inf


def _disagreement(config: GroundConfig, errors: F64, points: F64, metres: F64, where: str) -> str:
    rms = np.sqrt(np.mean(errors**2))
    lines = [
        f"{where}.points: they disagree by {rms:.3f} m (RMS), at most max_error_m = {config.max_error_m:g} is allowed:",
        table(config, errors),
    ]
    without = []
    for i in range(len(points) if 5 <= len(points) <= 50 else 0):
        rest = np.arange(len(points)) != i
        if not _flat(points[rest]) and not _flat(metres[rest]):
            matrix = _refine(points[rest], metres[rest], _dlt(points[rest], metres[rest]))
            without.append((float(np.sqrt(np.mean(_errors(matrix, points[rest], metres[rest]) ** 2))), i))
    if without and min(without)[0] < 0.3 * rms and len(points) > 5:
        best, i = min(without)
        lines.append(f"  without point {i + 1} the others agree to {best:.3f} m: look at that one first")
    return "\n".join(lines)
