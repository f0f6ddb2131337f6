"""A clock for the age of stored rows that a wrong wall clock cannot fool."""

from __future__ import annotations

import time
from collections.abc import Callable


class AgeClock:
    """Seconds that never go back and take no notice of the wall clock's jumps while the process runs.

    Over a restart it advances by the wall clock, but only where that was trusted (``clock_ok``) both when the mark was
    stored and now: a box without a battery-backed clock that wakes up in 1970, then learns the date, must not find all
    its messages fifty years old. Not thread-safe for ``resume``; ``now`` may be called from anywhere.
    """

    def __init__(
        self,
        clock_ok: Callable[[], bool],
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock_ok, self._wall, self._monotonic = clock_ok, wall, monotonic
        self._base = 0.0
        self._start = monotonic()
        self._stored_wall: float | None = None

    def resume(self, age: float, wall: float | None) -> None:
        """Go on from a stored mark. ``wall`` None: the time since then is not known and counts as none."""
        self._base, self._start, self._stored_wall = age, self._monotonic(), wall

    def now(self) -> float:
        """Seconds since the store was first made, as far as they could be known. From any thread."""
        return self._base + self._monotonic() - self._start

    def settle(self) -> None:
        """Once the wall clock can be trusted: count the time between the stored mark and ``resume``. One thread."""
        stored = self._stored_wall
        if stored is not None and self._clock_ok():
            self._stored_wall = None
            self._base += max(0.0, self._wall() - stored - (self._monotonic() - self._start))

    def mark(self) -> tuple[float, float | None]:
        """What to store: (age clock, wall clock or None where it is not to be trusted)."""
        return self.now(), self._wall() if self._clock_ok() else self._stored_wall
