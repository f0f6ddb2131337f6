"""``model parity``: matching, average precision, and the verdict on real models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.cli import main
from edge_agent.config import DetectConfig
from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.detector import ModelDetector
from edge_agent.detect.manifest import Model
from edge_agent.model_tools.matching import Truth, iou, match, mean_average_precision
from edge_agent.model_tools.parity import MARGIN, SCORE, Report, compare, read_pictures, read_truth
from edge_agent.types import F32, U8, Detections, Frame


def boxes(*rows: tuple[float, float, float, float]) -> F32:
    return np.array(rows, np.float32).reshape(-1, 4)


def seen(rows: F32, scores: list[float], classes: list[int] | None = None) -> Detections:
    numbers = np.array(classes or [0] * len(rows), np.int32)
    return Detections(rows, np.array(scores, np.float32), numbers, ("person", "dog"))


def test_iou_of_known_boxes() -> None:
    table = iou(
        boxes((0, 0, 10, 10), (0, 0, 0, 0)), boxes((0, 0, 10, 10), (5, 0, 15, 10), (20, 20, 30, 30), (0, 0, 0, 0))
    )
    np.testing.assert_allclose(table, np.array([[1, 1 / 3, 0, 0], [0, 0, 0, 0]], np.float64))


def test_the_best_overlap_is_paired_first_and_labels_must_agree() -> None:
    a = seen(boxes((0, 0, 10, 10), (1, 0, 11, 10), (50, 0, 60, 10)), [0.9, 0.8, 0.7])
    b = seen(boxes((1, 0, 11, 10), (0, 0, 10, 9), (50, 0, 60, 10)), [0.9, 0.8, 0.7], [0, 0, 1])
    assert [(i, j) for i, j, _ in match(a, b)] == [(1, 0), (0, 1)]
    assert match(a, seen(boxes(), [])) == []


@given(st.integers(0, 12), st.integers(0, 2**32 - 1))
def test_boxes_in_another_order_are_the_same_boxes(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 100, (n, 2))
    rows = np.concatenate((corner, corner + rng.uniform(5, 40, (n, 2))), axis=1).astype(np.float32)
    order = rng.permutation(n)
    scores = rng.uniform(0.3, 1, n)
    pairs = match(seen(rows, scores.tolist()), seen(rows[order], scores[order].tolist()))
    assert len(pairs) == n
    assert all(overlap > 0.999 for _, _, overlap in pairs)
    assert sorted(i for i, _, _ in pairs) == sorted(j for _, j, _ in pairs) == list(range(n))


def test_average_precision_by_hand() -> None:
    """Two objects; the best box is right, the next wrong, the third right: precision 1 to recall 0.5, then 2/3."""
    truth = [Truth(boxes((0, 0, 10, 10), (50, 50, 60, 60)), ("person", "person"))]
    found = [seen(boxes((0, 0, 10, 10), (80, 80, 90, 90), (50, 50, 60, 60)), [0.9, 0.8, 0.7])]
    expected = 100 * (51 * 1 + 50 * 2 / 3) / 101
    result = mean_average_precision(truth, found)
    assert result is not None
    assert result.ap50 == pytest.approx(expected)
    assert result.ap == pytest.approx(expected)  # the right ones are exactly right


def test_average_precision_counts_loose_boxes_at_loose_thresholds_only() -> None:
    truth = [Truth(boxes((0, 0, 100, 100)), ("person",))]
    result = mean_average_precision(truth, [seen(boxes((0, 0, 100, 72)), [0.9])])  # IoU 0.72: five of ten thresholds
    assert result is not None
    assert [result.ap50, result.ap] == pytest.approx([100, 50])
    assert mean_average_precision([Truth(boxes(), ())], [seen(boxes(), [])]) is None
    nothing = mean_average_precision(truth, [seen(boxes(), [])])
    assert nothing is not None and nothing.ap == 0


def test_a_second_box_on_the_same_object_is_wrong() -> None:
    truth = [Truth(boxes((0, 0, 10, 10)), ("person",)), Truth(boxes((0, 0, 10, 10)), ("person",))]
    once, twice = seen(boxes((0, 0, 10, 10)), [0.5]), seen(boxes((0, 0, 10, 10), (0, 0, 10, 10)), [0.9, 0.8])
    result = mean_average_precision(truth, [twice, once])
    assert result is not None
    assert result.ap50 == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)


class Fixed:
    """Answers with what it was given, whatever the picture."""

    def __init__(self, *answers: Detections) -> None:
        self.answers = answers

    def detect(self, frame: Frame) -> Detections:
        return self.answers[frame.index]


def judged(a: Detections, b: Detections, criterion: str = "fp32") -> Report:
    blank: U8 = np.zeros((100, 100, 3), np.uint8)
    return compare(Fixed(a), Fixed(b), iter([("one", blank)]), criterion)  # type: ignore[arg-type]


def test_the_verdict() -> None:
    one = seen(boxes((10, 10, 50, 90)), [0.9])
    assert judged(one, one).passed
    moved = judged(one, seen(boxes((10, 10, 50, 80)), [0.9]))
    assert not moved.passed and moved.missing == 2 and moved.worst == "one"
    assert judged(one, seen(boxes((10, 10, 50, 80)), [0.9]), "int8").passed  # the same object, not the same box
    gone = judged(one, seen(boxes(), []), "int8")
    assert not gone.passed and gone.map_change == pytest.approx(100)
    assert not judged(seen(boxes(), []), seen(boxes(), [])).passed  # nothing seen proves nothing
    extra = judged(one, seen(boxes((10, 10, 50, 90), (0, 0, 5, 5)), [0.9, 0.8]))
    assert not extra.passed and extra.missing == 1


def test_boxes_on_the_edge_of_being_seen_may_differ() -> None:
    sure, edge = (10, 10, 50, 90), (60, 10, 90, 90)
    a = seen(boxes(sure, edge), [0.9, SCORE + MARGIN / 2])
    assert judged(a, seen(boxes(sure), [0.9])).passed
    assert not judged(seen(boxes(sure, edge), [0.9, SCORE + 2 * MARGIN]), seen(boxes(sure), [0.9])).passed


def test_true_boxes_come_from_a_coco_file(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 0},
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 99, 99], "iscrowd": 1},
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    truth = read_truth(tmp_path / "truth.json")
    np.testing.assert_array_equal(truth["a.jpg"].boxes, boxes((1, 2, 4, 6)))
    assert truth["a.jpg"].labels == ("person",) and len(truth["b.jpg"].boxes) == 0


@pytest.mark.slow
def test_frames_of_a_video_are_spread_over_it(vtest_video: Path) -> None:
    names = [name for name, _ in read_pictures(vtest_video, 4)]
    assert names == ["frame 0", "frame 265", "frame 529", "frame 794"]


@pytest.fixture
def pictures(tmp_path: Path, vtest_video: Path) -> Path:
    """Two frames of the video with five people or more in each."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, (_, image) in enumerate(list(read_pictures(vtest_video, 5))[1:3]):
        cv2.imwrite(str(folder / f"{number}.png"), image)
    (folder / "notes.txt").write_text("no picture")
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, object]]:
    code = main(["model", "parity", *map(str, arguments), "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert isinstance(answer, dict)
    return code, answer


@pytest.mark.slow
def test_the_bundled_model_is_the_same_on_two_backends(
    root: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["person-n", "person-n", "--models-dir", root / "models", "--images", pictures]
    code, answer = run(capsys, *arguments, "--backend-b", "openvino")
    assert (code, answer["ok"], answer["criterion"]) == (0, True, "fp32")
    counts = answer["boxes"]
    assert isinstance(counts, list) and counts[0] == counts[1] >= 6
    assert "openvino" in str(answer["b"]) and "onnxruntime" in str(answer["a"])


@pytest.mark.slow
def test_a_model_that_scales_its_input_otherwise_is_not_the_same(
    models: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = models / "person-n" / "1.0.1"
    shutil.copytree(models / "person-n" / "1.0.0", wrong)
    fields = yaml.safe_load((wrong / "manifest.yaml").read_text())
    fields["version"], fields["input"]["std"] = "1.0.1", [40, 40, 40]
    (wrong / "manifest.yaml").write_text(yaml.safe_dump(fields))
    arguments = ["person-n@1.0.0", "person-n@1.0.1", "--models-dir", models, "--images", pictures]
    code, answer = run(capsys, *arguments)
    assert (code, answer["ok"]) == (1, False)
    assert "no partner" in str(answer["why"])


@pytest.mark.slow
def test_real_labels_are_counted_where_they_are_given(
    root: Path, bundled: Model, tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what the model is sure of as the truth: what is tested is the counting, not the model."""
    detector = ModelDetector("onnxruntime", LoadRequest(bundled.network("onnxruntime"), DetectConfig(), tmp_path))
    notes: list[dict[str, object]] = []
    for i in range(2):
        image = np.asarray(cv2.imread(str(pictures / f"{i}.png")), np.uint8)
        found = detector.detect(Frame("a", i, 0.0, 0.0, image))
        for x1, y1, x2, y2 in found.boxes[found.scores >= 0.5].tolist():
            notes.append({"image_id": i, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    assert len(notes) >= 4
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(2)]
    truth = {"images": images, "categories": [{"id": 1, "name": "person"}], "annotations": notes}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    arguments = ["person-n", "person-n", "--models-dir", root / "models", "--images", pictures]
    code, answer = run(capsys, *arguments, "--labels", tmp_path / "truth.json", "--criterion", "fp16")
    assert code == 0, answer
    assert answer["map_a"] == answer["map_b"]
    assert float(str(answer["map_a"])) > 90


@pytest.mark.slow
def test_a_folder_without_pictures_is_told(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["person-n", "person-n", "--models-dir", root / "models", "--images"]
    assert run(capsys, *arguments, tmp_path)[0] == 2
    assert run(capsys, *arguments, tmp_path / "none")[0] == 2
