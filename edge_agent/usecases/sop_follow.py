"""Following one person or station through a procedure: when a run begins, and when and why it ends.

A run begins with the start trigger, else with the evidence of any step; nothing is told of it until that held for long
enough. It ends with the end trigger, else when the last step is done (after ``LATE_S`` where something is missing or
may be done again), when nothing went on for ``idle_s``, or when the person is gone. The next one cannot begin
before it was seen that nothing goes on any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from edge_agent.config_sop import Procedure
from edge_agent.usecases.evidence import TRUE, UNKNOWN, Evidence, Truth
from edge_agent.usecases.sop_plan import Plan, for_s
from edge_agent.usecases.sop_run import LATE_S, Outcome, Run, lasting, wear_off

_TRIGGER = -1
Reason: TypeAlias = Literal["done", "end", "idle", "left", "lost", "end_of_file", "shutdown"]


@dataclass(frozen=True, slots=True)
class Started:
    """A run is sure; ``t`` is when it began."""

    run: Run
    t: float


@dataclass(frozen=True, slots=True)
class Ended:
    """A run is over; ``t`` is when it ended."""

    run: Run
    t: float
    reason: Reason


Fact: TypeAlias = Started | Outcome | Ended


class Follow:
    """One subject. Not thread-safe, fed in frame order."""

    def __init__(self, procedure: Procedure, plan: Plan) -> None:
        self._is, self._plan = procedure, plan
        self.run: Run | None = None
        self.told = False
        """The start of the run was told."""
        self._start: Evidence | None = None
        self._end: Evidence | None = None
        self._old: dict[int, Evidence] = {}
        """After a run: steps that still go on (``_TRIGGER``: the start trigger), until they are over."""

    @property
    def idle(self) -> bool:
        """There is nothing to remember."""
        return self.run is None and not self._old

    def update(
        self, answers: Sequence[Truth], start: Truth | None, end: Truth | None, t: float, *, hidden: bool = False
    ) -> list[Fact]:
        """What a frame brings: of each step, of the triggers (None: there is no such).

        ``hidden``: the person is out of sight for more than a moment, and what they do there counts for a run to come.
        """
        trigger = start if start is not None else TRUE
        if self.run is None:
            for i in list(self._old):
                wear_off(self._old, i, trigger if i == _TRIGGER else answers[i], t)
            fresh = any(answer == TRUE and i not in self._old for i, answer in enumerate(answers))
            fresh |= hidden and UNKNOWN in answers
            if trigger != TRUE or _TRIGGER in self._old or (start is None and not fresh):
                return []
            self._begin(answers, t)
        assert self.run is not None
        if self._start is not None and not self.told:
            self._start.update(trigger, t)
        facts: list[Fact] = list(self.run.update(answers, t))
        if not self.told:
            if not (self._start.confirmed if self._start is not None else self.run.begun):
                if not hidden and self._is_nothing(self.run, t):
                    self._old, self.run = self.run.old, None
                return []
            self.told = True
            if self._start is None:
                self.run.begin()
            facts.insert(0, Started(self.run, self.run.began))
        return facts + self._look_for_end(end, t)

    def join(self, other: Follow) -> None:
        """The same person was followed by ``other`` for a moment; of that nothing was told yet."""
        if self.run is None:
            self.run, self._start, self._end = other.run, other._start, other._end
        elif other.run is not None:
            self.run.join(other.run)
            if self._start is not None and other._start is not None:
                self._start.join(other._start)

    def gone(self, left: bool, t: float) -> list[Fact]:
        """The person is no more to be seen: walked out of the picture, or was lost in it."""
        if self.run is None or not self.told:
            return []
        if left and self._end is not None and self._end.began is not None and self._end.value == TRUE:
            return self._over(self.run.finish(self._end.began), self._end.began, "end")
        if self.run.last_done is not None:
            return self._over(self.run.finish(t), t, "done")
        return self._over(self.run.abandon(t) if left else self.run.lose(t), t, "left" if left else "lost")

    def stop(self, reason: Reason, t: float) -> list[Fact]:
        """The recording or the agent ends."""
        return self._over(self.run.stop(t), t, reason) if self.run is not None and self.told else []

    def _is_nothing(self, run: Run, t: float) -> bool:
        """Whether a run that is not sure will not become one."""
        if self._start is not None:
            return self._start.over
        return not run.stirring and not (run.shadowed and run.idle_s(t) <= self._is.idle_s)

    def _begin(self, answers: Sequence[Truth], t: float) -> None:
        if self._is.start is not None:
            # What is so from the start, and should come after something else, is a state that nobody brought about.
            self._old |= {i: lasting(t) for i, a in enumerate(answers) if a == TRUE and self._plan.before[i]}
        self.run, self.told = Run(self._plan, t, self._old, ends_itself=self._is.end is None), False
        self._old = {}
        self._start = Evidence(for_s(self._is.start)) if self._is.start is not None else None
        self._end = Evidence(for_s(self._is.end)) if self._is.end is not None else None

    def _look_for_end(self, end: Truth | None, t: float) -> list[Fact]:
        run = self.run
        assert run is not None
        if self._end is not None and end is not None:
            self._end.update(end, t)
            if self._end.confirmed and self._end.began is not None:
                return self._over(run.finish(self._end.began), self._end.began, "end")
        elif (done := run.last_done) is not None:
            if (again := run.begins_again()) is not None:
                facts = self._over(run.finish(done), done, "done")
                self._old, self.run = {}, again
                return facts
            if t - max(done, run.stirred) > LATE_S:
                return self._over(run.finish(done), done, "done")
        if run.idle_s(t) > self._is.idle_s:
            return self._over(run.lose(t) if run.mostly_dark else run.abandon(t), t, "idle")
        return []

    def _over(self, outcomes: list[Outcome], t: float, reason: Reason) -> list[Fact]:
        run, self.run, self.told = self.run, None, False
        assert run is not None
        self._old = run.lingering() if self._is.start is None else {_TRIGGER: lasting(t)}
        return [*outcomes, Ended(run, t, reason)]
