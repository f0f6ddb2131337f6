"""What a classifier is shown: the part of a manifest that says it, and the geometry behind its numbers."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints


class CropSpec(BaseModel):
    """What a classifier is shown of a found object: a square that follows from the object's box.

    With ``root = sqrt(width * height)`` of the box in source pixels: its side is ``side * root``, its middle is the box's from left to
    right, its upper edge lies ``above * root`` above the box's. What lies outside the frame is left out, then ``input.fit`` applies.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    label: Annotated[str, StringConstraints(min_length=1, max_length=64)] = Field(
        description="the detector's label of objects that have what is to be judged"
    )
    side: Annotated[float, Field(gt=0, le=4)]
    above: Annotated[float, Field(ge=-4, le=4)] = 0.0

    def square(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """The square for a box, both xyxy in source pixels; it may reach beyond the frame."""
        x1, y1, x2, y2 = box
        root = math.sqrt(max(x2 - x1, 0.0) * max(y2 - y1, 0.0))
        left, top = (x1 + x2 - self.side * root) / 2, y1 - self.above * root
        return left, top, left + self.side * root, top + self.side * root
