"""When a box looks for an update by itself, and when what it finds may take over."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from edge_agent.config_ota import OtaConfig, minutes_of_window

DAY = 24 * 60


class Schedule:
    """Spread by chance, so that a thousand boxes that were started together do not ask together. One thread.

    ``clock`` is monotonic seconds, ``minute`` the minute of the day by the local time of the box.
    """

    def __init__(
        self,
        config: OtaConfig,
        *,
        chance: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        minute: Callable[[], float] = lambda: _minute(time.localtime()),
    ) -> None:
        self._window = None if config.window is None else minutes_of_window(config.window)
        self._interval_s = None if config.poll_hours is None else 3600 * config.poll_hours
        self._chance = chance or random.Random()
        self._clock, self._minute = clock, minute
        self._next = self._offset = 0.0
        if self._interval_s is not None:
            self._plan(self._chance.uniform(0.0, self._interval_s))

    @property
    def open(self) -> bool:
        """Whether an update may take over by itself now."""
        return self._into_window() is not None

    def due(self) -> bool:
        """Whether to ask the repository now; the next time is planned then."""
        if self._interval_s is None or self._clock() < self._next:
            return False
        into = self._into_window()
        if into is None or into < self._offset:
            return False
        self._plan(self._interval_s * self._chance.uniform(0.9, 1.1))
        return True

    def _plan(self, seconds: float) -> None:
        self._next = self._clock() + seconds
        if self._window is not None:  # not all at its first minute
            self._offset = self._chance.uniform(0.0, _length(self._window) / 2)

    def _into_window(self) -> float | None:
        """Minutes since it opened, None while it is closed."""
        if self._window is None:
            return 0.0
        into = (self._minute() - self._window[0]) % DAY
        return into if into < _length(self._window) else None


def _length(window: tuple[int, int]) -> int:
    """Minutes; a window may go over midnight."""
    return (window[1] - window[0]) % DAY


def _minute(now: time.struct_time) -> float:
    return 60 * now.tm_hour + now.tm_min + now.tm_sec / 60
