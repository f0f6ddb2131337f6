"""The order of a procedure's steps: who comes before whom, worked out once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.config_sop import DEFAULT_FOR_S, Condition, Procedure, Step


def for_s(condition: Condition) -> float:
    """How long a condition of a step or a trigger holds before it counts."""
    return DEFAULT_FOR_S if condition.for_s is None else condition.for_s


def predecessors(steps: Sequence[Step]) -> list[list[str]]:
    """For each step the names it comes directly after: those it says, else the one above it."""
    return [
        list(step.after) if step.after is not None else [above.step] if above is not None else []
        for above, step in zip([None, *steps], steps, strict=False)
    ]


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps by number. ``before`` directly, ``ancestors`` all that come before, ``follows`` all that come after a step."""

    steps: tuple[Step, ...]
    need_s: tuple[float, ...]
    """For how long a step must be seen to be done."""
    before: tuple[tuple[int, ...], ...]
    ancestors: tuple[frozenset[int], ...]
    follows: tuple[frozenset[int], ...]
    busy: tuple[bool, ...]
    """Somebody does it, in person; else it is a state of things, which goes on when nobody is there."""
    last: frozenset[int]
    """The required steps that no other required one follows: with them the procedure is done."""


def make_plan(procedure: Procedure) -> Plan:
    """Work out the order of a procedure that ``sop_check`` found no fault in."""
    steps = tuple(procedure.steps)
    number = {step.step: i for i, step in enumerate(steps)}
    before = tuple(tuple(number[name] for name in names) for names in predecessors(steps))
    ancestors = tuple(frozenset(reach(i, before)) for i in range(len(steps)))
    follows = tuple(frozenset(j for j in range(len(steps)) if i in ancestors[j]) for i in range(len(steps)))
    required = {i for i, step in enumerate(steps) if not step.optional}
    return Plan(
        steps,
        tuple(max(for_s(step.when), step.min_s or 0.0) for step in steps),
        before,
        ancestors,
        follows,
        tuple(_by_somebody(step.when, procedure.label) for step in steps),
        frozenset(i for i in required if not follows[i] & required),
    )


def _by_somebody(condition: Condition, label: str) -> bool:
    parts = (condition.zone, condition.has, condition.lacks, condition.near, condition.crosses)
    speeds = (condition.faster_than_mps, condition.slower_than_mps)
    if condition.count == label or (condition.count is None and any(part is not None for part in (*parts, *speeds))):
        return True
    return any(_by_somebody(inner, label) for inner in [*(condition.all or []), *(condition.any or [])])


def reach(start: int, before: Sequence[Sequence[int]]) -> set[int]:
    """Every step that comes before ``start``; with ``start`` itself where the order goes round in a circle."""
    found: set[int] = set()
    todo = list(before[start])
    while todo:
        step = todo.pop()
        if step not in found:
            found.add(step)
            todo += before[step]
    return found
