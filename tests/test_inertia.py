"""What changes its mind slowly: inertia, and windows of time."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.usecases.inertia import Inertia
from edge_agent.usecases.schedule import DAYS, Schedule


@pytest.mark.parametrize("fps", [2, 15, 60])
def test_on_and_off_after_their_times_at_any_rate(fps: int) -> None:
    state = Inertia(on_s=1.0, off_s=2.0)
    changes = [k / fps for k in range(10 * fps) if state.update(3 <= k / fps < 6, k / fps)]
    assert changes == [pytest.approx(4.0), pytest.approx(8.0)]


@given(fps=st.sampled_from([2, 5, 25]), times=st.integers(1, 20))
def test_a_single_frame_changes_nothing(fps: int, times: int) -> None:
    state = Inertia(on_s=0.6, off_s=0.6)
    seen = [False, False, True] * times
    assert not any(state.update(value, k / fps) for k, value in enumerate(seen))
    assert state.since is None or not seen[-2]


@given(pattern=st.lists(st.booleans(), min_size=3, max_size=3).filter(lambda three: sum(three) == 2))
def test_two_frames_of_three_turn_it_on_and_keep_it_on(pattern: list[bool]) -> None:
    state = Inertia(on_s=0.5, off_s=0.5)
    for k in range(90):
        state.update(pattern[k % 3], k / 15)
    assert state.on
    assert not any(state.update(pattern[k % 3], k / 15) for k in range(90, 180))


def test_unseen_changes_nothing_however_long() -> None:
    state = Inertia(on_s=0.5, off_s=0.5)
    for k in range(20):
        state.update(True, k / 10)
    for k in range(20, 2000):
        state.update(None, k / 10)
    assert state.on
    assert state.since == 0.0


@given(values=st.lists(st.sampled_from([True, False, None]), max_size=60))
def test_since_is_before_the_change_and_none_when_empty(values: list[bool | None]) -> None:
    state = Inertia(on_s=0.4, off_s=0.4)
    for k, value in enumerate(values):
        state.update(value, k / 5)
        assert not state.on or state.since is not None
        assert state.since is None or state.since <= k / 5


def utc(day: int, hour: int, minute: int = 0, zone: timezone = timezone.utc) -> float:
    return datetime(2026, 1, 5 + day, hour, minute, tzinfo=zone).timestamp()  # the 5th is a Monday


def test_a_window_within_the_day() -> None:
    window = Schedule("08:00-17:30", None, timezone.utc)
    assert [utc(0, *at) in window for at in ((7, 59), (8, 0), (17, 29), (17, 30))] == [False, True, True, False]


def test_a_window_over_midnight_belongs_to_the_day_it_begins_on() -> None:
    window = Schedule("22:00-06:00", ["fri"], timezone.utc)
    assert [utc(day, hour) in window for day, hour in ((4, 21), (4, 22), (5, 5), (5, 6), (5, 22), (4, 5))] == [
        False, True, True, False, False, False,
    ]  # fmt: skip


def test_days_alone_and_another_time_zone() -> None:
    assert [utc(day, 12) in Schedule(None, ["mon", "sun"], timezone.utc) for day in range(7)] == [
        name in ("mon", "sun") for name in DAYS
    ]
    east = timezone(timedelta(hours=9))
    assert utc(0, 20) in Schedule("05:00-06:00", ["tue"], east)
    assert utc(0, 20, zone=east) not in Schedule("05:00-06:00", None, east)
