"""The events of procedures: a run from start to end, and between them one for each outcome of a step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from edge_agent.config_sop import Procedure
from edge_agent.types import Event, NewId, rfc3339
from edge_agent.usecases.sop_explain import expectation
from edge_agent.usecases.sop_follow import Ended, Fact, Started
from edge_agent.usecases.sop_plan import predecessors
from edge_agent.usecases.sop_run import Outcome, Run, StepState


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
