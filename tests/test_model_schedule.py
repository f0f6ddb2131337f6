"""When a box asks for updates by itself."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edge_agent.config_ota import OtaConfig
from edge_agent.model_schedule import DAY, Schedule


class Clock:
    """Minutes since a midnight."""

    def __init__(self) -> None:
        self.minutes = 12 * 60.0

    def schedule(self, seed: int = 0, **config: object) -> Schedule:
        return Schedule(
            OtaConfig.model_validate(config),
            chance=random.Random(seed),
            clock=lambda: 60 * self.minutes,
            minute=lambda: self.minutes % DAY,
        )

    def asked(self, schedule: Schedule, days: int) -> list[float]:
        """The minutes at which it was due."""
        times = []
        for _ in range(days * DAY):
            if schedule.due():
                times.append(self.minutes)
            self.minutes += 1
        return times


def test_without_an_interval_it_never_asks_and_what_comes_by_command_may_always_take_over() -> None:
    clock = Clock()
    schedule = clock.schedule()
    assert clock.asked(schedule, 2) == [] and schedule.open


def test_it_asks_at_its_interval_and_boxes_do_not_ask_together() -> None:
    firsts = []
    for seed in range(20):
        clock = Clock()
        times = clock.asked(clock.schedule(seed, poll_hours=6), 3)
        assert 11 <= len(times) <= 14
        assert all(5.3 * 60 <= b - a <= 6.7 * 60 for a, b in itertools.pairwise(times))
        firsts.append(times[0])
    assert max(firsts) - min(firsts) > 3 * 60


@given(st.integers(0, 10_000), st.sampled_from(["02:00-04:00", "23:30-01:00"]))
def test_it_asks_in_its_window_only_also_over_midnight(seed: int, window: str) -> None:
    clock = Clock()
    schedule = clock.schedule(seed, poll_hours=12, window=window)
    times = clock.asked(schedule, 4)
    begin, length = (120, 120) if window[0] == "0" else (23 * 60 + 30, 90)
    assert len(times) >= 3
    assert all((at - begin) % DAY <= length / 2 + 1 for at in times), "with time left to take over"


def test_boxes_with_a_window_do_not_ask_at_its_first_minute() -> None:
    firsts = set()
    for seed in range(20):
        clock = Clock()
        firsts.add(clock.asked(clock.schedule(seed, poll_hours=1, window="02:00-04:00"), 1)[0])
    assert len(firsts) > 10


@pytest.mark.parametrize("window", ["2-4", "02:00", "25:00-26:00", "02:00-02:00", "02:00 - 04:00"])
def test_a_window_that_is_none_is_refused(window: str) -> None:
    with pytest.raises(ValidationError, match="HH:MM-HH:MM"):
        OtaConfig(window=window)
