"""What the command line says about one run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line says about one run, over the configuration."""

    source: str | None = None
    model: str | None = None
    realtime: bool = False
    max_frames: int | None = None
    record: Path | None = None
    mqtt: bool = True
    loop: bool = False
    file: Path | None = None
    """Where the configuration is from."""
