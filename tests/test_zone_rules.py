"""Occupancy, line count, intrusion and loitering: scripted scenes, at any frame rate, with gaps; configuration; replay; a crash."""

from __future__ import annotations

import json
import random
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.real_zones import compare, recorded
from benchmarks.sop_scenes import Faults
from benchmarks.use_cases import measure
from benchmarks.zones_score import GOALS, met
from benchmarks.zones_score import run as score
from edge_agent import cli
from edge_agent.chains import USE_CASES, build_chain, check_labels
from edge_agent.config import Config, UseCasesConfig
from edge_agent.config_file import load
from edge_agent.detect.manifest import Model
from edge_agent.errors import ConfigError
from edge_agent.pipeline import UseCase
from edge_agent.sentences import sentence
from edge_agent.types import Event, Metric, Output, rfc3339, uuid7_factory
from edge_agent.usecases.scene import Places
from tests.agent_process import RunningAgent, run_agent, write_config
from tests.scene_fixtures import LEFT, MIDDLE, NOWHERE, RIGHT, START, Person, Place, camera, observe
from tests.test_run import stored

Way = Callable[[float], Place | None]
LINES = {"door": [[0.5, 0.3], [0.5, 0.9]]}
"""As seen from its first point, its left is at the right of the picture: forward goes to the left of the picture."""


def case(name: str, rule: dict[str, Any], **section: Any) -> UseCase:
    config = UseCasesConfig.model_validate({name: {"rules": [{"name": "it", **rule}], **section}})
    ((_, made),) = config.at_work()
    at = camera(lines=LINES)
    return USE_CASES[name](made, at, uuid7_factory(random.Random(1)), Places(at))


def play(
    use_case: UseCase, people: Sequence[Way], seconds: float, fps: float = 5, gaps: Sequence[float] = ()
) -> list[Output]:
    """All that it tells; ``gaps``: seconds after which no frame comes for 1.5 s."""
    told: list[Output] = []
    for k in range(round(seconds * fps)):
        t = k / fps
        if any(gap < t < gap + 1.5 for gap in gaps):
            continue
        told += use_case.update(observe(t, there(people, t)))
    return told


def there(people: Sequence[Way], t: float) -> list[Person]:
    return [(i, at) for i, way in enumerate(people, 1) if (at := way(t)) is not None]


def events(told: Sequence[Output], phase: str | None = "any") -> list[Event]:
    return [one for one in told if isinstance(one, Event) and phase in ("any", one.phase)]


def minutes(told: Sequence[Output]) -> list[Metric]:
    return [one for one in told if isinstance(one, Metric)]


def during(begin: float, end: float, at: Place, other: Place | None = NOWHERE) -> Way:
    return lambda t: at if begin <= t < end else other


def path(*points: tuple[float, float]) -> Way:
    """Somebody who walks along x (fractions) as given by (seconds, x), and is not in view before and after."""

    def where(t: float) -> Place | None:
        for (t0, x0), (t1, x1) in pairwise(points):
            if t0 <= t <= t1:
                return x0 + (x1 - x0) * (t - t0) / (t1 - t0), 0.6
        return None

    return where


# ---- occupancy


@pytest.mark.parametrize("fps", [2, 7, 60])
def test_too_many_from_start_to_end(fps: int) -> None:
    occupancy = case("occupancy", {"zone": "left", "capacity": 1, "update_at_s": [10]})
    told = play(occupancy, [during(0, 99, LEFT), during(5, 25, LEFT)], 40, fps)
    started, updated, ended = events(told)
    assert [e.type.rpartition("over_capacity.")[2] for e in (started, updated, ended)] == [
        "started",
        "updated",
        "ended",
    ]
    assert started.episode == updated.episode == ended.episode and len({e.id for e in (started, updated, ended)}) == 3
    assert started.utc == pytest.approx(START + 5, abs=1 / fps)
    assert started.data["duration_s"] == pytest.approx(3, abs=1.1 / fps)
    assert {**started.data, "started": "", "duration_s": 0} == {
        "rule": "it", "zone": "left", "capacity": 1, "people": 2, "people_max": 2,
        "started": "", "duration_s": 0, "ended": None,
    }  # fmt: skip
    assert updated.data["reason"] == "duration" and updated.data["duration_s"] == pytest.approx(10, abs=1.1 / fps)
    assert ended.data["reason"] == "over" and ended.data["ended"] == rfc3339(ended.utc)
    assert ended.data["duration_s"] == pytest.approx(20, abs=2.1 / fps)
    assert occupancy.open_episodes == 0


