"""One run of a procedure: what becomes of each step, and when that can be told.

- *Done* is a step that was seen for as long as it must, and in enough of the frames. It is ``completed``, unless it came
  too soon or too late after those before it (``too_fast``, ``too_slow``), took too long (``too_slow``), or a step that
  must come after it had been done already (``wrong_order``).
- A step that a later one was done without is passed over. It may still come as the next: then it is ``wrong_order``.
  When another step in order is done instead, or the run ends, it is ``skipped``.
- A step that was begun but left too soon is ``too_fast`` once a later one has begun, or the run ends.
- Whatever may have been done while it could not be seen is ``unknown``: never completed and never a fault.
- A step done again, after it was seen to be over, is ``repeated``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from edge_agent.config_sop import Step
from edge_agent.usecases.evidence import GRACE_S, TOLERANCE_S, TRUE, UNKNOWN, Evidence, Truth
from edge_agent.usecases.sop_plan import Plan, for_s

What: TypeAlias = Literal[
    "completed", "skipped", "wrong_order", "repeated", "too_fast", "too_slow", "abandoned", "unknown"
]
Result: TypeAlias = Literal["passed", "failed", "unknown", "abandoned"]
LATE_S = 10.0
"""For so long after the last step a run without ``end`` waits for what was passed over, or is done again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One fact about a step. Times are seconds on the camera's clock; ``t`` is that of the fact, not of its telling."""

    what: What
    step: Step | None
    t: float
    observed: str
    began: float | None = None
    seen_s: float = 0.0
    most_s: float = 0.0
    """With the time in which it could not be seen."""
    confidence: float = 1.0
    missing: tuple[str, ...] = ()
    """Steps that must come before it and had not been done."""


class StepState:
    """What is known of one step in one run."""

    def __init__(self, step: Step, need_s: float) -> None:
        self.step, self.need_s = step, need_s
        self.fresh()
        self.opened = False
        """All before it is done."""
        self.done: float | None = None
        self.began: float | None = None
        self.outcome: What | None = None
        """What was told; None while it is open."""
        self.pending: Outcome | None = None
        """Done, and completed if it does not take too long."""
        self.passed_by: str | None = None
        """The later step that was done without it ..."""
        self.passed_at = 0.0
        """... and when ..."""
        self.passed_dark = False
        """... and whether it may have been done before that, out of sight."""
        self.lit_s = self.dark_s = 0.0
        """Since it was opened: time in which one could see whether it was done, and time in which not."""

    def fresh(self) -> None:
        """Look for another deed."""
        self.evidence = Evidence(for_s(self.step.when))

    @property
    def enough(self) -> bool:
        """It was seen for as long as it must."""
        seen = self.evidence
        return seen.confirmed and seen.held_s >= self.need_s - TOLERANCE_S and seen.confidence >= self.step.confidence

    @property
    def going_on(self) -> bool:
        """It has begun for sure and is not seen to be over."""
        return self.evidence.confirmed and not self.evidence.over

    @property
    def undecided(self) -> bool:
        """Nothing became of it yet."""
        return self.done is None and self.outcome is None

    def told(self, what: What, t: float, observed: str, *, missing: tuple[str, ...] = ()) -> Outcome:
        """Settle it."""
        self.outcome = what
        return self.about(what, t, observed, missing=missing)

    def about(self, what: What, t: float, observed: str, *, missing: tuple[str, ...] = ()) -> Outcome:
        """A fact about it as it stands."""
        seen = self.evidence
        watched = self.lit_s + self.dark_s
        sure = seen.confidence if seen.confirmed else self.lit_s / watched if watched > 0 else 1.0
        return Outcome(what, self.step, t, observed, seen.began, seen.held_s, seen.most_s, sure, missing)


