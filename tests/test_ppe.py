"""Second stage and protective equipment: votes, rules and procedures on scripted scenes; the shipped model on the real video."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from edge_agent import cli
from edge_agent.chains import USE_CASES, check_labels, judges
from edge_agent.config import Config, UseCasesConfig
from edge_agent.config_classifiers import ClassifierConfig
from edge_agent.config_file import load
from edge_agent.config_sop import SopConfig
from edge_agent.detect.manifest import Model
from edge_agent.detect.second_stage import Looker, classifier_model
from edge_agent.errors import ConfigError, ModelError
from edge_agent.pipeline import UseCase
from edge_agent.record_looks import look_read, look_written
from edge_agent.types import Event, Frame, Look, Metric, Output, Tracks, uuid7_factory
from edge_agent.usecases.evidence import FALSE, TRUE, UNKNOWN
from edge_agent.usecases.scene import Places
from edge_agent.usecases.sop import Sop
from edge_agent.usecases.votes import Votes
from tests.agent_process import run_agent, write_config
from tests.scene_fixtures import LEFT, NOWHERE, RIGHT, START, Place, box, camera, observe

JUDGE = ClassifierConfig(model="ppe-head")
JUDGES = {"helmet": JUDGE}
Score = Callable[[float], float | None]
"""What the classifier says of somebody at a moment; None: it does not look."""


def play(use_case: UseCase | Sop, at: Callable[[float], Place | None], score: Score, seconds: float) -> list[Output]:
    """Somebody who is looked at twice a second, at 10 frames a second."""
    told: list[Output] = []
    for k in range(round(seconds * 10)):
        t, place = k / 10, at(k / 10)
        seen = observe(t, [(1, place)] if place is not None else [])
        said = score(t) if place is not None and k % 5 == 0 else None
        if place is not None and said is not None:
            x1, y1, x2, y2 = box(place)
            object.__setattr__(seen, "attributes", [Look((x1, y1, x2, y2), {"helmet": said, "mask": 0.5})])
        told += use_case.update(seen)
    return told


def ppe(**rule: Any) -> UseCase:
    rules = [{"name": "hall", "zone": "left", "wears": ["helmet"], **rule}]
    ((name, section),) = UseCasesConfig.model_validate({"ppe": {"rules": rules}}).at_work()
    at = camera()
    return USE_CASES[name](section, at, uuid7_factory(random.Random(1)), Places(at, JUDGES))


def events(told: Sequence[Output]) -> list[Event]:
    return [one for one in told if isinstance(one, Event)]


def minute(use_case: UseCase, told: list[Output]) -> Counter[str]:
    """The sums of what the minutes say."""
    sums: Counter[str] = Counter()
    for one in [*told, *use_case.close("end_of_file")]:
        if isinstance(one, Metric):
            sums.update(one.data["rules"]["hall"])
    return sums


# ---- votes


def votes(*scores: float, step_s: float = 0.5, now: float | None = None) -> int:
    cast = Votes(JUDGES)
    boxes = np.array([[10.0, 10, 20, 40]])
    for k, score in enumerate(scores):
        look = Look((10.2, 10, 20, 40), {"helmet": score, "other": 1.0})
        cast.update([look, Look((50, 50, 60, 80), {"helmet": 0.0})], np.array([7]), boxes, k * step_s)
    cast.update([], np.array([7]), boxes, now if now is not None else len(scores) * step_s)
    return cast.about(7, "helmet")


@pytest.mark.parametrize(
    ("scores", "answer"),
    [
        ((), UNKNOWN),
        ((0.9, 0.9), UNKNOWN),
        ((0.9, 0.9, 0.9), TRUE),
        ((0.1, 0.0, 0.3), FALSE),
        ((0.5, 0.6, 0.4, 0.5, 0.5), UNKNOWN),
        ((0.9, 0.1, 0.9, 0.1), UNKNOWN),
        ((0.9, 0.1, 0.9), UNKNOWN),
        ((0.9, 0.1, 0.9, 0.9), TRUE),
        ((0.1, 0.5, 0.1, 0.9, 0.1), FALSE),
    ],
)
def test_only_a_clear_majority_of_enough_sure_scores_is_an_answer(scores: tuple[float, ...], answer: int) -> None:
    assert votes(*scores) == answer


def test_votes_are_forgotten() -> None:
    assert votes(0.9, 0.9, 0.9, now=5.9) == UNKNOWN


def test_votes_follow_somebody_who_is_recognised() -> None:
    cast, boxes = Votes(JUDGES), np.array([[10.0, 10, 20, 40]])
    for k, ident in enumerate([3, 3, 8]):
        cast.update([Look((10, 10, 20, 40), {"helmet": 0.9})], np.array([ident]), boxes, k / 2)
    assert cast.about(3, "helmet") == UNKNOWN
    cast.rename([(8, 3)])
    assert (cast.about(3, "helmet"), cast.about(8, "helmet")) == (TRUE, UNKNOWN)


# ---- the use case


def test_somebody_without_is_told_and_it_ends_when_they_put_it_on() -> None:
    use_case = ppe()
    told = play(use_case, lambda _: LEFT, lambda t: 0.05 if t < 12 else 0.95, 30)
    started, ended = events(told)
    assert started.type == "edge_agent.ppe.missing.started" and started.data["missing"] == "helmet"
    assert started.utc == pytest.approx(START + 1.0, abs=0.2)  # with the third vote
    assert started.data["duration_s"] == pytest.approx(3, abs=0.2) and started.data["track_id"] == 1
    assert ended.data["reason"] == "over" and 12 <= ended.utc - START <= 16
    sums = minute(use_case, told)
    assert sums["unknown_s"] >= 1.0 and sums["missing_s"] > 10 and sums["worn_s"] > 10 and sums["episodes"] == 1
    assert sums["unknown_s"] + sums["missing_s"] + sums["worn_s"] == pytest.approx(30, abs=0.3)


@pytest.mark.parametrize(
    "score",
    [
        lambda _: None,
        lambda _: 0.5,
        lambda t: 0.1 if int(t * 2) % 2 else 0.9,
        lambda t: 0.1 if t < 0.9 else None,
    ],
    ids=["never looked at", "unsure", "contradicting", "too few"],
)
def test_unknown_is_neither_a_violation_nor_worn(score: Score) -> None:
    use_case = ppe()
    told = play(use_case, lambda _: LEFT, score, 30)
    assert events(told) == []
    sums = minute(use_case, told)
    assert sums["worn_s"] == sums["missing_s"] == 0 and sums["unknown_s"] == pytest.approx(30, abs=0.3)


def test_who_becomes_unknown_stays_what_they_were() -> None:
    use_case = ppe()
    told = play(use_case, lambda _: LEFT, lambda t: 0.05 if t < 10 else 0.5, 40)
    assert [e.phase for e in events(told)] == ["started"] and use_case.open_episodes == 1
    (ended,) = events(use_case.close("shutdown"))
    assert ended.data["reason"] == "shutdown"


def test_only_in_the_zone_and_who_leaves_it_is_let_go() -> None:
    assert events(play(ppe(), lambda _: RIGHT, lambda _: 0.05, 20)) == []
    told = play(ppe(), lambda t: LEFT if t < 15 else NOWHERE, lambda _: 0.05, 30)
    assert [(e.phase, e.data.get("reason")) for e in events(told)] == [("started", None), ("ended", "over")]
    assert events(told)[1].utc == pytest.approx(START + 15, abs=0.3)


def test_who_is_not_seen_again_is_lost() -> None:
    told = play(ppe(), lambda t: LEFT if t < 10 else None, lambda _: 0.05, 90)
    assert [(e.phase, e.data.get("reason")) for e in events(told)] == [("started", None), ("ended", "lost")]


def test_each_thing_is_judged_by_itself() -> None:
    rules = [{"name": "hall", "wears": ["helmet", "mask"]}]
    ((name, section),) = UseCasesConfig.model_validate({"ppe": {"rules": rules}}).at_work()
    at = camera()
    use_case = USE_CASES[name](section, at, uuid7_factory(random.Random(1)), Places(at, {**JUDGES, "mask": JUDGE}))
    told = play(use_case, lambda _: LEFT, lambda _: 0.05, 15)
    assert [(e.phase, e.data["missing"]) for e in events(told)] == [("started", "helmet")]


def test_a_procedure_asks_the_classifier() -> None:
    steps = [{"step": "put_on", "when": {"zone": "left", "has": "helmet", "for_s": 2}}]
    procedure = {"name": "it", "requires_labels": ["person", "helmet"], "steps": steps}
    at = camera()
    config = SopConfig.model_validate({"procedures": [procedure]})

    def outcome(score: Score) -> list[tuple[str, Any]]:
        sop = Sop(config, at, uuid7_factory(random.Random(1)), Places(at, JUDGES))
        told = [*play(sop, lambda _: LEFT, score, 20), *sop.close("end_of_file")]
        return [(e.what, e.data.get("result")) for e in events(told) if e.phase != "started"]

    assert ("completed", None) in outcome(lambda _: 0.95)
    for unsure in (lambda _: 0.5, lambda _: None, lambda _: 0.05):
        assert ("completed", None) not in outcome(unsure)


# ---- configuration and records


def config(**change: Any) -> Config:
    raw = {
        "cameras": [{"id": "a", "source": "b"}],
        "models_dir": str(Path(__file__).parent.parent / "models"),
        **change,
    }
    return Config.model_validate_json(json.dumps(raw))


def test_labels_of_a_classifier_are_known_and_others_are_not(bundled: Model) -> None:
    rules = [{"name": "x", "wears": ["helmet", "vest"]}]
    with pytest.raises(ConfigError) as refused:
        check_labels(config(classifiers=[{"model": "ppe-head"}], use_cases={"ppe": {"rules": rules}}), bundled.manifest)
    (problem,) = refused.value.problems
    assert "use_cases.ppe.rules[0].wears[1]: given 'vest'" in problem


def test_a_detector_is_no_classifier_and_two_that_judge_one_thing_are_too_many() -> None:
    with pytest.raises(ConfigError, match="is a detector"):
        judges(config(classifiers=[{"model": "person-n"}]))
    with pytest.raises(ModelError, match="is not in"):
        judges(config(classifiers=[{"model": "vest-head"}]))
    both = config(classifiers=[{"model": "ppe-head"}, {"model": "ppe-head@1.0.0"}])
    with pytest.raises(ConfigError, match="both judge 'helmet'"):
        judges(both, both.cameras[0])


def test_scores_that_vote_both_ways_are_refused_at_their_place(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    text = "cameras:\n  - {id: till, source: 0}\nclassifiers:\n  - {model: ppe-head, no_below: 0.8, cameras: [tilt]}\n"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load(path)
    found = "\n".join(refused.value.problems)
    assert "4:33: classifiers[0].no_below: no_below is 0.8, which must be below yes_above, 0.7" in found
    assert "classifiers[0].cameras[0]: given 'tilt', no such camera; there are: till; did you mean till?" in found


def test_looks_are_written_and_read_back() -> None:
    look = Look((1.0, 2.5, 30.0, 40.25), {"helmet": 0.9312, "mask": 0.0})
    assert look_read(json.loads(json.dumps(look_written(look)))) == look


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"box": [1, 2, 3], "scores": {}},
        {"box": [1, 2, 3, 1e9], "scores": {}},
        {"box": [1, 2, 3, 4], "scores": {"helmet": 1.5}},
        {"box": [1, 2, 3, 4], "scores": {"helmet": float("nan")}},
        {"box": [1, 2, 3, 4], "scores": [1]},
    ],
)
def test_what_is_no_look_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        look_read(said)


# ---- the real model


def test_looks_are_spread_over_tracks_and_small_or_cut_ones_are_left_out(root: Path, tmp_path: Path) -> None:
    judge = ClassifierConfig(model="ppe-head", max_crops=2, every_s=0.5)
    whole = config(classifiers=[judge.model_dump()])
    looker = Looker(judge, classifier_model(judge, root / "models"), whole, tmp_path)
    image = np.full((720, 1280, 3), 127, np.uint8)
    boxes = [[100 * k, 200, 100 * k + 90, 500] for k in range(1, 5)] + [[900, 300, 910, 330], [1000, -250, 1100, 60]]
    n = len(boxes)
    tracks = Tracks(
        np.arange(n, dtype=np.int64),
        np.array(boxes, np.float32),
        np.ones(n, np.float32),
        np.zeros(n, np.int32),
        np.array([False] * 3 + [True] + [False] * 2),
        ("person",),
    )

    def looked(t: float) -> list[float]:
        return [look.box[0] for look in looker.look(Frame("a", 0, t, t, image), tracks)]

    assert looked(0.0) == [100, 200]
    assert looked(0.1) == [300]  # the fourth is only predicted, the others are too small or outside
    assert looked(0.2) == []
    assert looked(0.5) == [100, 200]
    (look,) = looker.look(Frame("a", 0, 0.6, 0.6, image), tracks)
    assert set(look.scores) == {"helmet", "mask"} and all(0 <= score <= 1 for score in look.scores.values())
    looker.close()


@pytest.mark.slow
def test_on_the_video_the_second_stage_runs_is_recorded_and_replays_to_the_same(
    root: Path, vtest_video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With small crops, so that there is something to judge; nobody wears a helmet there."""
    path, record = write_config(root, tmp_path), tmp_path / "out.jsonl"
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    raw["classifiers"] = [{"model": "ppe-head", "min_crop_px": 24, "every_s": 0.3}]
    raw["use_cases"] = {"ppe": {"rules": [{"name": "plaza", "zone": "plaza", "wears": ["helmet"]}]}}
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    done = run_agent("run", "-c", path, "--no-mqtt", "--max-frames", "80", "--record", record, "--json", timeout_s=160)
    assert done.returncode == 0, done.stderr[-2000:]
    counted = {kind: n for kind, n in json.loads(done.stdout)["events"].items() if ".device." not in kind}
    assert counted["edge_agent.ppe.missing.started"] >= 1
    lines = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()[1:]]
    assert sum(len(line.get("attributes", [])) for line in lines) > 50
    assert cli.main(["replay", str(record), "-c", str(path), "--json"]) == 0
    again = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert Counter(line["type"] for line in again if "type" in line) == counted
