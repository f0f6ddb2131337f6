"""The events of procedures: a run from start to end, and between them one for each outcome of a step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from edge_agent.config_sop import Procedure
from edge_agent.payload import Count, Seconds, Time
from edge_agent.types import Event, NewId, rfc3339
from edge_agent.usecases.sop_explain import expectation
from edge_agent.usecases.sop_follow import Ended, Fact, Reason, Started
from edge_agent.usecases.sop_plan import predecessors
from edge_agent.usecases.sop_run import Outcome, Result, Run, StepState, What


class _Where(TypedDict):
    procedure: Annotated[str, Field(description="its name")]
    station: Annotated[
        str, Field(description="where it is followed; the procedure's name where there is one place only")
    ]
    track_id: NotRequired[Annotated[Count, Field(description="who; left out where it is the station's")]]


class StepFacts(_Where):
    """What became of a step, or of the time after one."""

    step: Annotated[str | None, Field(description="the step; null: of the run as a whole")]
    expected: Annotated[str | None, Field(description="what the procedure wants, in words")]
    observed: Annotated[str, Field(description="what was seen, in words")]
    started: Annotated[Time | None, Field(description="when it was begun; null: it was not")]
    ended: Annotated[Time, Field(description="when this was so")]
    seen_s: Annotated[Seconds, Field(description="for how long it was seen to be done")]
    unseen_s: Annotated[Seconds, Field(description="for how long it may have been done without being seen")]
    confidence: Annotated[float, Field(ge=0, le=1, description="mean score of what was seen")]
    missing: Annotated[list[str], Field(description="steps that must come before it and had not been done")]


class RunFacts(_Where):
    """The first step, or the start trigger, is sure."""

    started: Annotated[Time, Field(description="when it began")]


class StepResult(TypedDict):
    """One step of a run that is over."""

    step: Annotated[str, Field(description="the step")]
    outcome: Annotated[What | None, Field(description="what became of it; null: optional, and not done")]
    started: Annotated[Time | None, Field(description="when it was begun; null: it was not")]


class RunEnded(RunFacts):
    """A run is over."""

    ended: Annotated[Time, Field(description="when it ended")]
    duration_s: Annotated[Seconds, Field(description="how long it lasted")]
    reason: Annotated[
        Reason | Literal["agent_restart"], Field(description="why; agent_restart: the agent was killed meanwhile")
    ]
    result: NotRequired[Annotated[Result, Field(description="what it came to; left out after agent_restart")]]
    steps: NotRequired[
        Annotated[
            list[StepResult], Field(description="as they were begun, then those that were not; left out likewise")
        ]
    ]


class Teller:
    """Makes the events of one procedure at one station. ``offset`` is UTC less the camera's clock, seconds."""

    def __init__(self, camera: str, use_case: str, procedure: Procedure, station: str, new_id: NewId) -> None:
        self._camera, self._use_case, self._new_id = camera, use_case, new_id
        self._facts: dict[str, Any] = {"procedure": procedure.name, "station": station}
        self._expected = {
            step.step: expectation(step, before)
            for step, before in zip(procedure.steps, predecessors(procedure.steps), strict=True)
        }
        self._runs: dict[int, str] = {}

    def tell(self, facts: Iterable[Fact], key: int, track: int | None, offset: float) -> Iterator[Event]:
        """The events of ``facts`` about the subject ``key``, whose track is ``track`` now (None: a station)."""
        for fact in facts:
            utc = offset + fact.t
            common = self._facts | ({"track_id": track} if track is not None else {})
            if isinstance(fact, Started):
                self._runs[key] = self._new_id(utc)
            run = self._runs[key]
            if isinstance(fact, Outcome):
                data = common | self._outcome(fact, offset)
                yield Event(self._new_id(utc), self._camera, self._use_case, fact.what, None, run, utc, data)
            elif isinstance(fact, Started):
                data = common | {"started": rfc3339(offset + fact.run.began)}
                yield Event(self._new_id(utc), self._camera, self._use_case, "run", "started", run, utc, data)
            else:
                data = common | self._ended(fact, offset)
                yield Event(self._new_id(utc), self._camera, self._use_case, "run", "ended", run, utc, data)
                del self._runs[key]

    def rename(self, old: int, new: int) -> None:
        """The run of one subject goes on as that of another."""
        if old in self._runs:
            self._runs[new] = self._runs.pop(old)

    def _outcome(self, fact: Outcome, offset: float) -> dict[str, Any]:
        name = fact.step.step if fact.step is not None else None
        return {
            "step": name,
            "expected": self._expected.get(name or ""),
            "observed": fact.observed,
            "started": None if fact.began is None else rfc3339(offset + fact.began),
            "ended": rfc3339(offset + fact.t),
            "seen_s": round(fact.seen_s, 3),
            "unseen_s": round(fact.most_s - fact.seen_s, 3),
            "confidence": round(fact.confidence, 3),
            "missing": list(fact.missing),
        }

    def _ended(self, fact: Ended, offset: float) -> dict[str, Any]:
        run = fact.run
        return {
            "started": rfc3339(offset + run.began),
            "ended": rfc3339(offset + fact.t),
            "duration_s": round(max(fact.t - run.began, 0.0), 3),
            "result": run.result,
            "reason": fact.reason,
            "steps": [
                {
                    "step": state.step.step,
                    "outcome": state.outcome,
                    "started": None if state.began is None else rfc3339(offset + state.began),
                }
                for state in _in_order(run)
            ],
        }


def _in_order(run: Run) -> list[StepState]:
    """The steps as they were begun, then those that were not, as they stand in the procedure."""
    return sorted(run.states, key=lambda state: float("inf") if state.began is None else state.began)
