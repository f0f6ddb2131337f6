"""What classifiers said, as a record holds it: ``{"box":[x1,y1,x2,y2],"scores":{label: score}}`` in a frame's ``attributes``."""

from __future__ import annotations

import math
from typing import Any

from edge_agent.types import Look

_MAX_LABELS = 1000
_MAX_PIXEL = 1e6


def look_written(look: Look) -> dict[str, Any]:
    """One look."""
    return {
        "box": [round(value, 2) for value in look.box],
        "scores": {label: round(score, 4) for label, score in look.scores.items()},
    }


def look_read(said: dict[str, Any]) -> Look:
    """One look. Raises ValueError, KeyError, TypeError or AttributeError for what is none."""
    x1, y1, x2, y2 = (float(value) for value in said["box"])
    scores = {str(label): float(score) for label, score in said["scores"].items()}
    if len(scores) > _MAX_LABELS or not all(0 <= score <= 1 for score in scores.values()):
        raise ValueError("scores are none")
    if not all(math.isfinite(value) and abs(value) <= _MAX_PIXEL for value in (x1, y1, x2, y2)):
        raise ValueError("a box is none")
    return Look((x1, y1, x2, y2), scores)
