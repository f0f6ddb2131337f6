"""Procedures in words: a step as a sentence, a whole one as Mermaid text and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edge_agent.config_sop import Condition, Procedure, Step
from edge_agent.usecases.sop_plan import for_s, predecessors


def words(condition: Condition, who: str = "the person") -> str:
    """A condition as half a sentence: ``the person is in sink and has soap``."""
    parts = list(_about_things(condition))
    if condition.count is not None:
        few = (condition.at_most if condition.at_most is not None else condition.at_least or 1) == 1
        parts = [f"{_number(condition)} {condition.count} {'is' if few else 'are'} " + " and ".join(parts or ["there"])]
    elif parts:
        parts = [f"{who} " + " and ".join(parts)]
    if condition.sensor is not None:
        tests = [("is", condition.equals), ("is above", condition.above), ("is below", condition.below)]
        parts += [f"sensor {condition.sensor} {verb} {_plain(value)}" for verb, value in tests if value is not None]
    if condition.time is not None:
        parts.append(f"it is between {condition.time.replace('-', ' and ')}")
    if condition.days is not None:
        parts.append(f"it is {_or(condition.days)}")
    for inner, join in ((condition.all, " and "), (condition.any, " or ")):
        if inner:
            told = join.join(words(other, who) for other in inner)
            parts.append(f"({told})" if len(inner) > 1 else told)
    parts += [_denied(words(other, who), who) for other in condition.none or []]
    return " and ".join(parts) + (f" for {condition.for_s:g} s" if condition.for_s else "")


def expectation(step: Step, before: Sequence[str]) -> str:
    """What a step should be: ``wash for at least 20 s, after enter``."""
    parts = []
    if step.min_s is not None:
        parts.append(f"at least {step.min_s:g} s")
    if step.max_s is not None:
        parts.append(f"at most {step.max_s:g} s")
    text = step.step + (f" for {' and '.join(parts)}" if parts else "")
    since = f"after {' and '.join(before)}" if before else "after the start"
    if step.wait_s is not None:
        text += f", not before {step.wait_s:g} s {since}"
    if step.within_s is not None:
        text += f", begun within {step.within_s:g} s {since}"
    elif before and step.wait_s is None:
        text += f", {since}"
    return text


def mermaid(procedure: Procedure) -> str:
    """The order of the steps as Mermaid text: dashed boxes are optional, an arrow's label is a limit of time."""
    number = {step.step: f"s{i}" for i, step in enumerate(procedure.steps)}
    lines = ["flowchart TD", "  start([start])"]
    edges, dashed, followed = [], [], set()
    for step, before in zip(procedure.steps, predecessors(procedure.steps), strict=True):
        node = number[step.step]
        notes = [f"{step.min_s:g} s or more"] if step.min_s is not None else []
        notes += [f"{step.max_s:g} s or less"] if step.max_s is not None else []
        notes += ["repeatable"] if step.repeatable else []
        lines.append(f'  {node}["{"<br/>".join([step.step, *notes])}"]')
        dashed += [node] if step.optional else []
        limits = [f"after {step.wait_s:g} s"] if step.wait_s is not None else []
        limits += [f"within {step.within_s:g} s"] if step.within_s is not None else []
        label = f"|{', '.join(limits)}|" if limits else ""
        edges += [f"  {number[name]} -->{label} {node}" for name in before] or [f"  start -->{label} {node}"]
        followed.update(before)
    edges += [f"  {number[step.step]} --> finish" for step in procedure.steps if step.step not in followed]
    lines += ["  finish([end])", *edges]
    if dashed:
        lines += ["  classDef optional stroke-dasharray: 5 5", f"  class {','.join(dashed)} optional"]
    return "\n".join(lines)


def sentences(procedure: Procedure) -> Iterator[str]:
    """The procedure in sentences."""
    who = "the person" if procedure.scope == "person" else "somebody"
    each = "each person" if procedure.scope == "person" else "the station, whoever works there"
    where = f", at {', '.join(procedure.stations)}" if procedure.stations else ""
    yield f"{procedure.name} is followed for {each}{where}."
    start = f"when {_held(procedure.start, who)}" if procedure.start else "with the first sign of any step"
    yield f"A run begins {start}."
    for i, (step, before) in enumerate(zip(procedure.steps, predecessors(procedure.steps), strict=True), 1):
        kind = [word for word, on in (("optional", step.optional), ("repeatable", step.repeatable)) if on]
        shown = f"It shows when {_held(step.when, who)}"
        yield f"{i}. {expectation(step, before)}" + (f" ({', '.join(kind)})" if kind else "") + f". {shown}."
    end = f"when {_held(procedure.end, who)}" if procedure.end else "when the last step is done"
    yield f"The run ends {end}. It is abandoned when nothing goes on for {procedure.idle_s:g} s."


def _denied(told: str, who: str) -> str:
    """The contrary, where it is simple to say."""
    for yes, no in (
        ("somebody ", "nobody "),
        (f"{who} stands in ", f"{who} does not stand in "),
        (f"{who} has ", f"{who} has no "),
        ("at least 1 ", "no "),
    ):
        if told.startswith(yes) and " and " not in told:
            return no + told.removeprefix(yes)
    return f"it is not so that {told}"


def _held(condition: Condition, who: str) -> str:
    told = words(condition.model_copy(update={"for_s": None}), who)
    return f"{told} for {for_s(condition):g} s"


def _about_things(condition: Condition) -> Iterator[str]:
    at = {"feet": "stands ", "centre": "is ", "head": "has the head "}[condition.anchor]
    if condition.zone is not None:
        yield f"{'' if condition.count is not None else at}in {condition.zone}"
    if condition.has is not None:
        yield f"has {condition.has}"
    if condition.lacks is not None:
        yield f"has no {condition.lacks}"
    if condition.near is not None:
        yield f"{'' if condition.count is not None else 'is '}within {condition.within_m or 1:g} m of {condition.near}"
    if condition.crosses is not None:
        way = "" if condition.direction in (None, "any") else f" {condition.direction}"
        yield f"crosses {condition.crosses}{way}"
    if condition.code is not None:
        yield f"shows {_code(condition.code)}"
    if condition.faster_than_mps is not None:
        yield f"moves faster than {condition.faster_than_mps:g} m/s"
    if condition.slower_than_mps is not None:
        yield f"moves slower than {condition.slower_than_mps:g} m/s"


def _code(asked: str) -> str:
    kind, _, purpose = asked.partition(":")
    if kind == "token":
        return f"a token for {purpose}" if purpose else "a token"
    return "a code" if asked == "any" else f"the code {asked}"


def _number(condition: Condition) -> str:
    least, most = condition.at_least, condition.at_most
    if most is None:
        return f"at least {least or 1}"
    return f"at most {most}" if least is None else f"{least} to {most}"


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _or(values: Sequence[str]) -> str:
    return ", ".join(values[:-1]) + (" or " if len(values) > 1 else "") + values[-1]
