"""The ``codes`` section: QR codes and markers that cameras read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints

from edge_agent.config_base import Slug, Strict

Markers: TypeAlias = Literal[
    "aruco_4x4_50", "aruco_5x5_100", "aruco_6x6_250", "apriltag_16h5", "apriltag_25h9", "apriltag_36h11"
]
CODE_NAME = r"(marker-[0-9]{1,4}|qr-[0-9a-f]{16}|token-[0-9a-f]{16})"
CodeName = Annotated[str, StringConstraints(pattern=f"^{CODE_NAME}$")]
"""A code as it is told: never by its text."""
CodeAsked = Annotated[
    str, StringConstraints(pattern=r"^(any|token(:[a-z0-9][a-z0-9_-]{0,30})?|[A-Za-z0-9][A-Za-z0-9._-]{0,62})$")
]
"""What a condition may ask for; see ``usecases/codes_shown.py``."""


class CodesConfig(Strict):
    """Codes that people, things and places show to a camera. What is named and left empty reads QR codes."""

    enabled: bool = Field(True, description="whether to read them")
    cameras: list[Slug] | None = Field(None, min_length=1, description="default: all")
    zone: Slug | None = Field(
        None, description="only within the rectangle around this zone: much cheaper; default: the whole picture"
    )
    qr: bool = Field(True, description="whether to read QR codes")
    markers: Markers | None = Field(None, description="markers to read, of this dictionary; default: none")
    every_s: float = Field(0.5, ge=0.05, le=60, description="time between two pictures that are looked through")
    max_share: float = Field(
        0.25,
        gt=0,
        le=1,
        description="of one core's time, for live cameras together; every_s grows where it is not enough",
    )
    names: dict[Slug, Annotated[list[CodeName], Field(min_length=1, max_length=1000)]] = Field(
        default_factory=dict, max_length=200, description="groups of codes, to be asked for in conditions"
    )
    events: bool = Field(False, description="whether to tell each code that comes into view, by its name")
    hash_key_file: Path | None = Field(
        None,
        description="file whose first line makes the names of QR codes, the same on boxes that share it; default: this box's own",
    )
    key_files: list[Path] = Field(
        default_factory=list,
        max_length=4,
        description="files, each with a key that tokens are signed with in its first line; the first signs, all are believed",
    )
    clock: Literal["synchronised", "battery"] = Field(
        "synchronised", description="when the clock is believed: set by the network now, or set by somebody once"
    )
