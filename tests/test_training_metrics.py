"""Training's figures: AP by hand, suppression, the bootstrap's coverage; against pycocotools where it is installed."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from training.card import History, model_card
from training.cli import main
from training.curves import read_log
from training.evaluation import suppress
from training.golden_set import Outcome
from training.latency import Timing, compare, files_of, missing, onnx_runner, openvino_runner, tflite_runner
from training.metrics import (
    Found,
    Matches,
    Point,
    Scores,
    Truth,
    average_precision,
    bootstrap,
    evaluate,
    working_point,
)
from training.settings import Settings, Source


def matches(scores: list[float], hit: list[bool], objects: int) -> Matches:
    return Matches(np.array(scores), np.array(hit), objects)


def test_average_precision_by_hand() -> None:
    # Order: hit, miss, hit; precision 1, 1/2, 2/3; the best at or after each recall counts: 1 to 0.5, then 2/3.
    ap, curve = average_precision([matches([0.9, 0.3], [True, True], 1), matches([0.5], [False], 1)])
    assert ap == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    assert curve[50] == 1 and curve[51] == pytest.approx(2 / 3)


def test_average_precision_at_the_ends() -> None:
    assert average_precision([matches([], [], 3)])[0] == 0
    assert average_precision([matches([0.9], [True], 1)])[0] == 1
    assert average_precision([matches([0.9], [False], 0)])[0] == -1


def test_an_object_not_found_caps_recall() -> None:
    ap, curve = average_precision([matches([0.9], [True], 2)])
    assert ap == pytest.approx(51 / 101) and curve[-1] == 0


def test_the_interval_holds_the_figure_and_narrows_with_more_images() -> None:
    rng = np.random.default_rng(3)

    def images(count: int) -> list[Matches]:
        return [matches([float(rng.random())], [bool(rng.random() < 0.7)], 1) for _ in range(count)]

    few, many = images(20), images(500)
    for data in (few, many):
        low, high = bootstrap([data], rounds=200)
        assert low <= average_precision(data)[0] <= high
    widths = [np.subtract(*bootstrap([data], rounds=200)[::-1]) for data in (few, many)]
    assert widths[1] < widths[0] / 2


def test_the_interval_is_reproducible_and_empty_without_objects() -> None:
    data = [matches([0.5], [i % 3 > 0], 1) for i in range(30)]
    assert bootstrap([data], 50, seed=1) == bootstrap([data], 50, seed=1)
    assert bootstrap([[matches([], [], 0)]], 10) == (-1, -1)


def test_suppression_keeps_the_best_of_each_heap() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [40, 0, 50, 10], [0, 0, 10, 30]], np.float32)
    assert suppress(boxes, np.array([0.5, 0.9, 0.3, 0.4], np.float32), 0.6).tolist() == [1, 3, 2]
    assert suppress(np.zeros((0, 4), np.float32), np.zeros(0, np.float32)).tolist() == []


def test_runners_take_turns_warm() -> None:
    calls: list[str] = []
    times = compare({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=4, warm=1)
    assert calls == ["a", "a", "b", "b"] * 5 and set(times) == {"a", "b"}


def test_a_log_cut_short_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"seen": 16}) + "\n" + '{"seen": 3')
    assert read_log(path) == [{"seen": 16}]


def scores(**changes: float) -> Scores:
    return Scores(
        **{
            "images": 4,
            "objects": 9,
            "ap": 0.3,
            "ap50": 0.5,
            "ap_small": 0.1,
            "ap_medium": 0.3,
            "ap_large": 0.5,
            "recall": 0.6,
            **changes,
        },  # type: ignore[arg-type]
        interval=(0.4, 0.6),
    )


def test_the_card_names_data_licences_figures_and_limits() -> None:
    source = Source(path=Path("x"), origin="Some set", licence="CC BY 4.0")
    text = model_card(
        Settings(name="m", train=(source,), validate_on=(source,)),
        {"fp32.onnx": {"val": dataclasses.replace(scores(), points=(Point(0.5, 0.7, 0.21), Point(0.9, 0.0, 1.0)))}},
        [Timing("m-fp32.onnx", "openvino", 2, 15.0, 10.0)],
        golden=Outcome("made by us", "CC0", 4, 11, {"m-fp32.onnx": 0.97, "m-int8.onnx": 0.95}, 0.87),
        history=History(64_000, 5400.0, (1428,)),
    )
    for part in (
        "| trained on: Some set | 1428 | CC BY 4.0 |",
        "| measured on: x, Some set |  | CC BY 4.0 |",
        "Google's SSDLite COCO weights |  | Apache-2.0 |",
        "| golden pictures in this folder: made by us | 4 | CC0 |",
        "after 64000 images, 1.50 hours",
        "0.500 (0.400–0.600)",
        "| file | data | 50% right | 90% right |",
        "| fp32.onnx | val | 0.700 from score 0.21 | never |",
        "| m-fp32.onnx | openvino | 2 | 15.0 | 1.50 |",
        "AP50 must be 0.870 or more",
        "| m-int8.onnx | 0.950 |",
        "## Limits",
        "## Bias",
    ):
        assert part in text


def test_the_card_says_what_it_does_not_know() -> None:
    source = Source(path=Path("/home/somebody/x"))
    settings = Settings(name="m", train=(source,), validate_on=(source,), teacher=Path("/runs/best.pt"))
    failed = Outcome("made by us", "CC0", 4, 11, {"m-fp32.onnx": 0.31})
    text = model_card(settings, {}, golden=failed, history=History(None, None))
    assert "| trained on: x |  | not stated |" in text and "/home/somebody" not in text
    assert "teacher: best.pt" in text and "does not say how long" in text
    assert "None: on 4 pictures with 11 objects" in text and "golden pictures in this folder" not in text
    assert "## Speed" not in text and "## Accuracy" not in text


def test_a_working_point_is_the_lowest_score_that_keeps_the_precision() -> None:
    # hit 0.9, miss 0.8, hit 0.7, hit 0.6, miss 0.5, miss 0.4: precision 1, 1/2, 2/3, 3/4, 3/5, 1/2.
    images = [matches([0.9, 0.7, 0.4], [True, True, False], 3), matches([0.8, 0.6, 0.5], [False, True, False], 1)]
    assert working_point(images, 0.5) == Point(0.5, 0.75, 0.4)
    assert working_point(images, 0.75) == Point(0.75, 0.75, 0.6)
    assert working_point(images, 0.9) == Point(0.9, 0.25, 0.9)
    assert working_point([matches([0.9], [False], 2)], 0.5) == Point(0.5, 0.0, 1.0)
    assert working_point([matches([], [], 2)], 0.5) == working_point([], 0.5) == Point(0.5, 0.0, 1.0)
    # Two of equal score come together or not at all.
    tied = [matches([0.9, 0.5, 0.5], [True, True, False], 2)]
    assert working_point(tied, 0.9) == Point(0.9, 0.5, 0.9) and working_point(tied, 0.6) == Point(0.6, 1.0, 0.5)


def test_a_points_recall_is_on_the_curve() -> None:
    rng = np.random.default_rng(5)
    sure = [rng.random(6) for _ in range(40)]
    images = [matches(scores.tolist(), (rng.random(6) < scores).tolist(), 6) for scores in sure]
    _, curve = average_precision(images)
    for precision in (0.6, 0.8):
        reached = np.flatnonzero(curve >= precision)
        assert working_point(images, precision).recall * 100 == pytest.approx(reached[-1], abs=1)


def test_files_to_time_come_from_folders_too(tmp_path: Path) -> None:
    for name in ("b.onnx", "a.tflite", "README.md"):
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in files_of([tmp_path])] == ["a.tflite", "b.onnx"]
    assert files_of([tmp_path / "b.onnx"]) == [tmp_path / "b.onnx"]
    with pytest.raises(ValueError, match=r"README\.md: give \.onnx or \.tflite"):
        files_of([tmp_path / "README.md"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no \.onnx or \.tflite file in"):
        files_of([tmp_path / "empty"])


@pytest.mark.parametrize("threads", ["0", "1,x", "", "-1"])
def test_a_number_of_threads_that_is_none_is_bad_usage(threads: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["latency", "x.onnx", f"--threads={threads}"])
    assert stopped.value.code == 2 and "for example 1,2" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_each_runtime_runs_its_files(threads: int) -> None:
    networks = Path(__file__).parent
    assert onnx_runner(networks / "onnx_networks" / "float.onnx", threads)()
    for file in () if "openvino" in missing() else ("float.onnx", "quantised.onnx"):  # training need not have it
        assert openvino_runner(networks / "onnx_networks" / file, threads)() is not None
    for file in ("float.tflite", "int8.tflite"):
        run = tflite_runner(networks / "tflite_networks" / file, threads)
        assert compare({"x": run}, rounds=2, warm=0)["x"] > 0


def test_without_its_libraries_it_says_what_to_install(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("torch"):
        pytest.skip("they are here")
    assert main(["evaluate", str(tmp_path / "x.pt")]) == 2
    assert "pip install -r training/requirements.txt" in capsys.readouterr().err


def test_settings_that_are_wrong_are_an_error_and_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.yaml").write_text("name: x\ntrain: 7\n")
    assert main(["train", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "run")]) == 2
    assert "train" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_figures_are_pycocotools_own() -> None:
    pytest.importorskip("pycocotools")
    rng = np.random.default_rng(0)
    truth, found = [], []
    for _ in range(12):
        low = rng.uniform(0, 60, (5, 2))
        boxes = np.hstack((low, low + rng.uniform(10, 60, (5, 2)))).astype(np.float32)
        truth.append(Truth(boxes, np.zeros(5, np.int32), np.arange(5) == 4, (128, 128)))
        moved = (boxes + rng.normal(0, 4, boxes.shape)).astype(np.float32)
        found.append(Found(moved, rng.random(5).astype(np.float32), np.zeros(5, np.int32)))
    result = evaluate(truth, found, ["person"], rounds=100)
    assert result.objects == 48 and result.images == 12
    assert result.interval[0] <= result.ap50 <= result.interval[1]
    assert np.mean(result.curve) == pytest.approx(result.ap50, abs=1e-4), "our AP50, for the bootstrap, is pycocotools'"
    nothing = [Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))] * 12
    assert evaluate(truth, nothing, ["person"], rounds=0).ap50 == 0
