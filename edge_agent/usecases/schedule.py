"""Time windows: hours of the day, also over midnight, and days of the week, by the clock on the wall."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, tzinfo
from typing import get_args

from edge_agent.config_sop import Day

DAYS: tuple[Day, ...] = get_args(Day)


class Schedule:
    """``hours`` as ``HH:MM-HH:MM`` (None: all day; equal: all day) on ``days`` (None: all).

    A window over midnight belongs to the day it begins on. ``zone`` None is the box's own time zone.
    """

    def __init__(self, hours: str | None, days: Sequence[Day] | None = None, zone: tzinfo | None = None) -> None:
        first, _, last = (hours or "00:00-00:00").partition("-")
        self._first, self._last = _minutes(first), _minutes(last)
        self._days = {DAYS.index(day) for day in days} if days is not None else set(range(7))
        self._zone = zone

    def __contains__(self, utc: float) -> bool:
        """Whether the POSIX time ``utc`` lies in the window."""
        now = datetime.fromtimestamp(utc, self._zone)
        minute, day = now.hour * 60 + now.minute, now.weekday()
        if self._first < self._last:
            return self._first <= minute < self._last and day in self._days
        return day in self._days if minute >= self._first else minute < self._last and (day - 1) % 7 in self._days


def _minutes(text: str) -> int:
    hours, _, minutes = text.partition(":")
    return int(hours) * 60 + int(minutes)
