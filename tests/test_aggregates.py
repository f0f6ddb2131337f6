"""Attributes and attention: what is told of groups, at any frame rate, and that nothing can be worked out of a person."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from edge_agent.chains import USE_CASES, check_labels
from edge_agent.config import Config, UseCasesConfig
from edge_agent.config_classifiers import ClassifierConfig
from edge_agent.config_file import load
from edge_agent.config_overlay import findings
from edge_agent.detect.manifest import Model
from edge_agent.errors import ConfigError
from edge_agent.pipeline import UseCase
from edge_agent.sentences import sentence
from edge_agent.types import Event, Look, Metric, Output, uuid7_factory
from edge_agent.usecases.aggregates import SMALL
from edge_agent.usecases.attributes import _held
from edge_agent.usecases.scene import Places
from tests.scene_fixtures import HEIGHT, MIDDLE, SIZE, Person, Place, Thing, box, camera, observe

JUDGES = {"front": ClassifierConfig(model="head"), "helmet": ClassifierConfig(model="head")}
BAG = {"zone": "middle", "has": {"bag": ["bag"]}, "interval_s": 60, "min_people": 10}
SAYS = {"rule", "zone", "began", "ended", "observed_s", "people"}
WALK_S = 10.0


def case(name: str, **rule: Any) -> UseCase:
    section = {"enabled": True, "rules": [{"name": "it", **rule}]}
    ((_, made),) = UseCasesConfig.model_validate({name: section}).at_work()
    at = camera()
    return USE_CASES[name](made, at, uuid7_factory(random.Random(1)), Places(at, JUDGES))


def events(told: Sequence[Output]) -> list[Event]:
    return [one for one in told if isinstance(one, Event)]


def minutes(told: Sequence[Output]) -> list[Metric]:
    return [one for one in told if isinstance(one, Metric)]


# ---- attributes


def walkers(begins: Sequence[float], bags: Sequence[bool], trolley: bool = False) -> Callable[[float], Any]:
    """People who walk from the left border to the right one through the zone, each in a lane and with a track of their own."""

    def at(t: float) -> tuple[list[Person], list[Thing]]:
        people: list[Person] = []
        things: list[Thing] = []
        for k, (begin, bag) in enumerate(zip(begins, bags, strict=True)):
            if begin <= t <= begin + WALK_S:
                x, y = 0.026 + 0.948 * (t - begin) / WALK_S, 0.52 + 0.02 * (k % 9)
                people.append((2 * k + 1, (x, y)))
                if bag:
                    off = (0.0, HEIGHT / 2 / SIZE[1]) if not trolley else (0.06, 0.02)
                    things.append((2 * k + 2, "bag", (x + off[0], y - off[1])))
        return people, things

    return at


def walk(use_case: UseCase, at: Callable[[float], Any], seconds: float, fps: float = 4) -> list[Output]:
    told: list[Output] = []
    for k in range(round(seconds * fps)):
        told += use_case.update(observe(k / fps, *at(k / fps)))
    return told


def crowd(count: int, bags: int, every_s: float = 3.0) -> Callable[[float], Any]:
    """Somebody every few seconds; the first ones with a bag."""
    return walkers([every_s * k for k in range(count)], [k < bags for k in range(count)])


@pytest.mark.parametrize("fps", [2, 7])
def test_everybody_counts_once_at_any_frame_rate(fps: int) -> None:
    attributes = case("attributes", **BAG)
    told = walk(attributes, crowd(45, 18), 150, fps)
    told += attributes.close("end_of_file")
    found = [one.data for one in events(told)]
    assert len(found) >= 2 and sum(one["people"] for one in found) == 45
    assert all(one["people"] >= 10 for one in found)
    assert {one.type for one in events(told)} == {"edge_agent.attributes.counts"}
    assert sum(one["observed_s"] for one in found) == pytest.approx(150, abs=1)
    # The first interval ended with bags only, the last one without any.
    assert found[0]["attributes"]["bag"] == {"yes": None, "no": None, "unknown": 0}


def test_counts_are_right_and_say_nothing_of_anybody() -> None:
    begins = [42 + 1.2 * k for k in range(30)]
    told = walk(case("attributes", **BAG), walkers(begins, [k % 3 == 0 for k in range(30)]), 105)
    (event,) = events(told)
    assert set(event.data) == SAYS | {"attributes"}
    assert event.data["people"] == 30
    assert event.data["attributes"] == {"bag": {"yes": 10, "no": 20, "unknown": 0}}
    assert (event.data["began"], event.data["ended"]) == ("2023-11-14T22:13:20.000Z", "2023-11-14T22:15:00.000Z")
    assert "track" not in json.dumps(event.data)


def test_what_is_pushed_beside_somebody_is_near_them() -> None:
    rule = {**BAG, "has": {}, "near": {"trolley": ["bag"]}, "within_m": 0.5}
    begins = [4.0 * k for k in range(20)]  # far enough apart that nobody is near another's
    told = walk(case("attributes", **rule), walkers(begins, [k % 2 == 0 for k in range(20)], trolley=True), 165)
    found = [one.data for one in events(told)]
    assert sum(one["people"] for one in found) == 20
    assert found[0]["attributes"]["trolley"] == {"yes": 10, "no": 10, "unknown": 0}


def test_too_few_are_told_later_with_others() -> None:
    attributes = case("attributes", **BAG)
    told = walk(attributes, walkers([0, 3, 6, *(100 + 3 * k for k in range(9))], [False] * 12), 170)
    told += attributes.close("shutdown")
    (event,) = events(told)
    assert event.data["people"] == 12
    assert (event.data["began"], event.data["ended"]) == ("2023-11-14T22:13:20.000Z", "2023-11-14T22:16:00.000Z")
    assert sum(one.data["rules"]["it"]["kept_back"] for one in minutes(told)) == 2
    assert sum(one.data["rules"]["it"]["told"] for one in minutes(told)) == 1


def test_too_few_at_the_end_are_never_told() -> None:
    attributes = case("attributes", **BAG)
    told = walk(attributes, crowd(9, 4), 50)
    assert events([*told, *attributes.close("shutdown")]) == []


def test_a_gap_ends_visits_and_loses_nobody() -> None:
    attributes = case("attributes", **BAG)
    at = crowd(12, 0)
    told = walk(attributes, at, 30)
    told += attributes.update(observe(36, *at(36)))
    for k in range(4 * 36, 4 * 105):
        told += attributes.update(observe(k / 4, *at(k / 4)))
    told += attributes.close("end_of_file")
    # One went through while nobody looked, and one was seen for a moment after.
    assert [one.data["people"] for one in events(told)] == [10]


def test_a_moment_in_the_zone_is_no_visit_and_half_seen_is_unknown() -> None:
    rule = {**BAG, "zone": None, "has": {"helmet": ["helmet"]}}
    attributes = case("attributes", **rule)
    told: list[Output] = []
    for k in range(200):
        t = k / 4
        people: list[Person] = [(i, (0.05 + 0.07 * i, 0.9)) for i in range(1, 13)] if t < 30 else []
        ghost: list[Person] = [(99, MIDDLE)] if 10 <= t < 10.6 else []
        seen = observe(t, people + ghost)
        # Of six the votes contradict each other, the others have none.
        looks = [Look(_box(at), {"helmet": 0.9 if k % 4 else 0.1}) for _, at in people[:6] if k % 2]
        object.__setattr__(seen, "attributes", looks)
        told += attributes.update(seen)
    told += attributes.close("end_of_file")
    (event,) = events(told)
    assert event.data["people"] == 12
    assert event.data["attributes"]["helmet"]["unknown"] >= 6


def test_no_small_number_is_told_nor_one_whose_rest_is_small() -> None:
    for yes in range(25):
        for no in range(25):
            held = _held(yes, no, 3)
            told = min(yes, no) >= SMALL
            assert held == {"yes": yes if told else None, "no": no if told else None, "unknown": 3}


# ---- attention


def _box(at: Place) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box(at)
    return x1, y1, x2, y2


def seats(number: int) -> list[Person]:
    return [(i + 1, (0.06 + 0.07 * (i % 13), 0.5 + 0.45 * (i // 13))) for i in range(number)]


FRONT = {"facing": ["front"], "interval_s": 60, "min_people": 10, "min_counted_s": 60}
Sit = Callable[[float], Sequence[Person]]
Faces = Callable[[int, float], float]


def sit(use_case: UseCase, at: Sit, faces: Faces, seconds: float, fps: float = 1, begin: float = 0) -> list[Output]:
    """People who are looked at in every frame; ``faces``: what the classifier says of a track."""
    told: list[Output] = []
    for k in range(round(begin * fps), round((begin + seconds) * fps)):
        t = k / fps
        people = at(t)
        seen = observe(t, people)
        looks = [Look(_box(place), {"front": faces(ident, t)}) for ident, place in people]
        object.__setattr__(seen, "attributes", looks)
        told += use_case.update(seen)
    return told


@pytest.mark.parametrize(("fps", "facing", "share"), [(2, 8, 0.4), (5, 8, 0.4), (2, 0, 0.1), (2, 20, 0.9)])
def test_the_share_of_a_group_in_steps_and_never_all_or_none(fps: int, facing: int, share: float) -> None:
    told = sit(case("attention", **FRONT), lambda _: seats(20), lambda i, _: 0.95 if i <= facing else 0.05, 105, fps)
    (event,) = events(told)
    assert event.type == "edge_agent.attention.share"
    assert set(event.data) == SAYS | {"facing", "counted_s", "share"}
    assert (event.data["share"], event.data["people"]) == (share, 20)
    assert 60 <= event.data["counted_s"] <= 100


@pytest.mark.parametrize("unsure", [0.5, None])
def test_only_time_with_enough_who_can_be_judged_counts(unsure: float | None) -> None:
    """Of 14 people 5 cannot be judged, or 5 are not there."""
    there = seats(14) if unsure else seats(9)
    attention = case("attention", **FRONT)
    told = sit(attention, lambda _: there, lambda i, _: unsure if unsure and i > 9 else 0.95, 200)
    told += attention.close("shutdown")
    assert events(told) == []
    assert sum(one.data["rules"]["it"]["kept_back"] for one in minutes(told)) == 3


def test_too_little_time_goes_on_with_the_next_interval() -> None:
    rule = {**FRONT, "min_counted_s": 120}
    (event,) = events(sit(case("attention", **rule), lambda _: seats(12), lambda i, _: 0.95 if i % 2 else 0.05, 190))
    assert event.data["counted_s"] == pytest.approx(155, abs=5) and event.data["share"] == 0.5


def test_a_group_of_n_and_the_same_without_one_are_never_both_told() -> None:
    """Of 15 the one who faces it leaves, or one who does not: from outside both look the same."""
    for who in (1, 15):
        attention = case("attention", **FRONT)
        left = [one for one in seats(15) if one[0] != who]
        at: Sit = lambda t, left=left: seats(15) if t < 101 else left  # type: ignore[misc]  # noqa: E731
        told = sit(attention, at, lambda i, _: 0.95 if i <= 7 else 0.05, 290)
        (event,) = events([*told, *attention.close("shutdown")])
        assert event.data["share"] == 0.5


def test_no_two_told_groups_differ_by_a_few() -> None:
    """Groups that change at random: those behind what was told are the same or at least five apart."""
    rng, fewest = random.Random(7), 0
    for _ in range(8):
        attention = case("attention", **FRONT)
        groups: list[set[int]] = []
        present = set(range(1, 19))
        for interval in range(7):
            now = [one for one in seats(24) if one[0] in present]
            begin = 0 if interval == 0 else 40 + 60 * (interval - 1)
            length = 40 if interval == 0 else 60
            told = sit(attention, lambda _, now=now: now, lambda i, _: 0.95 if i % 2 else 0.05, length, 0.5, begin)  # type: ignore[misc]
            if events(told):
                (rule,) = attention._rules  # type: ignore[attr-defined]
                groups.append(rule._told[-1])
            few = rng.sample(range(1, 25), rng.choice([0, 1, 2, 3, 12]))
            present = present.symmetric_difference(few)
        apart = [len(a ^ b) for a, b in combinations(groups, 2)]
        assert all(not change or change >= SMALL for change in apart), apart
        fewest += len(groups)
    assert fewest > 10


def test_attention_is_off_unless_it_is_switched_on_on_the_spot() -> None:
    section = UseCasesConfig.model_validate({"attention": {"rules": [{"name": "a", "facing": ["front"]}]}})
    assert list(section.at_work()) == []
    patch = {"use_cases": {"attention": {"enabled": True}}}
    assert [path for path, _ in findings(patch, ["cam"])] == [("use_cases", "attention", "enabled")]


# ---- configuration

CAMERAS = """cameras:
  - {id: hall, source: 0,
     zones: {a: [[0, 0], [0.5, 0], [0.5, 1], [0, 1]], b: [[0.5, 0], [1, 0], [1, 1], [0.5, 1]], c: [[0.4, 0.1], [0.6, 0.1], [0.6, 0.9]]}}
