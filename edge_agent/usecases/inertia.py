"""Slow to change one's mind: a state that follows a flickering observation with inertia and hysteresis.

A level rises from 0 to 1 while the observation is true and falls while it is false; between a true and a false frame
it stays. The state turns on when the level is full and off when it is empty; so a single frame changes nothing, and
what is true in two frames of three goes on.
"""

from __future__ import annotations


class Inertia:
    """On after ``on_s`` of true, off after ``off_s`` of false, seconds. Unseen changes nothing. Not thread-safe."""

    def __init__(self, on_s: float, off_s: float) -> None:
        self._on_s, self._off_s = max(on_s, 1e-9), max(off_s, 1e-9)
        self._level = 0.0
        self._last: tuple[float, bool] | None = None
        self.on = False
        self.since: float | None = None
        """When it was first true, since the level was last empty; None while it is false and the level empty."""

    def update(self, seen: bool | None, t: float) -> bool:
        """Go on to ``t`` with what is seen there, None for nothing; whether the state changed now."""
        if seen is None:
            self._last = None if self._last is None else (t, self._last[1])
            return False
        dt, before = (t - self._last[0], self._last[1]) if self._last is not None else (0.0, seen)
        self._last = t, seen
        if seen == before:
            self._level += dt / self._on_s if seen else -dt / self._off_s
            self._level = min(max(self._level, 0.0), 1.0)
        empty = self._level <= 1e-9
        if seen:
            self.since = t if self.since is None else self.since
        elif empty:
            self.since = None
        was = self.on
        self.on = not empty if was else self._level >= 1 - 1e-9
        return self.on != was
