"""Conditions of procedures in three values: true, false, and what cannot be seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from edge_agent.config_sop import Condition
from edge_agent.types import Observation, SensorValue
from edge_agent.usecases.conditions import Test as Asked
from edge_agent.usecases.evidence import FALSE, TRUE, UNKNOWN, Truth
from edge_agent.usecases.scene import Place
from tests.scene_fixtures import LEFT, MIDDLE, NOWHERE, RIGHT, camera, observe

GROUND = {
    "image_size": [1600, 900],
    "points": [
        {"pixel": [u, v], "ground_m": [u / 100, v / 100]}
        for u, v in ((0, 0), (1600, 0), (1600, 900), (0, 900), (800, 450))
    ],
    "zones": {"yard": [[2, 0], [6, 0], [6, 3], [2, 3]]},
    "lines": {"gate": [[5, 0], [5, 10]]},
}


def ask(
    when: Mapping[str, Any],
    frames: Sequence[Observation],
    *,
    somebody: bool = False,
    names: Mapping[str, str] | None = None,
    **settings: Any,
) -> list[Truth]:
    """Answers about each thing in the last frame in order of ids, or the one about somebody."""
    place = Place(camera(**settings))
    test = Asked(Condition.model_validate(when), place, names or {}, somebody=somebody)
    for seen in frames:
        answer = test.ask(place.look(seen))
    return [int(value) for value in np.atleast_1d(answer)]


def standing(*frames: Mapping[str, Any], seconds: float = 1.0) -> list[Observation]:
    """Each of the frames (arguments of ``observe``) for so long, ten times a second."""
    n = round(seconds * 10)
    return [observe(k / 10, **frames[k // n]) for k in range(n * len(frames))]


PEOPLE = [(1, LEFT), (2, RIGHT), (3, NOWHERE)]


@pytest.mark.parametrize(
    ("when", "each", "somebody"),
    [
        ({"zone": "left"}, [TRUE, FALSE, FALSE], TRUE),
        ({"zone": "middle"}, [FALSE, FALSE, FALSE], FALSE),
        ({"any": [{"zone": "left"}, {"zone": "right"}]}, [TRUE, TRUE, FALSE], TRUE),
        ({"none": [{"zone": "left"}, {"zone": "right"}]}, [FALSE, FALSE, TRUE], FALSE),
        ({"all": [{"zone": "left"}, {"zone": "right"}]}, [FALSE, FALSE, FALSE], TRUE),
        ({"zone": "left", "near": "person"}, [FALSE, FALSE, FALSE], FALSE),
        ({"zone": "left", "near": "person", "within_m": 9}, [TRUE, FALSE, FALSE], TRUE),
    ],
)  # fmt: skip
def test_joined_conditions_are_about_one_person_or_about_anybody(
    when: dict[str, Any], each: list[Truth], somebody: Truth
) -> None:
    frames = standing({"people": PEOPLE})
    assert ask(when, frames) == each
    assert ask(when, frames, somebody=True) == [somebody]


@pytest.mark.parametrize(
    ("when", "so"),
    [
        ({"count": "person", "at_least": 3}, TRUE),
        ({"count": "person", "at_least": 4}, FALSE),
        ({"count": "person", "zone": "left"}, TRUE),
        ({"count": "person", "zone": "left", "at_most": 0}, FALSE),
        ({"count": "person", "zone": "middle", "at_most": 0}, TRUE),
        ({"count": "box", "zone": "middle"}, TRUE),
        ({"count": "box", "zone": "middle", "at_least": 2, "at_most": 3}, TRUE),
        ({"count": "box", "zone": "middle", "at_most": 1}, FALSE),
        ({"count": "box", "near": "cart", "within_m": 0.5}, TRUE),
        ({"count": "cart", "near": "box", "within_m": 0.2}, FALSE),
    ],
)
def test_counting(when: dict[str, Any], so: Truth) -> None:
    things = [(11, "box", (0.45, 0.55)), (12, "box", (0.5, 0.55)), (13, "cart", (0.48, 0.57))]
    frames = standing({"people": PEOPLE, "things": things})
    if when.get("within_m") == 0.2:
        things[2] = (13, "cart", (0.9, 0.2))
        frames = standing({"people": PEOPLE, "things": things})
    assert ask(when, frames) == [so]
    assert ask(when, frames, somebody=True) == [so]


def test_has_and_lacks_are_about_the_person_whose_box_it_is_on() -> None:
    helmet = (9, "helmet", (0.2, 0.4))  # at the head of the first
    frames = standing({"people": PEOPLE, "things": [helmet]})
    assert ask({"has": "helmet"}, frames)[:3] == [TRUE, FALSE, FALSE]
    assert ask({"lacks": "helmet"}, frames)[:3] == [FALSE, TRUE, TRUE]
    assert ask({"zone": "right", "lacks": "helmet"}, frames, somebody=True) == [TRUE]


def test_between_two_people_it_is_unknown_whose_it_is() -> None:
    people = [(1, (0.5, 0.6)), (2, (0.53, 0.6))]
    frames = standing({"people": people, "things": [(9, "helmet", (0.515, 0.4))]})
    assert ask({"has": "helmet"}, frames)[:2] == [UNKNOWN, UNKNOWN]
    assert ask({"lacks": "helmet"}, frames)[:2] == [UNKNOWN, UNKNOWN]


def test_an_object_that_was_there_a_moment_ago_may_still_be() -> None:
    seen = {"people": PEOPLE, "things": [(9, "helmet", (0.2, 0.4))]}
    assert ask({"has": "helmet"}, standing(seen, {"people": PEOPLE}))[0] == UNKNOWN
    assert ask({"has": "helmet"}, standing(seen, {"people": PEOPLE}, seconds=3))[0] == FALSE


def test_somebody_hidden_is_where_they_were_until_they_may_have_gone_farther() -> None:
    seen = {"people": PEOPLE}

    def after(seconds: int, zone: str) -> Truth:
        hidden = [observe(3 + k / 10, PEOPLE[1:]) for k in range(seconds * 10)]
        return ask({"zone": zone}, [*standing(seen, seconds=3), *hidden])[0]

    assert after(1, "left") == after(10, "left") == UNKNOWN
    assert after(1, "middle") == after(1, "right") == FALSE
    assert after(4, "middle") == UNKNOWN  # 2 m away
    assert after(4, "right") == FALSE  # 7 m
    assert after(10, "right") == UNKNOWN


def test_nobody_there_but_somebody_hidden_may_be() -> None:
    frames = [*standing({"people": PEOPLE}, seconds=3), *(observe(3 + k / 10, PEOPLE[1:]) for k in range(30))]
    assert ask({"zone": "left"}, frames, somebody=True) == [UNKNOWN]
    assert ask({"count": "person", "zone": "left", "at_most": 0}, frames) == [UNKNOWN]
    assert ask({"count": "person", "at_least": 2}, frames) == [TRUE]


def test_a_covered_zone_may_hold_what_is_not_seen() -> None:
    hook = {"hook": [(0.48, 0.5), (0.52, 0.5), (0.52, 0.55), (0.48, 0.55)]}
    before = standing({"people": [(1, MIDDLE)]})
    aside = standing({"people": [(1, LEFT)]})
    assert ask({"count": "lock", "zone": "hook"}, before, zones=hook) == [UNKNOWN]
    assert ask({"none": [{"count": "lock", "zone": "hook"}]}, before, zones=hook) == [UNKNOWN]
    assert ask({"none": [{"count": "lock", "zone": "hook"}]}, aside, zones=hook) == [TRUE]


@pytest.mark.parametrize(
    ("when", "value", "so"),
    [
        ({"equals": True}, True, TRUE),
        ({"equals": "open"}, "open", TRUE),
        ({"equals": "open"}, "shut", FALSE),
        ({"above": 3}, 3.5, TRUE),
        ({"above": 3}, 3, FALSE),
        ({"above": 3, "below": 4}, 3.5, TRUE),
        ({"below": 5}, "broken", UNKNOWN),
        ({"below": 5}, None, UNKNOWN),
    ],
)
def test_sensors(when: dict[str, Any], value: Any, so: Truth) -> None:
    sensors = {} if value is None else {"door_1": value}
    frames = standing({"sensors": sensors})
    assert ask({"sensor": "door", **when}, frames, names={"door": "door_1"}) == [so]


@pytest.mark.parametrize(
    ("reading", "so"),
    [
        (SensorValue(3.0, "rpm", 0.1), TRUE),
        (SensorValue(7.0, "rpm", 0.1), FALSE),
        (SensorValue(3.0, "rpm", 90.0, "stale", "nothing came for 90 s"), UNKNOWN),
        (SensorValue(3.0, "rpm", 90.0, "failed", "no such file"), UNKNOWN),
        (SensorValue(None, "rpm", None, "failed", "no such file"), UNKNOWN),
    ],
)
def test_a_reading_counts_by_its_value_and_only_while_it_is_good(reading: SensorValue, so: Truth) -> None:
    """As the agent gives them: a reading with unit, age and quality, of which thresholds take the value."""
    assert ask({"sensor": "spindle", "below": 5}, standing({"sensors": {"spindle": reading}})) == [so]
    opposite = {TRUE: FALSE, FALSE: TRUE, UNKNOWN: UNKNOWN}[so]
    assert ask({"sensor": "spindle", "above": 5}, standing({"sensors": {"spindle": reading}})) == [opposite]


def test_a_window_of_time() -> None:
    frames = standing({"people": PEOPLE})
    assert ask({"time": "00:00-00:00"}, frames) == [TRUE]
    assert ask({"days": ["tue"]}, frames) != ask({"days": ["mon", "wed", "thu", "fri", "sat", "sun"]}, frames)


def test_speed() -> None:
    moving = [observe(k / 10, [(1, (0.2 + 0.008 * k, 0.6)), (2, RIGHT)]) for k in range(40)]  # 1.1 m/s
    assert ask({"faster_than_mps": 0.8}, moving) == [TRUE, FALSE]
    assert ask({"slower_than_mps": 0.3}, moving) == [FALSE, TRUE]
    assert ask({"slower_than_mps": 0.3}, moving[:2]) == [UNKNOWN, UNKNOWN]


def test_crossing_a_line_in_a_direction() -> None:
    lines = {"door": [(0.5, 0), (0.5, 1)]}
    there = [observe(k / 10, [(1, (0.35 + 0.01 * k, 0.6))]) for k in range(25)]
    for direction, so in (("any", TRUE), ("backward", TRUE), ("forward", FALSE)):
        assert ask({"crosses": "door", "direction": direction}, there, lines=lines) == [so]
    later = [*there, *(observe(2.5 + k / 10, [(1, (0.6, 0.6))]) for k in range(25))]
    assert ask({"crosses": "door"}, later, lines=lines) == [FALSE]


def test_zones_and_lines_in_metres_of_the_floor() -> None:
    at = {"people": [(1, (0.2, 0.2)), (2, RIGHT)]}  # the first at 320 pixels, 2.7 m
    assert ask({"zone": "yard"}, standing(at), ground=GROUND) == [TRUE, FALSE]
    way = [observe(k / 10, [(1, (0.2 + 0.02 * k, 0.4))]) for k in range(25)]
    # On a plan, with y up, who walks along x over a line that goes up comes from its left.
    assert ask({"crosses": "gate", "direction": "forward"}, way, ground=GROUND) == [TRUE]


@pytest.mark.parametrize("fps", [2, 10, 50])
def test_held_for_so_long_over_gaps_at_any_rate(fps: int) -> None:
    def frames(seconds: float) -> list[Observation]:
        # Away for a second at 3 s: a gap.
        return [observe(k / fps, [(1, NOWHERE if 3 <= k / fps < 4 else LEFT)]) for k in range(round(seconds * fps))]

    assert ask({"any": [{"zone": "left", "for_s": 6}]}, frames(5.9)) == [FALSE]
    assert ask({"any": [{"zone": "left", "for_s": 6}]}, frames(6.6)) == [TRUE]
    assert ask({"zone": "left", "for_s": 6}, frames(6.6), somebody=True) == [TRUE]