"""


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        (
            "[{name: x, zone: a, has: {bag: [bag]}}, {name: y, zone: c, has: {bag: [bag]}}]",
            "use_cases.attributes.rules[1].zone: sees people whom rules[0] sees too, on camera hall: the difference of the two "
            "would be about few; take zones that are apart",
        ),
        (
            "[{name: x, zone: a, has: {bag: [bag]}}, {name: y, has: {bag: [bag]}}]",
            "use_cases.attributes.rules[1]: sees people whom rules[0] sees too",
        ),
        (
            "[{name: x, has: {bag: [bag, sack], luggage: [sack]}}]",
            "use_cases.attributes.rules[0].has.luggage[0]: given 'sack', which bag has already",
        ),
        (
            "[{name: x, has: {bag: [bag]}, near: {bag: [sack]}}]",
            "near.bag: given 'bag', which is already a name in has",
        ),
        ("[{name: x}]", "use_cases.attributes.rules[0]: asks for nothing: name attributes in has or near"),
        ("[{name: x, has: {bag: [bag]}, within_m: 2}]", "within_m: given without near, which it belongs to"),
        ("[{name: x, has: {bag: [bag]}, min_people: 9}]", "min_people: given 9; must be at least 10"),
        ("[{name: x, has: {bag: [bag]}, interval_s: 10}]", "interval_s: given 10; must be at least 60"),
        ("[{name: x, zone: d, has: {bag: [bag]}}]", "zone: given 'd', which camera hall does not have"),
    ],
)
def test_a_rule_from_which_something_could_be_worked_out_is_refused(rules: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"{CAMERAS}use_cases:\n  attributes: {{rules: {rules}}}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert any(problem in found for found in refused.value.problems), refused.value.problems


def test_rules_that_see_different_people_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    rules = "[{name: x, zone: a, has: {bag: [bag]}}, {name: y, zone: b, has: {bag: [bag]}}]"
    path.write_text(f"{CAMERAS}use_cases:\n  attributes: {{rules: {rules}}}\n", encoding="utf-8")
    assert load(path).use_cases.attributes is not None


def test_labels_that_no_model_knows_are_refused(bundled: Model, root: Path) -> None:
    raw = {
        "cameras": [{"id": "a", "source": "b"}],
        "models_dir": str(root / "models"),
        "use_cases": {
            "attributes": {"rules": [{"name": "x", "has": {"bag": ["handbag"]}, "near": {"child": ["child"]}}]},
            "attention": {"enabled": True, "rules": [{"name": "x", "facing": ["front"]}]},
        },
    }
    with pytest.raises(ConfigError) as refused:
        check_labels(Config.model_validate_json(json.dumps(raw)), bundled.manifest)
    found = [problem.partition(", which model")[0] for problem in refused.value.problems]
    assert found == [
        "use_cases.attributes.rules[0].has.bag[0]: given 'handbag'",
        "use_cases.attributes.rules[0].near.child[0]: given 'child'",
        "use_cases.attention.rules[0].facing[0]: given 'front'",
    ]


def test_sentences() -> None:
    held = {"bag": {"yes": 12, "no": 20, "unknown": 3}, "child": {"yes": None, "no": None, "unknown": 0}}
    counts = {"type": "edge_agent.attributes.counts", "data": {"rule": "door", "people": 35, "attributes": held}}
    assert sentence(counts) == "door: 35 people: bag 12, child not told"
    share = {"rule": "hall", "people": 25, "share": 0.6, "counted_s": 540.0}
    said = sentence({"type": "edge_agent.attention.share", "data": share})
    assert said == "hall: about 60% of about 25 people faced it over 9 min 0 s"