def test_a_moment_of_too_many_is_none_and_a_moment_less_ends_none() -> None:
    occupancy = case("occupancy", {"zone": "left", "capacity": 0})
    assert events(play(occupancy, [during(1, 3.5, LEFT)], 12)) == []
    told = play(case("occupancy", {"zone": "left", "capacity": 0}), [lambda t: NOWHERE if 8 < t < 9 else LEFT], 20)
    assert [e.phase for e in events(told)] == ["started"]


def test_whoever_is_hidden_for_a_moment_is_still_counted_and_under_a_new_id_only_once() -> None:
    occupancy = case("occupancy", {"zone": "left"})
    hidden: Way = lambda t: None if 20 < t < 21.5 or t >= 40 else LEFT  # noqa: E731
    again: Way = lambda t: LEFT if t >= 40.5 else None  # noqa: E731
    told = [*play(occupancy, [hidden, again], 60), *occupancy.close("end_of_file")]
    rule = {key: [m.data["rules"]["it"][key] for m in minutes(told)] for key in ("people_mean", "people_max")}
    assert max(rule["people_max"]) == 1
    assert rule["people_mean"] == pytest.approx([1.0] * len(minutes(told)), abs=0.02)


def test_the_doors_keep_the_balance_of_a_room_that_is_not_seen() -> None:
    doors = [{"line": "door", "inward": "forward"}]
    occupancy = case("occupancy", {"doors": doors, "start_count": 1, "capacity": 2, "min_duration_s": 0.5})
    ways = [path((1, 0.8), (6, 0.2)), path((8, 0.8), (13, 0.2)), path((15, 0.2), (20, 0.8)), path((22, 0.2), (27, 0.8))]
    told = play(occupancy, ways, 40)
    assert [e.phase for e in events(told)] == ["started", "ended"]
    assert events(told)[0].data["people"] == 3 and events(told)[0].data["zone"] is None
    told += occupancy.close("end_of_file")
    rules = [m.data["rules"]["it"] for m in minutes(told)]
    assert (sum(r["came"] for r in rules), sum(r["went"] for r in rules)) == (2, 2)
    assert max(r["people_max"] for r in rules) == 3


def test_a_balance_is_never_below_nobody() -> None:
    doors = [{"line": "door", "inward": "backward"}]
    occupancy = case("occupancy", {"doors": doors})
    told = play(occupancy, [path((1, 0.8), (6, 0.2)), path((8, 0.2), (13, 0.8))], 20)
    told += occupancy.close("end_of_file")
    assert max(m.data["rules"]["it"]["people_max"] for m in minutes(told)) == 1


# ---- lines


@pytest.mark.parametrize("fps", [2, 7, 60])
@pytest.mark.parametrize("gaps", [(), (2.5,)])
def test_crossings_by_direction_once_each(fps: int, gaps: tuple[float, ...]) -> None:
    names = {"forward": "in", "backward": "out"}
    told = play(case("line_count", {"line": "door", **names}), [path((1, 0.7), (5, 0.3), (9, 0.7))], 12, fps, gaps)
    first, second = events(told)
    assert [e.data["direction"] for e in (first, second)] == ["in", "out"]
    assert second.data["counts"] == {"in": 1, "out": 1}
    assert first.phase is None and first.episode == first.id
    assert first.utc == pytest.approx(START + 3.2, abs=1.8 if gaps else 0.6)