class Run:
    """One person's or station's way through a procedure, from ``t`` on. Not thread-safe, fed in frame order.

    ``old`` are steps that seem to be done when it begins and are not its deeds, until that is over. ``ends_itself``: no
    trigger ends it, so the first step done again after the last one is the next run's.
    """

    def __init__(self, plan: Plan, t: float, old: dict[int, Evidence], *, ends_itself: bool = False) -> None:
        self.plan, self.began, self.old, self._ends_itself = plan, t, old, ends_itself
        self.states = [StepState(step, need) for step, need in zip(plan.steps, plan.need_s, strict=True)]
        self.repeated = False
        self.abandoned = False
        self._t = self._active = t
        self._dark_s = 0.0

    # ---- as time goes on

    def update(self, answers: Sequence[Truth], t: float) -> list[Outcome]:
        """What this frame brings; ``answers`` says of each step whether it is being done."""
        dt, self._t = t - self._t, t
        dark, active = dt > GRACE_S, False
        for i, (state, answer) in enumerate(zip(self.states, answers, strict=True)):
            if self.old and self._is_old(i, answer, t):
                continue
            state.evidence.update(answer, t)
            if answer == TRUE:
                active = active or ((state.done is None or self.plan.busy[i]) and state.evidence.confirmed)
            elif answer == UNKNOWN:
                dark = True
            if state.done is None and state.opened:
                if answer == UNKNOWN or dt > GRACE_S:
                    state.dark_s += dt
                else:
                    state.lit_s += dt
        if active:
            self._active, self._dark_s = t, 0.0
        elif dark:
            self._dark_s += dt
        told: list[Outcome] = []
        for i, state in enumerate(self.states):
            told += self._go_on(i, state, t)
        return told

    def join(self, other: Run) -> None:
        """Take over what the same person was seen doing while they were taken for another."""
        for state, seen in zip(self.states, other.states, strict=True):
            state.evidence.join(seen.evidence)
        self._active = max(self._active, other._active)

    @property
    def begun(self) -> bool:
        """Some step has begun for sure."""
        return any(state.evidence.confirmed or state.done is not None for state in self.states)

    @property
    def stirring(self) -> bool:
        """Some step may be beginning."""
        return any(not state.evidence.over for state in self.states)

    @property
    def shadowed(self) -> bool:
        """Something may have been done out of sight."""
        return any(state.evidence.most_s > state.evidence.held_s for state in self.states)

    def begin(self) -> None:
        """It is sure: it began with the first that was seen."""
        began = [state.evidence.began for state in self.states if state.evidence.began is not None]
        self.began = min(began, default=self.began)

    @property
    def complete(self) -> bool:
        """Every step that is required was done."""
        return all(state.done is not None or state.step.optional for state in self.states)

    @property
    def last_done(self) -> float | None:
        """When the last of the last steps was done; None while one is not."""
        latest = None
        for i in self.plan.last:
            done = self.states[i].done
            if done is None:
                return None
            latest = done if latest is None else max(latest, done)
        return latest

    @property
    def stirred(self) -> float:
        """When something that is still open was last seen to go on; the run's begin where nothing was."""
        going_on = [
            self._t if state.pending is not None else state.evidence.last
            for state in self.states
            if state.done is None or state.pending is not None
        ]
        return max([self.began, *going_on])

    def begins_again(self) -> Run | None:
        """The next run, where this one is complete and its first step is being done again."""
        if not self._ends_itself or not self.complete:
            return None
        for i, state in enumerate(self.states):
            if self._is_next(i) and state.evidence.confirmed:
                following = Run(self.plan, state.evidence.began or self._t, self.lingering(i), ends_itself=True)
                following.states[i].evidence = state.evidence
                return following
        return None

    def lingering(self, but: int | None = None) -> dict[int, Evidence]:
        """What still goes on, to be no deed of the next run."""
        return {i: lasting(self._t) for i, state in enumerate(self.states) if i != but and not state.evidence.over}

    def _is_next(self, i: int) -> bool:
        """Step ``i`` as it goes on now belongs to the next run."""
        state = self.states[i]
        again = state.done is not None and state.evidence.began is not None and state.evidence.began > state.done
        return self._ends_itself and again and not self.plan.before[i] and self.last_done is not None

    def idle_s(self, t: float) -> float:
        """Since something was last seen to go on."""
        return t - self._active

    @property
    def mostly_dark(self) -> bool:
        """Nothing could be seen for half or more of the time in which nothing went on."""
        return self._dark_s * 2 >= self._t - self._active

    @property
    def result(self) -> Result:
        """What it comes to."""
        outcomes = {state.outcome for state in self.states}
        if self.abandoned:
            return "abandoned"
        if self.repeated or outcomes & {"skipped", "wrong_order", "too_fast", "too_slow"}:
            return "failed"
        return "unknown" if "unknown" in outcomes or not self.complete else "passed"

    # ---- how it ends

    def finish(self, t: float) -> list[Outcome]:
        """It is over: what is open will not come any more."""
        told = self._settle_pending()
        for state in self.states:
            is_open = state.done is None and state.outcome in (None, "too_slow")
            if is_open and (not state.step.optional or state.evidence.confirmed):
                told.append(self._decide(state, t))
        return told

    def lose(self, t: float) -> list[Outcome]:
        """Who did it is out of sight for good: what is open is unknown."""
        told = self._settle_pending()
        for state in self.states:
            if state.undecided and not state.step.optional:
                told.append(state.told("unknown", t, "the person was not seen again"))
        return told

    def stop(self, t: float) -> list[Outcome]:
        """The recording or the agent ends: only what was passed over is decided."""
        told = self._settle_pending()
        passed = [state for state in self.states if state.undecided and state.passed_by and not state.step.optional]
        return told + [self._decide(state, t) for state in passed]

    def abandon(self, t: float) -> list[Outcome]:
        """It was given up: what is still to come is told in one."""
        told = self.stop(t)
        open_steps = [state for state in self.states if state.undecided and not state.step.optional]
        if not open_steps:
            return told
        self.abandoned = True
        first = open_steps[0]
        done = [state.step.step for state in self.states if state.done is not None]
        observed = f"given up after {', '.join(done)}" if done else "given up before anything was done"
        missing = tuple(state.step.step for state in open_steps)
        return [*told, Outcome("abandoned", first.step, self._active, observed, missing=missing)]

    def _is_old(self, i: int, answer: Truth, t: float) -> bool:
        """Step ``i`` still shows what it showed when the run began."""
        return i in self.old and not wear_off(self.old, i, answer, t)

    # ---- one step

    def _go_on(self, i: int, state: StepState, t: float) -> list[Outcome]:
        if state.done is not None and state.opened:
            return self._after(i, state, t)
        before = [self.states[j] for j in self.plan.before[i]]
        if not state.opened and all(other.done is not None or other.step.optional for other in before):
            state.opened = True
            state.evidence.forget_unseen()
        if state.done is not None:
            return self._after(i, state, t)
        if state.enough:
            return self._do(i, state, before, t)
        left = state.outcome is None and state.evidence.confirmed and state.evidence.over
        if left and any(self.states[j].evidence.confirmed for j in self.plan.follows[i]):
            return [self._decide(state, t)]
        limit = state.step.within_s
        if limit is not None and state.undecided and state.evidence.began is None and state.opened:
            due = self._base(before) + limit
            if t > due and state.evidence.most_s < state.need_s:
                return [state.told("too_slow", due, f"not begun within {limit:g} s")]
        return []

    def _do(self, i: int, state: StepState, before: Sequence[StepState], t: float) -> list[Outcome]:
        began = state.evidence.began if state.evidence.began is not None else t
        state.done, state.began = t, began
        told = self._pass_over(i, state, t)
        if state.outcome in ("unknown", "too_slow"):
            return told  # that was told, and it is the better word
        missing = tuple(other.step.step for other in before if other.done is None and not other.step.optional)
        late = state.passed_by or ("it was due" if state.outcome else "")
        limits, waited = state.step, began - self._base(before)
        if late and state.passed_dark:
            told.append(state.told("unknown", t, f"done after {late}, but may have been done before, out of sight"))
        elif late:
            told.append(state.told("wrong_order", t, f"done after {late}", missing=missing))
        elif not missing and limits.wait_s is not None and waited < limits.wait_s:
            told.append(state.told("too_fast", t, f"begun after {max(waited, 0):.1f} s"))
        elif not missing and limits.within_s is not None and waited > limits.within_s:
            told.append(state.told("too_slow", t, f"begun after {waited:.1f} s"))
        elif limits.max_s is not None:
            state.pending = state.about("completed", t, "", missing=missing)
        else:
            told.append(state.told("completed", t, _lasted(state), missing=missing))
        return told

    def _pass_over(self, i: int, state: StepState, t: float) -> list[Outcome]:
        """Step ``i`` is done: what should have come before and did not gets its last chance, or had it."""
        told = []
        for j in sorted(self.plan.ancestors[i]):
            other = self.states[j]
            if not other.undecided:
                continue
            if other.passed_by is None:
                other.passed_by, other.passed_at = state.step.step, t
                other.passed_dark = other.evidence.most_s - other.evidence.held_s >= other.need_s
            elif state.passed_by is None and not other.step.optional and not other.going_on:
                told.append(self._decide(other, t))
        return told

    def _after(self, i: int, state: StepState, t: float) -> list[Outcome]:
        """A step that is done: does it last too long, is it done again?"""
        seen, limit = state.evidence, state.step.max_s
        told: list[Outcome] = []
        if state.pending is not None and limit is not None:
            if seen.held_s > limit:
                state.pending = None
                told.append(state.told("too_slow", t, _lasted(state)))
            elif seen.over:
                told += self._settle(state)
        if seen.over and seen.began is not None:
            state.fresh()
        elif state.enough and seen.began is not None and seen.began > (state.done or 0.0) and not self._is_next(i):
            state.done, again = t, state.about("repeated", t, f"done again, {_lasted(state)}")
            if not state.step.repeatable:
                self.repeated = True
                told.append(again)
        return told

    def _settle_pending(self) -> list[Outcome]:
        return [outcome for state in self.states for outcome in self._settle(state)]

    def _settle(self, state: StepState) -> list[Outcome]:
        """A step that is over and did not take too long, as far as that was seen."""
        done, state.pending = state.pending, None
        if done is None:
            return []
        sure = state.step.max_s is None or state.evidence.most_s <= state.step.max_s
        return [state.told("completed" if sure else "unknown", done.t, _lasted(state), missing=done.missing)]

    def _decide(self, state: StepState, t: float) -> Outcome:
        """What to call a step that was not done."""
        seen, t = state.evidence, state.passed_at if state.passed_by else t
        hidden = f"out of sight for {seen.most_s - seen.held_s:.1f} s in which it may have been done"
        if seen.confirmed and seen.held_s >= state.need_s - TOLERANCE_S:
            outcome = state.told("unknown", t, f"seen in too few of the frames, {_lasted(state)}")
        elif seen.most_s >= state.need_s and seen.most_s > seen.held_s:
            outcome = state.told("unknown", t, hidden)
        elif seen.confirmed:
            outcome = state.told("too_fast", seen.last, _lasted(state))
        else:
            outcome = state.told("skipped", t, "not seen")
        if seen.over:
            state.fresh()
        return outcome

    def _base(self, before: Sequence[StepState]) -> float:
        """When everything before a step was done, else when the run began."""
        times = [state.done for state in before if state.done is not None]
        return max(times, default=self.began)


def lasting(t: float) -> Evidence:
    """Of something that goes on at ``t``."""
    seen = Evidence(0.0)
    seen.update(TRUE, t)
    return seen


def wear_off(old: dict[int, Evidence], i: int, answer: Truth, t: float) -> bool:
    """Watch one of ``old``; it is taken out, and this is True, once it is over."""
    old[i].update(answer, t)
    if not old[i].over:
        return False
    del old[i]
    return True


def _lasted(state: StepState) -> str:
    return f"seen for {state.evidence.held_s:.1f} s"
