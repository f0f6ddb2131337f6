"""The ``calibrate`` verb: points as a person types them, fitted, judged, and written out as configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from edge_agent.config import CameraConfig, Config, GroundConfig
from edge_agent.errors import UsageError
from edge_agent.usecases.calibrate import fit_ground, table

_NUMBER = r"\s*([-+]?\d+(?:\.\d*)?)\s*"
_POINT = re.compile(f"{_NUMBER},{_NUMBER}={_NUMBER},{_NUMBER}")
MAX_POINTS = 1000


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted ground plane: for people (``table``), for ``config.yaml`` (``yaml``), for programs (``facts``)."""

    table: str
    yaml: str
    facts: dict[str, Any]


def calibrate(config: Config, camera_id: str | None, points: str | None, image_size: str | None) -> Calibration:
    """Fit the points given, or those of the configuration. Raises UsageError, and ConfigError for points that cannot be."""
    camera = _camera(config, camera_id)
    ground = _ground(camera, points, image_size)
    plane = fit_ground(ground, "--points" if points else f"cameras.{camera.id}.ground")
    errors = plane.errors_m.tolist()
    facts = {
        "camera": camera.id,
        "rms_m": round(plane.rms_m, 4),
        "k1": round(plane.k1, 5),
        "points": [
            {"pixel": list(p.pixel), "ground_m": list(p.ground_m), "error_m": round(error, 4)}
            for p, error in zip(ground.points, errors, strict=True)
        ],
    }
    return Calibration(table(ground, plane.errors_m), _yaml(ground), facts)


def _camera(config: Config, ident: str | None) -> CameraConfig:
    if ident is None:
        return config.cameras[0]
    for camera in config.cameras:
        if camera.id == ident:
            return camera
    raise UsageError(f"--camera {ident}: there is no such camera; there are: {', '.join(c.id for c in config.cameras)}")


def _ground(camera: CameraConfig, points: str | None, image_size: str | None) -> GroundConfig:
    known = camera.ground
    if points is None:
        if known is None:
            raise UsageError(f'camera {camera.id} has no ground points; give some: --points "u,v=x,y; u,v=x,y; …"')
        return known
    size = _size(image_size) if image_size else known.image_size if known else None
    if size is None:
        raise UsageError(
            f"camera {camera.id} has no ground plane yet: say in what picture the pixels were measured: --image-size 1920x1080"
        )
    lens = known.lens if known else "auto"
    try:
        return GroundConfig.model_validate({"image_size": size, "points": _points(points), "lens": lens})
    except ValidationError as error:
        raise UsageError(f"--points: {error.errors()[0]['msg']}") from None


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text.strip())
    if not found:
        raise UsageError(f"--image-size {text}: give WIDTHxHEIGHT in pixels, for example 1920x1080")
    return int(found[1]), int(found[2])


def _points(text: str) -> list[dict[str, tuple[float, float]]]:
    parts = [part for part in text.split(";") if part.strip()]
    if len(parts) > MAX_POINTS:
        raise UsageError(f"--points: {len(parts)} points; at most {MAX_POINTS}")
    points = []
    for number, part in enumerate(parts, 1):
        found = _POINT.fullmatch(part)
        if not found:
            raise UsageError(
                f'--points: point {number} is {part.strip()!r}; each is "u,v=x,y": pixels = metres, separated by ";"'
            )
        u, v, x, y = map(float, found.groups())
        points.append({"pixel": (u, v), "ground_m": (x, y)})
    if len(points) < 4:
        raise UsageError(f"--points: {len(points)} points; at least 4 are needed, spread over the floor")
    return points


def _yaml(ground: GroundConfig) -> str:
    lines = ["    ground:", f"      image_size: [{ground.image_size[0]}, {ground.image_size[1]}]", "      points:"]
    for point in ground.points:
        (u, v), (x, y) = point.pixel, point.ground_m
        lines.append(f"        - {{pixel: [{u:g}, {v:g}], ground_m: [{x:g}, {y:g}]}}")
    return "\n".join(lines)
