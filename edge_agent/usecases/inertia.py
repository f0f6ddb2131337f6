"""Slow to change one's mind: a state that follows a flickering observation with inertia and hysteresis.

A level rises from 0 to 1 while the observation is true and falls while it is false. The state turns on when the level
is full and off when it is empty; so a single frame changes nothing, and what is true in two frames of three goes on.
"""

from __future__ import annotations


class Inertia:
    """On after ``on_s`` of true, off after ``off_s`` of false, seconds. Unseen changes nothing. Not thread-safe."""

    def __init__(self, on_s: float, off_s: float) -> None:
        self._on_s, self._off_s = on_s, off_s
        self._level = 0.0
        self._t: float | None = None
        self.on = False
        self.since: float | None = None
        """When what the state is on for began: the first true after the level was last empty. None while that is empty."""

    def update(self, seen: bool | None, t: float) -> bool:
        """Go on to ``t`` with what is seen there, None for nothing; whether the state changed now."""
        dt, self._t = (0.0 if self._t is None else max(t - self._t, 0.0)), t
        if seen is None:
            return False
        if seen:
            if self.since is None:
                dt, self.since = 0.0, t  # it was not yet true in the time before
            self._level = min(self._level + dt / self._on_s, 1.0) if self._on_s else 1.0
        else:
            self._level = max(self._level - dt / self._off_s, 0.0) if self._off_s else 0.0
        if self._level <= 1e-9 and not seen:
            self._level, self.since = 0.0, None
        was = self.on
        self.on = self._level > 1e-9 if was else self._level >= 1 - 1e-9
        return self.on != was