def test_dithering_on_the_line_counts_once_or_not_at_all() -> None:
    swing = [(2 + k * 0.5, 0.505 if k % 2 else 0.495) for k in range(20)]
    through = path((0, 0.7), *swing, (14, 0.3))
    back = path((0, 0.7), *swing, (14, 0.7))
    assert len(events(play(case("line_count", {"line": "door"}), [through], 16, 15))) == 1
    assert events(play(case("line_count", {"line": "door"}), [back], 16, 15)) == []


def test_whoever_vanishes_behind_the_line_has_crossed_it() -> None:
    told = play(case("line_count", {"line": "door"}), [path((0, 0.7), (5, 0.497))], 12, 15)
    assert [e.data["direction"] for e in events(told)] == ["forward"]


def test_crossings_without_events_are_in_the_minutes() -> None:
    lines = case("line_count", {"line": "door", "events": False})
    told = [*play(lines, [path((1, 0.7), (5, 0.3), (9, 0.7))], 12), *lines.close("end_of_file")]
    assert events(told) == []
    assert sum(m.data["rules"]["it"]["forward"] for m in minutes(told)) == 1
    assert sum(m.observed_s for m in minutes(told)) == pytest.approx(12, abs=0.5)


def test_the_rate_cap_holds_events_back_and_counts_them() -> None:
    lines = case("line_count", {"line": "door"}, max_events_per_minute=1)
    ways = [path((1, 0.7), (5, 0.3), (9, 0.7), (13, 0.3)), path((70, 0.7), (74, 0.3))]
    told = [*play(lines, ways, 80), *lines.close("end_of_file")]
    first, second = events(told)
    assert second.data["held_back"] == 2 and "held_back" not in first.data
    assert sum(m.data["events_held_back"] for m in minutes(told)) == 2
    assert sum(m.data["rules"]["it"]["forward"] for m in minutes(told)) == 3


# ---- intrusion


@pytest.mark.parametrize("fps", [2, 60])
def test_an_intrusion_grows_and_ends(fps: int) -> None:
    intrusion = case("intrusion", {"zone": "middle"})
    told = play(intrusion, [during(5, 20, MIDDLE), during(10, 15, MIDDLE)], 30, fps)
    started, grown, ended = events(told)
    assert started.utc == pytest.approx(START + 5, abs=1 / fps) and started.data["track_ids"] == [1]
    assert grown.data["reason"] == "growth" and grown.data["track_ids"] == [1, 2]
    assert ended.data["people_max"] == 2 and ended.data["duration_s"] == pytest.approx(15, abs=2.1 / fps)


def test_somebody_may_be_there_outside_of_the_hours() -> None:
    """The scene begins 20 s into a minute; nobody may be there until that is over."""
    over = datetime.fromtimestamp(START + 60, timezone.utc).astimezone()
    intrusion = case("intrusion", {"zone": "left", "time": f"{over - timedelta(hours=1):%H:%M}-{over:%H:%M}"})
    told = play(intrusion, [during(0, 99, LEFT)], 60)
    started, ended = events(told)
    assert started.utc == START and ended.data["reason"] == "schedule"
    assert ended.utc == pytest.approx(START + 40, abs=0.3)
    assert intrusion.open_episodes == 0


def test_no_frame_for_long_ends_what_is_open() -> None:
    intrusion = case("intrusion", {"zone": "left"})
    told = play(intrusion, [during(0, 99, LEFT)], 10)
    told += intrusion.update(observe(20, [(1, LEFT)]))
    _, ended = events(told)
    assert ended.data["reason"] == "camera_gap" and ended.utc == pytest.approx(START + 10, abs=0.3)
    told += intrusion.close("shutdown")
    assert sum(m.observed_s for m in minutes(told)) == pytest.approx(10, abs=0.3)


@pytest.mark.parametrize("name", ["occupancy", "intrusion", "loitering"])
def test_what_is_open_at_the_end_is_ended(name: str) -> None:
    rule = {"occupancy": {"capacity": 0}, "loitering": {"dwell_s": 5}}.get(name, {})
    use_case = case(name, {"zone": "left", **rule})
    told = play(use_case, [during(0, 99, LEFT)], 10)
    assert use_case.open_episodes == 1
    told += use_case.close("shutdown")
    assert [e.phase for e in events(told)] == ["started", "ended"] and events(told)[1].data["reason"] == "shutdown"
    assert use_case.open_episodes == 0 and minutes(told)
    json.dumps([e.data for e in events(told)], allow_nan=False)


