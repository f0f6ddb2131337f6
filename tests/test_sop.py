"""Procedures on scenes without faults: every outcome, with its proof and its time, at any frame rate."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from edge_agent.types import Event, Output, rfc3339
from edge_agent.usecases.sop import Sop
from tests.scene_fixtures import FAR, LEFT, MIDDLE, NOWHERE, RIGHT, START, Person, Place, Thing, observe, sop

A = {"step": "a", "when": {"zone": "left"}}
B = {"step": "b", "when": {"zone": "middle"}}
C = {"step": "c", "when": {"zone": "right"}}
SPOTS = {"a": LEFT, "b": MIDDLE, "c": RIGHT, "d": FAR, "-": NOWHERE}
END = {"none": [{"zone": "left"}, {"zone": "middle"}, {"zone": "right"}], "for_s": 8}
Told = tuple[str, str]


def visit(*stays: tuple[str, float]) -> Callable[[float], Place | None]:
    """Somebody who is at each place (a, b, c, - for nowhere, ? for hidden) for so long, without ways between."""
    ends: list[tuple[float, str]] = []
    for name, seconds in stays:
        ends.append(((ends[-1][0] if ends else 0.0) + seconds, name))

    def where(t: float) -> Place | None:
        name = next((name for end, name in ends if t < end), "-")
        if name == "?":
            return None
        return SPOTS[name]

    return where


def play(
    case: Sop, *people: Callable[[float], Place | None], seconds: float, fps: float = 5, close: bool = False
) -> list[Event]:
    """The events of a scene; people have the track ids 1, 2 ..."""
    outputs: list[Output] = []
    for k in range(round(seconds * fps)):
        there = [(i, at) for i, person in enumerate(people, 1) if (at := person(k / fps)) is not None]
        outputs += case.update(observe(k / fps, there))
    if close:
        outputs += case.close("end_of_file")
    return [output for output in outputs if isinstance(output, Event)]


def told(events: Iterable[Event]) -> list[Told]:
    """Outcomes of steps and how runs ended, in order."""
    return [
        (str(event.data["step"]), event.what) if event.what != "run" else ("run", event.data["result"])
        for event in events
        if event.phase != "started"
    ]


def test_in_order_everything_is_completed() -> None:
    events = play(sop(A, B, C), visit(("-", 2), ("a", 4), ("b", 4), ("c", 4), ("-", 15)), seconds=30)
    assert told(events) == [("a", "completed"), ("b", "completed"), ("c", "completed"), ("run", "passed")]
    started, a, *_, ended = events
    assert (started.type, ended.type) == ("edge_agent.sop.run.started", "edge_agent.sop.run.ended")
    assert a.type == "edge_agent.sop.completed"
    assert len({event.episode for event in events}) == 1
    assert len({event.id for event in events}) == 5
    assert dict(a.data) | {"confidence": 1} == {
        "procedure": "it", "station": "it", "track_id": 1, "step": "a", "expected": "a", "observed": "seen for 1.0 s",
        "started": rfc3339(START + 2), "ended": rfc3339(START + 3), "seen_s": 1.0, "unseen_s": 0.0, "confidence": 1,
        "missing": [],
    }  # fmt: skip
    assert ended.data["steps"] == [
        {"step": name, "outcome": "completed", "started": rfc3339(START + t)}
        for name, t in (("a", 2), ("b", 6), ("c", 10))
    ]
    assert (ended.data["reason"], ended.data["duration_s"]) == ("done", 9.0)
    json.dumps([event.data for event in events], allow_nan=False)


@pytest.mark.parametrize("fps", [2, 5, 15, 60])
@pytest.mark.parametrize(
    ("stays", "expected"),
    [
        ("abc", "a completed, b completed, c completed"),
        ("ac", "a completed, c completed, b skipped"),
        ("bc", "b completed, a skipped, c completed"),
        ("bac", "b completed, a wrong_order, c completed"),
        ("acb", "a completed, c completed, b wrong_order"),
        ("cba", "c completed, b wrong_order, a wrong_order"),
        ("abac", "a completed, b completed, a repeated, c completed"),
        ("a", "a completed, b skipped, c skipped"),
        ("c", "c completed, a skipped, b skipped"),
    ],
)
def test_order(stays: str, expected: str, fps: int) -> None:
    way = visit(("-", 1), *((name, 4) for name in stays), ("-", 20))
    outcomes = told(play(sop(A, B, C, end=END), way, seconds=4 * len(stays) + 14, fps=fps))
    assert ", ".join(f"{step} {what}" for step, what in outcomes[:-1]) == expected
    passed = stays == "abc"
    assert outcomes[-1] == ("run", "passed" if passed else "failed")


def test_a_later_step_says_at_once_what_is_missing() -> None:
    events = play(sop(A, B, C, end=END), visit(("a", 3), ("c", 4)), seconds=6)
    assert told(events) == [("a", "completed"), ("c", "completed")]
    assert [event.data["missing"] for event in events[1:]] == [[], ["b"]]


def test_skipped_is_told_with_the_next_step_in_order_and_dated_when_it_was_passed_over() -> None:
    d = {"step": "d", "when": {"zone": "far"}}
    events = play(sop(A, B, C, d, end=END), visit(("a", 4), ("c", 4), ("d", 4)), seconds=11)
    assert told(events) == [("a", "completed"), ("c", "completed"), ("b", "skipped"), ("d", "completed")]
    skipped = next(event for event in events if event.what == "skipped")
    assert skipped.utc == pytest.approx(START + 5)


def test_any_order_and_optional_steps() -> None:
    any_order = {**B, "after": []}
    both = {**C, "after": ["a", "b"]}
    for stays in ("abc", "bac"):
        assert told(play(sop(A, any_order, both), visit(*((name, 3) for name in stays)), seconds=22))[-1] == (
            "run",
            "passed",
        )
    optional = {**B, "optional": True}
    assert told(play(sop(A, optional, C), visit(("a", 3), ("c", 3)), seconds=20)) == [
        ("a", "completed"), ("c", "completed"), ("run", "passed"),
    ]  # fmt: skip
    assert ("b", "wrong_order") in told(play(sop(A, optional, C), visit(("a", 3), ("c", 3), ("b", 3)), seconds=24))


def test_repeatable_steps_are_not_told_again() -> None:
    again = {**A, "repeatable": True}
    events = play(sop(again, B, end=END), visit(("a", 3), ("-", 4), ("a", 3), ("b", 3)), seconds=25)
    assert told(events) == [("a", "completed"), ("b", "completed"), ("run", "passed")]


@pytest.mark.parametrize(
    ("limits", "stays", "what", "observed"),
    [
        ({"min_s": 6}, [("a", 3), ("b", 4)], "too_fast", "seen for 2.8 s"),
        ({"min_s": 6}, [("a", 4), ("-", 4), ("a", 4), ("b", 4)], "completed", "seen for 6.0 s"),
        ({"max_s": 6}, [("a", 4), ("b", 4)], "completed", "seen for 3.8 s"),
        ({"max_s": 6}, [("a", 9), ("b", 4)], "too_slow", "seen for 6.2 s"),
    ],
)
def test_limits_of_a_step(limits: dict[str, Any], stays: list[tuple[str, float]], what: str, observed: str) -> None:
    events = play(sop({**A, **limits}, B, end=END), visit(*stays), seconds=30)
    first = next(event for event in events if event.data.get("step") == "a")
    assert (first.what, first.data["observed"]) == (what, observed)
    assert told(events).count(("a", what)) == 1


@pytest.mark.parametrize(
    ("limits", "pause", "what"),
    [
        ({"within_s": 8}, 4, "completed"),
        ({"within_s": 8}, 12, "too_slow"),
        ({"wait_s": 8}, 4, "too_fast"),
        ({"wait_s": 8}, 12, "completed"),
    ],
)
def test_limits_between_steps(limits: dict[str, Any], pause: float, what: str) -> None:
    end = {**END, "for_s": 14}
    events = play(sop(A, {**B, **limits}, end=end), visit(("a", 3), ("-", pause), ("b", 4)), seconds=40)
    outcomes = [event for event in events if event.data.get("step") == "b"]
    assert [event.what for event in outcomes] == [what]
    if what == "too_slow":
        assert outcomes[0].utc == pytest.approx(START + 1 + 8), "told when it was due"


def test_what_could_not_be_seen_is_unknown_and_never_passed() -> None:
    events = play(sop(A, B, C, end=END), visit(("a", 4), ("-", 1), ("?", 8), ("-", 1), ("c", 4)), seconds=32)
    assert told(events) == [("a", "completed"), ("c", "completed"), ("b", "unknown"), ("run", "unknown")]
    unknown = events[-2]
    assert 5 < unknown.data["unseen_s"] <= 8, "less the time for the way there"
    assert unknown.data["confidence"] < 0.8


def test_too_short_a_time_out_of_sight_is_no_excuse() -> None:
    slow = {**B, "min_s": 15}
    events = play(sop(A, slow, C, end=END), visit(("a", 4), ("?", 8), ("-", 1), ("c", 4)), seconds=32)
    assert ("b", "skipped") in told(events)


def test_somebody_in_front_for_a_moment_changes_nothing() -> None:
    b = {**B, "min_s": 10}
    events = play(sop(A, b, C, end=END), visit(("a", 4), ("b", 5), ("?", 3), ("b", 5), ("c", 4)), seconds=32)
    assert told(events)[-1] == ("run", "passed")


def test_given_up_is_told_once_with_what_is_missing() -> None:
    events = play(sop(A, B, C, idle_s=20), visit(("a", 4), ("-", 60)), seconds=40)
    assert told(events) == [("a", "completed"), ("b", "abandoned"), ("run", "abandoned")]
    assert events[-2].data["missing"] == ["b", "c"]
    assert events[-2].data["observed"] == "given up after a"


def test_a_pause_is_no_end() -> None:
    events = play(sop(A, B, C, idle_s=20), visit(("a", 4), ("-", 15), ("b", 4), ("-", 15), ("c", 4)), seconds=60)
    assert told(events)[-1] == ("run", "passed")


def test_who_is_lost_in_the_picture_is_unknown_and_who_walks_out_has_given_up() -> None:
    lost = play(sop(A, B, idle_s=90), visit(("a", 4), ("?", 90)), seconds=75)
    assert told(lost) == [("a", "completed"), ("b", "unknown"), ("run", "unknown")]
    assert lost[-1].data["reason"] == "lost"

    def out(t: float) -> Place | None:
        at = 0.2 - 0.06 * max(t - 4, 0)
        return (at, 0.6) if at > 0.02 else None

    left = play(sop(A, B), out, seconds=20)
    assert told(left) == [("a", "completed"), ("b", "abandoned"), ("run", "abandoned")]
    assert left[-1].data["reason"] == "left"


def test_each_person_is_followed_alone_and_a_station_takes_whoever_comes() -> None:
    first, second = visit(("a", 4), ("-", 40)), visit(("-", 5), ("b", 4), ("-", 40))
    apart = told(play(sop(A, B, idle_s=15), first, second, seconds=40))
    assert ("b", "completed") in apart
    assert ("run", "passed") not in apart
    together = play(sop(A, B, idle_s=15, scope="station"), first, second, seconds=40)
    assert told(together) == [("a", "completed"), ("b", "completed"), ("run", "passed")]
    assert "track_id" not in together[0].data


def test_stations_run_in_parallel() -> None:
    stations = {"one": {"left": "left", "middle": "middle"}, "two": {"left": "right", "middle": "middle"}}
    case = sop(A, B, idle_s=15, scope="station", stations=stations)
    events = play(case, visit(("a", 4), ("b", 4)), visit(("c", 30)), seconds=30)
    assert {(event.data["station"], event.data["step"]) for event in events if event.what == "completed"} == {
        ("one", "a"), ("one", "b"), ("two", "a"), ("two", "b"),
    }  # fmt: skip


def test_start_trigger_runs_though_nothing_is_done_and_ignores_what_was_before() -> None:
    case = sop(B, C, start={"zone": "left", "for_s": 2}, end=END)
    events = play(case, visit(("b", 4), ("-", 12), ("a", 4), ("-", 20)), seconds=40)
    assert told(events) == [("b", "skipped"), ("c", "skipped"), ("run", "failed")]
    assert events[0].utc == pytest.approx(START + 16)
    assert told(play(case, visit(("a", 1.5), ("-", 20)), seconds=10)) == [], "the trigger did not hold"


def test_a_state_that_was_there_at_the_start_is_nobodys_deed() -> None:
    gone = {"step": "gone", "when": {"none": [{"count": "box", "zone": "middle"}], "for_s": 2}}
    case = sop(A, gone, start={"zone": "left"}, scope="station", requires_labels=["person", "box"], idle_s=30)
    box: Thing = (50, "box", MIDDLE)
    events: list[Output] = []
    for k in range(200):
        t = k / 5
        events += case.update(observe(t, [(1, LEFT)] if t < 4 else [], [box] if 10 <= t < 20 else []))
    outcomes = [
        (e.data["step"], e.what, round(e.utc - START)) for e in events if isinstance(e, Event) and e.what != "run"
    ]
    assert outcomes == [("a", "completed", 1), ("gone", "completed", 24)]  # 2 s unseen may be a miss, 2 s it must hold


def test_the_next_run_begins_only_after_quiet_or_with_the_first_step() -> None:
    events = play(sop(A, B), visit(("a", 4), ("b", 30), ("a", 4), ("b", 4), ("-", 15)), seconds=60)
    runs = [told([event])[0][1] for event in events if event.what == "run" and event.phase == "ended"]
    assert runs == ["passed", "passed"]
    assert sum(event.what == "completed" for event in events) == 4


def test_a_run_goes_on_over_a_silent_camera_and_what_happened_meanwhile_is_unknown() -> None:
    case = sop(A, B, C, end=END)
    first = play(case, visit(("a", 4)), seconds=4)
    assert case.close("camera_gap") == []
    assert case.open_episodes == 1
    later: list[Output] = []
    for k in range(100):
        t = 30 + k / 5
        later += case.update(observe(t, [(1, RIGHT if t < 40 else NOWHERE)]))
    events = [*first, *(e for e in later if isinstance(e, Event))]
    assert told(events) == [("a", "completed"), ("c", "completed"), ("b", "unknown"), ("run", "unknown")]


def test_the_end_of_the_recording_ends_runs_without_judging_what_was_still_to_come() -> None:
    case = sop(A, B, C, end=END)
    events = play(case, visit(("a", 4), ("-", 3)), seconds=6, close=True)
    assert told(events) == [("a", "completed"), ("run", "unknown")]
    assert events[-1].data["reason"] == "end_of_file"
    assert case.open_episodes == 0
    passed_over = play(sop(A, B, C, end=END), visit(("a", 4), ("c", 4)), seconds=8, close=True)
    assert told(passed_over)[2:] == [("b", "skipped"), ("run", "failed")]


def test_an_identity_that_changes_in_the_middle_changes_nothing() -> None:
    way = visit(("a", 4), ("b", 4), ("c", 4), ("-", 15))
    case, events = sop(A, B, C), []
    for k in range(150):
        t = k / 5
        at = way(t)
        assert at is not None
        events += case.update(observe(t, [(1 if t < 2 else 7 if t < 6 else 9, at)]))
    assert told(e for e in events if isinstance(e, Event))[-1] == ("run", "passed")


def test_two_people_who_cross_and_exchange_their_ids_keep_their_runs() -> None:
    def scene(t: float) -> list[Person]:
        a, b = (0.2 + 0.03 * t, 0.6), (0.8 - 0.03 * t, 0.75)
        return [(1, a), (2, b)] if t < 10 else [(2, a), (1, b)]

    steps = [
        {"step": "first", "when": {"zone": "left", "for_s": 1}},
        {"step": "last", "when": {"zone": "right", "for_s": 1}},
    ]
    case, events = sop(*steps, end=END), []
    for k in range(170):
        events += case.update(observe(k / 5, scene(min(k / 5, 20))))
    ways: dict[Any, list[str]] = {}
    for event in events:
        assert isinstance(event, Event)
        if event.what == "completed":
            ways.setdefault(event.episode, []).append(event.data["step"])
    assert ways == {next(iter(ways)): ["first", "last"]}


@pytest.mark.parametrize("seconds", [1, 2])
def test_events_are_dated_in_order_of_what_happened(seconds: int) -> None:
    events = play(sop(A, B, C), visit(("a", 3), ("b", 3), ("c", 3 * seconds)), seconds=25)
    outcomes: Sequence[Event] = [event for event in events if event.what == "completed"]
    assert all(a.utc < b.utc for a, b in pairwise(outcomes))
