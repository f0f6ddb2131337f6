"""The state machine alone: whatever happens in whatever order, it keeps its promises."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_agent.errors import Busy, Rejected, UsageError
from edge_agent.ota import job as jobs
from edge_agent.ota.job import ATTEMPTS, BEFORE, CRASHES, DEADLINE_S, REJECTED, TERMINAL, Stored
from edge_agent.ota.offer import Bundle


def bundle(number: int) -> Bundle:
    return Bundle(name="eyes", version=f"{number}.0", sha256=f"{number:064x}")


def ready(stored: Stored, number: int) -> Stored:
    stored = jobs.begin(stored, bundle(number), again=True)
    while stored.working is not None and stored.working.state != "warming":
        stored = jobs.advance(jobs.attempt(stored))
    return stored


def confirmed(stored: Stored, number: int) -> Stored:
    return jobs.confirm(jobs.switch(ready(stored, number), "boot"))


def test_the_way_to_the_end() -> None:
    stored, seen = jobs.begin(confirmed(Stored(), 1), bundle(2)), []
    while stored.working is not None and stored.working.state != "warming":
        seen.append(stored.working.state)
        assert stored.active == bundle(1)
        stored = jobs.advance(jobs.attempt(stored))
    assert seen == list(BEFORE[:-1])
    assert stored.candidate == bundle(2)
    with pytest.raises(UsageError, match="not in probation: warming"):
        jobs.confirm(stored)
    stored = jobs.switch(stored, "boot")
    assert (stored.active, stored.previous, stored.candidate) == (bundle(2), bundle(1), None)
    stored = jobs.confirm(stored, "unobserved", "no camera delivered")
    assert stored.job is not None
    assert (stored.job.state, stored.job.reason, stored.rejected) == ("confirmed", "unobserved", ())
    with pytest.raises(UsageError, match="no model is under way"):
        jobs.advance(stored)
    with pytest.raises(UsageError, match=r"eyes@2\.0 is active already"):
        jobs.begin(stored, bundle(2))


@pytest.mark.parametrize("state", BEFORE)
def test_before_the_switch_a_failure_changes_no_slot(state: str) -> None:
    stored = jobs.begin(confirmed(Stored(), 1), bundle(2))
    while stored.working is not None and stored.working.state != state:
        stored = jobs.advance(stored)
    failed = jobs.roll_back(stored, "self_test", "it sees nothing")
    assert (failed.active, failed.previous, failed.candidate) == (bundle(1), None, None)
    assert failed.job is not None and failed.job.state == "rolled_back" and failed.job.reason == "self_test"
    assert bool(failed.rejected) == (state != "downloading")  # what could not be had may be had tomorrow
    if failed.rejected:
        with pytest.raises(Rejected, match="rolled back here before: self_test: it sees nothing"):
            jobs.begin(failed, bundle(2))
        assert jobs.begin(failed, bundle(2), again=True).rejected == ()
    assert jobs.begin(failed, bundle(3)).working is not None


def test_in_probation_a_failure_brings_the_old_one_back() -> None:
    stored = jobs.switch(ready(confirmed(Stored(), 1), 2), "boot")
    failed = jobs.roll_back(stored, "error_rate", "every third picture")
    assert (failed.active, failed.previous) == (bundle(1), None)
    first = jobs.roll_back(jobs.switch(ready(Stored(), 1), "boot"), "error_rate", "")
    assert (first.active, first.previous) == (None, None)  # the model that the configuration names


def test_one_at_a_time_but_what_is_only_being_fetched_makes_room() -> None:
    stored = jobs.begin(Stored(), bundle(1))
    assert jobs.begin(stored, bundle(1)) == stored  # the same: goes on
    stored = jobs.begin(stored, bundle(2))
    assert stored.job is not None and stored.job.bundle == bundle(2)
    with pytest.raises(Busy, match=r"eyes@2\.0 is under way \(verified\)"):
        jobs.begin(jobs.advance(stored), bundle(3))


def test_a_step_that_never_ends_ends() -> None:
    stored = jobs.advance(jobs.begin(Stored(), bundle(1)))
    for _ in range(ATTEMPTS):
        stored = jobs.attempt(stored)
        assert stored.working is not None
    stored = jobs.attempt(stored)
    assert stored.job is not None and (stored.job.state, stored.job.reason) == ("rolled_back", "interrupted")
    fetching = jobs.begin(Stored(), bundle(1))
    for _ in range(ATTEMPTS * 3):
        fetching = jobs.attempt(fetching)
    assert fetching.working is not None


def test_being_stopped_is_no_failure() -> None:
    stored = jobs.advance(jobs.begin(Stored(), bundle(1)))
    for _ in range(ATTEMPTS * 3):
        stored = jobs.unattempt(jobs.attempt(stored))
    assert stored.working is not None and stored.working.attempts == 0


@given(spent=st.lists(st.floats(0, DEADLINE_S), min_size=1, max_size=20))
def test_every_job_ends_by_its_deadline(spent: list[float]) -> None:
    stored = jobs.begin(Stored(), bundle(1))
    for seconds in spent:
        if stored.working is None:
            break
        stored = jobs.spend(stored, seconds)
    assert stored.job is not None
    assert (stored.job.state == "rolled_back") == (stored.job.elapsed_s > DEADLINE_S)
    assert stored.job.reason == ("deadline" if stored.job.state == "rolled_back" else "")


def test_a_crash_loop_is_told_from_power_cuts_and_from_restarts() -> None:
    probation = jobs.switch(ready(confirmed(Stored(), 1), 2), "boot-1")
    powered = probation
    for number in range(2, 20):
        powered = jobs.starting(powered, f"boot-{number}")
    assert powered.working is not None and powered.working.crashes == 0
    restarted = probation
    for _ in range(20):
        restarted = jobs.starting(jobs.ended(restarted), "boot-1")
    assert restarted.working is not None and restarted.working.crashes == 0
    crashed = probation
    for number in range(1, CRASHES):
        crashed = jobs.starting(crashed, "boot-1")
        assert crashed.working is not None and crashed.working.crashes == number
    crashed = jobs.starting(crashed, "boot-1")
    assert crashed.job is not None and (crashed.job.reason, crashed.active) == ("crash_loop", bundle(1))
    by_hand = jobs.switch(ready(Stored(), 1), "")
    assert jobs.starting(by_hand, "boot-1").job == (by_hand.job and by_hand.job.model_copy(update={"boot": "boot-1"}))


def test_an_operator_goes_back() -> None:
    stored = confirmed(confirmed(Stored(), 1), 2)
    back = jobs.go_back(stored)
    assert (back.active, back.previous) == (bundle(1), None)
    assert back.job is not None and (back.job.bundle, back.job.state, back.job.reason) == (
        bundle(2),
        "rolled_back",
        "operator",
    )
    with pytest.raises(Rejected):
        jobs.begin(back, bundle(2))
    seed = jobs.go_back(back)
    assert seed.active is None
    with pytest.raises(UsageError, match="there is none before it"):
        jobs.go_back(seed)
    given_up = jobs.go_back(ready(stored, 3))
    assert (given_up.active, given_up.working) == (bundle(2), None)


def test_what_the_disk_lost() -> None:
    stored = ready(confirmed(confirmed(Stored(), 1), 2), 3)
    lost = jobs.lost(stored, "candidate")
    assert lost.working is not None and lost.working.state == "downloading" and lost.candidate is None
    assert jobs.lost(stored, "previous").previous is None
    lost = jobs.lost(stored, "active")
    assert (lost.active, lost.previous) == (bundle(1), None) and lost.working is not None
    probation = jobs.switch(stored, "boot")
    lost = jobs.lost(probation, "active")
    assert lost.active == bundle(2) and lost.job is not None and lost.job.reason == "damaged"
    assert lost.rejected == ()  # which the model cannot help
    lost = jobs.lost(jobs.confirm(probation), "active")
    assert lost.active == bundle(2) and lost.job is not None and lost.job.state == "rolled_back"


def test_what_is_remembered_comes_back_and_stays_small() -> None:
    stored = Stored()
    for number in range(1, REJECTED * 2):
        stored = jobs.roll_back(ready(stored, number), "x" * 40, "y" * 5000)
    assert len(stored.rejected) == REJECTED
    text = stored.model_dump_json()
    assert Stored.model_validate_json(text) == stored
    assert len(text) < 20_000


class Anything(RuleBasedStateMachine):
    """Events in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.stored, self.number, self.boot = Stored(), 0, 0

    def _state(self) -> str:
        return self.stored.working.state if self.stored.working is not None else ""

    @rule(again=st.booleans(), old=st.booleans())
    def begin(self, again: bool, old: bool) -> None:
        self.number += not old
        with contextlib.suppress(Busy, Rejected, UsageError):
            self.stored = jobs.begin(self.stored, bundle(self.number), again=again)

    @precondition(lambda self: self._state() in BEFORE)
    @rule(seconds=st.floats(0, DEADLINE_S / 4))
    def attempt(self, seconds: float) -> None:
        self.stored = jobs.attempt(self.stored)
        if self.stored.working is not None:
            self.stored = jobs.spend(self.stored, seconds)

    @precondition(lambda self: self._state() in BEFORE[:-1])
    @rule()
    def advance(self) -> None:
        self.stored = jobs.advance(self.stored)

    @precondition(lambda self: self._state() == "warming")
    @rule()
    def switch(self) -> None:
        self.stored = jobs.switch(self.stored, f"boot-{self.boot}")

    @precondition(lambda self: self._state() == "probation")
    @rule()
    def confirm(self) -> None:
        self.stored = jobs.confirm(self.stored)

    @precondition(lambda self: self._state())
    @rule(reason=st.sampled_from(["self_test", "damaged"]))
    def fail(self, reason: str) -> None:
        self.stored = jobs.roll_back(self.stored, reason, "")

    @rule(power_cut=st.booleans(), in_order=st.booleans())
    def restart(self, power_cut: bool, in_order: bool) -> None:
        self.boot += power_cut
        if in_order:
            self.stored = jobs.ended(self.stored)
        self.stored = jobs.starting(self.stored, f"boot-{self.boot}")

    @rule(slot=st.sampled_from(jobs.SLOTS))
    def lose(self, slot: jobs.Slot) -> None:
        if getattr(self.stored, slot) is not None:
            self.stored = jobs.lost(self.stored, slot)

    @precondition(lambda self: self.stored.active is not None)
    @rule()
    def go_back(self) -> None:
        self.stored = jobs.go_back(self.stored)

    @invariant()
    def slots_and_job_agree(self) -> None:
        stored, state = self.stored, self._state()
        displaced = stored.working.displaced if stored.working is not None else None
        named = [b for b in (stored.active, stored.previous, stored.candidate, displaced) if b is not None]
        assert stored.active is None or stored.active != stored.previous
        if state == "probation":
            assert stored.job is not None and stored.active == stored.job.bundle and stored.candidate is None
        if state in BEFORE[1:]:
            assert stored.job is not None and stored.candidate == stored.job.bundle
        if state in ("", "downloading", "probation"):
            assert stored.candidate is None
        assert stored.kept == {b.sha256 for b in named}
        assert Stored.model_validate_json(stored.model_dump_json()) == stored
        assert state or stored.job is None or stored.job.state in TERMINAL


TestAnything = Anything.TestCase
