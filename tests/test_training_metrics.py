"""Training's figures: AP by hand, suppression, the bootstrap's coverage; against pycocotools where it is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from training.card import model_card
from training.cli import main
from training.curves import read_log
from training.evaluation import suppress
from training.latency import compare
from training.metrics import Found, Matches, Scores, Truth, average_precision, bootstrap, evaluate
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
        {"fp32.onnx": {"val": scores()}},
        {"reference": 10.0, "fp32.onnx": 15.0},
    )
    for part in (
        "| Some set | CC BY 4.0 |",
        "0.500 (0.400–0.600)",
        "| fp32.onnx | 15.0 | 1.50 |",
        "## Limits",
        "## Bias",
    ):
        assert part in text


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
