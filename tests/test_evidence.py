"""What frames show adds up to how long something was done, and to how long it may have been done unseen."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.usecases.evidence import BLIND_S, FALSE, GRACE_S, TRUE, UNKNOWN, Evidence, Truth

Part = tuple[float, Truth]


def watch(parts: Iterable[Part], fps: float = 10, for_s: float = 1.0) -> Evidence:
    """Evidence of parts of so many seconds each."""
    seen, k = Evidence(for_s), 0
    end = 0.0
    for seconds, value in parts:
        end += seconds
        while k / fps < end - 1e-9:
            seen.update(value, k / fps)
            k += 1
    return seen


@pytest.mark.parametrize("fps", [2, 5, 15, 60])
def test_time_adds_up_at_any_rate(fps: int) -> None:
    seen = watch([(5, FALSE), (10, TRUE), (5, FALSE)], fps)
    assert seen.began == 5.0
    assert seen.held_s == pytest.approx(10 - 1 / fps)
    assert (seen.confirmed, seen.over, seen.confidence) == (True, True, 1.0)
    assert seen.most_s == seen.held_s


def test_a_short_gap_counts_as_part_of_it_and_lowers_the_confidence() -> None:
    seen = watch([(4, TRUE), (1, FALSE), (4, TRUE), (1.5, UNKNOWN), (4, TRUE)])
    assert seen.held_s == pytest.approx(14.4)
    assert 0.75 < seen.confidence < 0.9


def test_somebody_in_front_for_longer_still_hides_nothing_but_longer_than_that_it_may() -> None:
    assert watch([(4, TRUE), (BLIND_S - 0.5, UNKNOWN), (4, TRUE)]).held_s == pytest.approx(12.4)
    seen = watch([(4, TRUE), (BLIND_S + 3, UNKNOWN), (4, TRUE)])
    assert seen.held_s == pytest.approx(7.8, abs=0.11)
    assert seen.most_s == pytest.approx(7.8 + BLIND_S + 3, abs=0.3)


def test_an_interruption_is_no_end_of_what_was_confirmed() -> None:
    seen = watch([(4, TRUE), (6, FALSE)])
    assert seen.over
    seen = watch([(4, TRUE), (6, FALSE), (4, TRUE)])
    assert (seen.over, seen.began) == (False, 0.0)
    assert seen.held_s == pytest.approx(7.8)


def test_what_was_too_short_is_forgotten() -> None:
    seen = watch([(0.6, TRUE), (3, FALSE), (0.6, TRUE)])
    assert seen.held_s == pytest.approx(0.5)
    assert not seen.confirmed


def test_a_single_frame_is_nothing_even_at_two_a_second() -> None:
    seen = watch([(5, FALSE), (0.5, TRUE), (5, FALSE)], fps=2)
    assert (seen.held_s, seen.confirmed, seen.began) == (0.0, False, None)


def test_two_glimpses_with_nothing_between_are_no_proof() -> None:
    seen = watch([(0.1, TRUE), (4, UNKNOWN), (0.1, TRUE)])
    assert seen.held_s > 1
    assert seen.confidence < 0.1


def test_nobody_looked_is_unseen_time_however_few_the_frames() -> None:
    seen = Evidence(1.0)
    for t in (0.0, 0.5, 60.0, 60.5):
        seen.update(FALSE, t)
    assert seen.most_s == pytest.approx(59.5)
    seen.forget_unseen()
    assert seen.most_s == 0.0


def test_short_darkness_hides_nothing() -> None:
    assert watch([(1, FALSE), (GRACE_S - 0.5, UNKNOWN)] * 10).most_s == 0.0


@given(
    parts=st.lists(st.tuples(st.floats(0.1, 8), st.sampled_from([TRUE, FALSE, UNKNOWN])), max_size=12),
    fps=st.sampled_from([2, 5, 30]),
)
def test_never_more_than_was_seen_or_may_have_been(parts: list[Part], fps: int) -> None:
    seen = watch(parts, fps)
    whole = sum(seconds for seconds, _ in parts)
    lit = sum(seconds for seconds, value in parts if value == TRUE)
    assert 0 <= seen.held_s <= whole + 1
    assert seen.held_s <= seen.most_s + 1e-9
    assert 0 <= seen.confidence <= 1
    if not lit:
        assert (seen.held_s, seen.began, seen.confirmed) == (0.0, None, False), "PASS without a frame that shows it"


@given(parts=st.lists(st.tuples(st.integers(1, 8), st.sampled_from([TRUE, FALSE, UNKNOWN])), max_size=10))
def test_the_rate_hardly_matters(parts: list[tuple[int, Truth]]) -> None:
    slow, fast = (watch([(float(s), v) for s, v in parts], fps) for fps in (5, 50))
    changes = len(parts) + 1
    assert slow.held_s == pytest.approx(fast.held_s, abs=0.25 * changes)


@given(before=st.floats(0.5, 4), gap=st.floats(0.2, 4), after=st.floats(0.8, 4))
def test_what_was_seen_under_another_name_joins_on(before: float, gap: float, after: float) -> None:
    """A track ends, a new one begins after a gap, and is known to be the same a moment later."""
    first, second = Evidence(1.0), Evidence(1.0)
    whole = watch([(before, TRUE), (gap, UNKNOWN), (after, TRUE)])
    t = 0.0
    while t < before + gap + after - 1e-9:
        if t < before - 1e-9:
            first.update(TRUE, t)
        else:
            first.update(UNKNOWN, t)
            if t >= before + gap - 1e-9:
                second.update(TRUE, t)
        t = round(t + 0.1, 6)
    first.join(second)
    assert first.held_s == pytest.approx(whole.held_s, abs=0.25)
    assert first.began == whole.began
    assert 0 <= first.confidence <= 1
    untouched = watch([(2, TRUE)])
    untouched.join(Evidence(1.0))
    assert untouched.held_s == pytest.approx(1.9)