# ---- loitering


@pytest.mark.parametrize("fps", [2, 60])
def test_whoever_stays_for_too_long_is_told_once_each(fps: int) -> None:
    loitering = case("loitering", {"zone": "right", "dwell_s": 10, "update_at_s": [20]})
    told = play(loitering, [during(2, 30, (0.75, 0.6)), during(5, 12, (0.85, 0.6))], 40, fps)
    started, updated, ended = events(told)
    assert {e.data["track_id"] for e in (started, updated, ended)} == {1}
    assert started.utc == pytest.approx(START + 2, abs=1 / fps)
    assert started.data["duration_s"] == pytest.approx(10, abs=1.1 / fps)
    assert ended.data["duration_s"] == pytest.approx(28, abs=2.1 / fps) and ended.data["reason"] == "over"


def test_a_stay_goes_on_out_of_sight_and_says_for_how_long() -> None:
    loitering = case("loitering", {"zone": "right", "dwell_s": 15})
    told = play(loitering, [lambda t: None if 5 < t < 12 else RIGHT], 30)
    (started,) = events(told)
    assert started.data["unseen_s"] == pytest.approx(7, abs=0.5) and started.utc == START


def test_a_step_outside_ends_no_stay_and_a_walk_does() -> None:
    out: Way = lambda t: NOWHERE if 8 < t < 10 else RIGHT  # noqa: E731
    assert len(events(play(case("loitering", {"zone": "right", "dwell_s": 15}), [out], 20))) == 1
    longer: Way = lambda t: NOWHERE if 8 < t < 13 else RIGHT  # noqa: E731
    assert events(play(case("loitering", {"zone": "right", "dwell_s": 15}), [longer], 20)) == []


# ---- many scenes


def test_scenes_as_they_are() -> None:
    """Frames late and missing. ``python -m benchmarks.zones_score`` plays thousands, at 2 to 60 frames a second."""
    figures = score(10, 11, None, fps=4.0, size=(1280, 720)).figures()
    assert met(figures, GOALS["clean"]), figures
    assert figures["people_off"] < 0.05 and figures["balance_right"] > 0.9, figures


@pytest.mark.slow
def test_scenes_with_the_faults_of_detector_and_tracker() -> None:
    figures = score(12, 5, Faults(), fps=7.0, size=(1280, 720)).figures()
    assert met(figures, GOALS["faults"]), figures


# ---- configuration

CAMERAS = """cameras:
  - {id: till, source: 0, zones: {queue: [[0, 0], [1, 0], [1, 1]]}, lines: {door: [[0, 0], [1, 1]]}}
  - {id: yard, source: 1}
"""


