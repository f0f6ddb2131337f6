"""The ``samples`` section."""

from __future__ import annotations

from pydantic import Field

from edge_agent.config_base import Strict


class SamplesConfig(Strict):
    """Pictures kept for training: those that the model finds hard. Nothing is kept unless ``privacy.images`` is true too."""

    enabled: bool = Field(False, description="whether to keep any")
    per_day: int = Field(100, ge=1, le=20_000, description="so many a day (UTC), of all cameras together")
    max_mb: float = Field(200.0, gt=0, le=1_000_000, description="megabytes on disk; when full the oldest goes first")
