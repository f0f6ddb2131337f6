"""What has expired is told by a clock, and a box without a battery wakes up in the past: then it must not be asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from edge_agent.durable import write_file
from edge_agent.errors import ClockUnsynchronised, UpdateError

WRITTEN = datetime(2026, 1, 1, tzinfo=timezone.utc).timestamp()
"""This was written later: no clock that is right says less."""
STEP_S = 3600.0
"""The floor is written at most so often: flash wears out."""


class TrustedTime:
    """``reliable`` says whether the clock is kept right now (by the network, or by a battery where that is configured).

    The latest time that was ever known for certain is kept in ``path``: a clock that says less is wrong.
    """

    def __init__(self, path: Path, reliable: Callable[[], bool], wall: Callable[[], float] = time.time) -> None:
        self._path, self._reliable, self._wall = path, reliable, wall

    @property
    def floor(self) -> float:
        """It is later than this, POSIX seconds."""
        try:
            return max(WRITTEN, float(self._path.read_text("ascii")[:20]))
        except (OSError, ValueError):
            return WRITTEN

    def check(self) -> None:
        """Raises ClockUnsynchronised where the clock cannot be relied on; else keeps the time as the new floor (UpdateError)."""
        now, floor = self._wall(), self.floor
        if now < floor:
            raise ClockUnsynchronised(
                f"the clock says {_day(now)}, but it was {_day(floor)} already. Set it; if it was wrong at that time, remove {self._path}"
            )
        if not self._reliable():
            raise ClockUnsynchronised(
                "the clock is not synchronised, so what has expired cannot be told; wait for the network's time, or, where "
                "there is no network and a battery clock was set by hand, say `ota: {clock: battery}`"
            )
        if now - floor >= STEP_S or floor == WRITTEN:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_file(self._path, f"{int(now)}\n".encode("ascii"))
            except OSError as error:
                raise UpdateError(f"{self._path}: {error.strerror}") from error


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M")