@pytest.mark.parametrize(
    ("use_cases", "problem"),
    [
        (
            "occupancy: {rules: [{name: a, zone: queu, cameras: [till]}]}",
            "5:39: use_cases.occupancy.rules[0].zone: given 'queu', which camera till does not have; zones there are: queue; "
            "did you mean queue?",
        ),
        (
            "intrusion: {rules: [{name: a, zone: queue}]}",
            "5:39: use_cases.intrusion.rules[0].zone: given 'queue', which camera yard does not have; zones there are: queue",
        ),
        (
            "line_count: {rules: [{name: a, line: dor, cameras: [till]}]}",
            "5:40: use_cases.line_count.rules[0].line: given 'dor', which camera till does not have; lines there are: door; "
            "did you mean door?",
        ),
        (
            "line_count: {rules: [{name: a, line: door, cameras: [yard]}]}",
            "5:40: use_cases.line_count.rules[0].line: given 'door', which camera yard does not have; it has no lines",
        ),
        (
            "line_count: {rules: [{name: a, line: door, forward: in, backward: in, cameras: [till]}]}",
            "5:69: use_cases.line_count.rules[0].backward: given 'in', which forward is called too; names must differ",
        ),
        (
            "loitering: {rules: [{name: a, cameras: [tilt]}, {name: a}]}",
            "5:43: use_cases.loitering.rules[0].cameras[0]: given 'tilt', no such camera; there are: till, yard; did you mean till?",
        ),
        (
            "loitering: {rules: [{name: a}, {name: a}]}",
            "5:41: use_cases.loitering.rules[1].name: given 'a', which is already the name of rules[0]; names must differ",
        ),
        (
            "occupancy: {rules: [{name: a, doors: [{line: dorr}], cameras: [till]}]}",
            "5:48: use_cases.occupancy.rules[0].doors[0].line: given 'dorr', which camera till does not have; "
            "lines there are: door; did you mean door?",
        ),
        (
            "occupancy: {rules: [{name: a, zone: queue, doors: [{line: door}], cameras: [till]}]}",
            "5:39: use_cases.occupancy.rules[0].zone: given beside doors; people are counted either in a zone or by the doors",
        ),
        (
            "occupancy: {rules: [{name: a, start_count: 3}]}",
            "5:46: use_cases.occupancy.rules[0].start_count: given without doors, which it is the start of the balance of",
        ),
        (
            "loitering: {rules: [{name: a, dwell_s: 0}]}",
            "5:42: use_cases.loitering.rules[0].dwell_s: given 0; must be above 0",
        ),
        (
            "intrusion: {rules: [{name: a}]}",
            "use_cases.intrusion.rules[0].zone: missing",
        ),
        (
            "intrusion: {rules: [{name: a, zone: queue, cameras: [till], time: 8-17}]}",
            "use_cases.intrusion.rules[0].time: given '8-17'",
        ),
    ],
)
def test_a_rule_that_cannot_be_is_told_at_its_place(use_cases: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"{CAMERAS}use_cases:\n  {use_cases}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert any(problem in found for found in refused.value.problems), refused.value.problems


def test_a_rule_whose_label_no_model_knows_is_refused(bundled: Model) -> None:
    raw = {
        "cameras": [{"id": "a", "source": "b"}],
        "use_cases": {"loitering": {"rules": [{"name": "x", "label": "dog"}]}},
    }
    with pytest.raises(ConfigError) as refused:
        check_labels(Config.model_validate(raw), bundled.manifest)
    assert "use_cases.loitering.rules[0].label: given 'dog', which model" in refused.value.problems[0]


def test_a_place_that_only_another_camera_has_is_refused_where_it_is_built() -> None:
    rule = {"name": "x", "line": "door"}
    raw = {"cameras": [{"id": "a", "source": "b"}], "use_cases": {"line_count": {"rules": [rule]}}}
    config = Config.model_validate(raw)
    with pytest.raises(ConfigError, match="camera a has no zone or line 'door'"):
        build_chain(config, config.cameras[0], new_id=uuid7_factory(), emit=lambda _: None)


def test_rules_run_only_on_their_cameras() -> None:
    rules = [{"name": "x", "cameras": ["a"]}]
    raw = {
        "cameras": [{"id": "a", "source": "b"}, {"id": "c", "source": "d"}],
        "use_cases": {"loitering": {"rules": rules}, "occupancy": {"enabled": False, "rules": rules}},
    }
    config = Config.model_validate(raw)
    assert [name for name, _ in config.use_cases.at_work()] == ["loitering"]
    assert [section.runs_on(name) for name in "ac" for _, section in config.use_cases.at_work()] == [True, False]


# ---- in words


OVER = {"rule": "hall", "people": 12, "people_max": 13, "capacity": 10, "duration_s": 61.0}
THERE = {"rule": "yard", "people": 1, "people_max": 2, "duration_s": 60.0, "reason": "schedule"}
STAY = {"rule": "till", "track_id": 7, "duration_s": 90.0, "reason": "over"}


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        ("occupancy.over_capacity.started", OVER, "hall: 12 people, 10 may be there"),
        ("occupancy.over_capacity.ended", OVER, "hall: no longer too many after 61 s, at most 13"),
        (
            "line_count.crossing",
            {"rule": "kerb", "direction": "in", "counts": {"in": 3, "out": 1}},
            "kerb: in (in 3, out 1)",
        ),
        ("intrusion.presence.started", THERE, "yard: 1 person for 60 s"),
        ("intrusion.presence.updated", THERE | {"people": 2}, "yard: still 2 people for 60 s"),
        ("intrusion.presence.ended", THERE, "yard: over after 60 s (schedule)"),
        ("loitering.stay.started", STAY, "till: person 7 for 90 s"),
        ("loitering.stay.ended", STAY, "till: person 7 left after 90 s"),
    ],
)
def test_sentences(kind: str, data: dict[str, Any], said: str) -> None:
    assert sentence({"type": f"edge_agent.{kind}", "data": data}) == said


