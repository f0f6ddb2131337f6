"""Codes as evidence: who showed one, for how long that counts, and what procedures make of it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from edge_agent.config_codes import CodesConfig
from edge_agent.types import Code, Event, Output, Token, uuid7_factory
from edge_agent.usecases.codes_seen import MAX_PER_MINUTE, CodesSeen
from edge_agent.usecases.codes_shown import CODE_S, CodesShown, fits
from edge_agent.usecases.evidence import FALSE, TRUE, UNKNOWN
from tests.code_fixtures import seen, valid
from tests.scene_fixtures import LEFT, MIDDLE, RIGHT, Person, camera, observe, sop

BADGE = {"step": "badge", "when": {"zone": "left", "code": "drivers", "for_s": 0.5}}
CHEST = (0.2, 0.5)
"""Of somebody who stands at LEFT."""


@pytest.mark.parametrize(
    ("code", "asked"),
    [
        (seen(), {"any", "marker-17"}),
        (seen(groups=("drivers", "all")), {"any", "marker-17", "drivers", "all"}),
        (seen("token-00", said=valid("door")), {"any", "token", "token:door", "token-00"}),
        (seen("token-00", said=Token("expired", "00", "door")), set()),
        (seen("qr-00", said=Token("bad")), set()),
        (seen("token-00", groups=("drivers",), said=Token("spent", "00", "door")), set()),
    ],
)
def test_what_a_code_is_good_for(code: Code, asked: set[str]) -> None:
    every = {"any", "token", "token:door", "token:gate", "marker-17", "marker-1", "token-00", "drivers", "all", "qr-00"}
    assert {what for what in every if fits(code, what)} == asked


def shown(*codes: Code) -> CodesShown:
    made = CodesShown()
    boxes = np.array([[100.0, 100, 200, 500], [400.0, 100, 500, 500], [450.0, 100, 550, 500]])
    made.update(codes, np.array([1, 2, 3]), boxes, 0.0)
    return made


def test_it_is_whoever_has_it_in_their_box_and_between_two_it_is_unknown() -> None:
    size = (1000, 1000)
    ids = np.array([1, 2, 3, 4])
    assert shown(seen(at=(0.15, 0.3), size=size)).by("any", ids).tolist() == [TRUE, FALSE, FALSE, FALSE]
    assert shown(seen(at=(0.475, 0.3), size=size)).by("any", ids).tolist() == [FALSE, UNKNOWN, UNKNOWN, FALSE]
    nobodys = shown(seen(at=(0.8, 0.3), size=size))
    assert nobodys.by("any", ids).tolist() == [FALSE] * 4
    assert [code.name for code in nobodys.now("any")] == ["marker-17"]


def test_it_counts_for_a_moment_and_goes_with_whoever_showed_it() -> None:
    codes = shown(seen(at=(0.15, 0.3), size=(1000, 1000)))
    none = np.zeros((0, 4))
    codes.rename([(1, 9)])
    codes.update([], np.array([], np.int64), none, CODE_S)
    assert codes.by("any", np.array([1, 9])).tolist() == [FALSE, TRUE]
    codes.update([], np.array([], np.int64), none, CODE_S + 0.1)
    assert codes.by("any", np.array([1, 9])).tolist() == [FALSE, FALSE]


def run(
    steps: list[dict[str, Any]], show: dict[float, tuple[Code, ...]], people: list[Person], **more: Any
) -> list[str]:
    """What is told in 14 s, after eight of which everybody walks off to the right."""
    procedure = sop(*steps, end={"none": [{"zone": "left"}], "for_s": 1}, **more)
    told = []
    for k in range(140):
        t = k / 10
        walked = 0.1 * min(max(t - 8, 0), 3)
        here = [(ident, (x + walked, y)) for ident, (x, y) in people]
        told += procedure.update(observe(t, here, codes=show.get(t, ())))
    told += procedure.close("end_of_file")
    return [event.what for event in told if isinstance(event, Event) and event.what != "run"]


def badge(at: tuple[float, float], said: Token | None = None) -> tuple[Code, ...]:
    return (seen(at=at, groups=("drivers",), said=said),)


OPEN = {"step": "open", "when": {"zone": "left", "for_s": 2}, "after": []}


@pytest.mark.parametrize("scope", ["person", "station"])
def test_a_badge_shown_in_a_zone_is_a_step_done(scope: str) -> None:
    steps = [BADGE, OPEN]
    everywhere = {"scope": scope}
    assert run(steps, {2.0: badge(CHEST), 2.5: badge(CHEST), 3.0: badge(CHEST)}, [(1, LEFT)], **everywhere) == [
        "completed",
        "completed",
    ]
    assert run(steps, {}, [(1, LEFT)], **everywhere) == ["completed", "skipped"]
    spent = Token("spent", "00", "door")
    shows = {2.0: badge(CHEST, spent), 2.5: badge(CHEST, spent)}
    assert run(steps, shows, [(1, LEFT)], **everywhere) == ["completed", "skipped"]


def test_somebody_elses_badge_does_not_count() -> None:
    there = {t: badge((0.5, 0.5)) for t in (2.0, 2.5, 3.0)}
    assert run([BADGE, OPEN], there, [(1, LEFT), (2, MIDDLE)]) == ["completed", "skipped"]


def test_at_a_station_a_code_alone_is_enough() -> None:
    step = {"step": "badge", "when": {"code": "drivers", "for_s": 0.5}}
    procedure = sop(step, scope="station")
    told: list[Output] = []
    for k in range(60):
        told += procedure.update(observe(k / 10, codes=badge(RIGHT) if k in (10, 15, 20) else ()))
    told += procedure.close("end_of_file")
    assert "completed" in [event.what for event in told if isinstance(event, Event)]


def test_each_code_that_comes_into_view_is_told_once() -> None:
    case = CodesSeen(CodesConfig(events=True), camera(), uuid7_factory(random.Random(1)))
    told: list[Output] = []
    for k in range(300):
        t = k / 10
        here = (seen(at=(0.2, 0.6), t=t, groups=("drivers",)),) if t < 5 or t >= 20 else ()
        told += case.update(observe(t, codes=here))
    events = [event for event in told if isinstance(event, Event)]
    assert [event.type for event in events] == ["edge_agent.codes.seen"] * 2
    assert events[0].data == {
        "kind": "marker",
        "name": "marker-17",
        "groups": ["drivers"],
        "zone": "left",
        "token": None,
        "purpose": None,
    }
    assert case.close("shutdown") == []


def test_a_wall_of_codes_does_not_flood() -> None:
    case = CodesSeen(CodesConfig(events=True), camera(), uuid7_factory(random.Random(1)))
    told = case.update(observe(0.0, codes=[seen(f"marker-{i}") for i in range(2000)]))
    assert len(told) == MAX_PER_MINUTE
    assert len(case._last) <= 1000