# ---- the real video, a recording and a crash

RULES = {
    "social_distancing": None,
    "occupancy": {"rules": [{"name": "plaza", "zone": "plaza", "capacity": 0, "min_duration_s": 0.5}]},
    "line_count": {"rules": [{"name": "kerb", "line": "kerb"}]},
    "intrusion": {"rules": [{"name": "plaza", "zone": "plaza", "min_duration_s": 0.5}]},
    "loitering": {"rules": [{"name": "plaza", "zone": "plaza", "dwell_s": 3}]},
}


def with_line(config: Path) -> Path:
    raw = yaml.safe_load(config.read_text(encoding="utf-8"))
    raw["cameras"][0]["lines"] = {"kerb": [[0.0, 0.5], [1.0, 0.5]]}
    raw["use_cases"] = {name: section for name, section in RULES.items() if section}
    config.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return config


@pytest.mark.slow
def test_on_the_video_a_recording_replays_to_the_same_and_a_crash_ends_what_was_open(
    root: Path, vtest_video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, record = with_line(write_config(root, tmp_path)), tmp_path / "out.jsonl"
    done = run_agent(
        "run", "-c", config, "--no-mqtt", "--max-frames", "90", "--record", record, "--json", timeout_s=160
    )
    assert done.returncode == 0, done.stderr[-2000:]
    counted = json.loads(done.stdout)["events"]
    assert {"occupancy", "intrusion", "loitering"} <= {kind.split(".")[1] for kind in counted}
    assert cli.main(["replay", str(record), "-c", str(config), "--json"]) == 0
    lines = map(json.loads, capsys.readouterr().out.splitlines())
    again = Counter(line["type"] for line in lines if "type" in line)
    assert again == {kind: count for kind, count in counted.items() if ".device." not in kind}

    with RunningAgent(tmp_path, "-c", config, "--no-mqtt", "--realtime") as agent:
        agent.wait_for_log("plaza: person")
        agent.end(signal.SIGKILL)
    assert run_agent("run", "-c", config, "--no-mqtt", "--max-frames", "3").returncode == 0
    found = [one for one in stored(tmp_path) if one.get("type", "").endswith((".started", ".ended"))]
    started = {one["subject"] for one in found if one["type"].endswith(".started")}
    ended = {one["subject"]: one for one in found if one["type"].endswith(".ended")}
    assert started == set(ended)
    restarted = {one["type"].split(".")[1] for one in ended.values() if one["data"]["reason"] == "agent_restart"}
    assert restarted == {"occupancy", "intrusion", "loitering"}


@pytest.mark.slow
def test_the_counts_of_the_first_half_minute_are_those_made_by_hand(vtest_video: Path, tmp_path: Path) -> None:
    """``python -m benchmarks.real_zones`` compares the whole video."""
    found = compare(recorded(tmp_path, "auto", 240), "feet", 240)
    assert (found["left"]["by_hand"], found["right"]["by_hand"]) == (3, 2)
    assert found["crossings_f1"] >= 0.9, found
    assert found["occupancy_off"] <= 0.2, found


def test_what_every_use_case_costs_is_measured() -> None:
    assert set(measure(tracks=3, seconds=3)) == {"(scene)", *USE_CASES}
