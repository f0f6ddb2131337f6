"""Training's classifier of heads: geometry, what is known of whom, crops, figures (no torch), and a whole run to a model (torch)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.detect.crop import CropSpec
from training.adapters import DataError, Sample
from training.attributes import Judged, Verdict, measure_heads, read_held, verdict
from training.card import History
from training.cli import main
from training.crops import Crop, HeadCrops, change, cut, read_crops
from training.head_card import head_card
from training.heads import ABOVE, HEAD_SHARE, PERSONS, SIDE, Labelled, head_square, person_square, read_heads, squares
from training.latency import Timing
from training.settings import Crops, Heads, Settings, Source, load_settings

LABELS = ("helmet", "mask")
SIZE = (200, 100)
PLAIN = Crops(shift=0, scale=(1, 1), coarse=0, colour=0, degrade=0, grey=0, tint=0)
PERSON = (40.0, 20.0, 60.0, 100.0)
"""Root 40: the square is (38, 14.8, 62, 38.8)."""


def fractions(*boxes: tuple[float, float, float, float]) -> Any:
    return np.array(boxes, np.float32).reshape(-1, 4) / np.array([*SIZE, *SIZE], np.float32)


def labelled(
    heads: list[tuple[float, float, float, float]], persons: list[tuple[float, float, float, float]]
) -> Labelled:
    count = len(heads)
    sample = Sample(Path("x.jpg"), fractions(*heads), np.zeros(count, np.int32), np.zeros(count, bool))
    return Labelled(sample, fractions(*persons))


FOUND = Heads(found_persons=True, attributes={0: {"helmet": 1}}, without={"helmet": 0})


# ---- geometry


@settings(max_examples=60, deadline=None)
@given(
    x=st.floats(-50, 2000), y=st.floats(-50, 2000), w=st.floats(1, 1000), h=st.floats(1, 1000), size=st.floats(0.1, 9)
)
def test_the_square_is_the_one_the_manifest_describes_and_grows_with_the_person(
    x: float, y: float, w: float, h: float, size: float
) -> None:
    box = (x, y, x + w, y + h)
    found = person_square(np.array([box], np.float32))[0]
    told = CropSpec(label="person", side=SIDE, above=ABOVE).square(box)
    np.testing.assert_allclose(found, told, rtol=1e-3, atol=0.3)
    bigger = person_square(np.array([box], np.float32) * np.float32(size))[0]
    np.testing.assert_allclose(bigger, found * size, rtol=1e-3, atol=0.3)


def test_the_square_by_hand() -> None:
    np.testing.assert_allclose(person_square(np.array([PERSON], np.float32))[0], (38, 14.8, 62, 38.8), atol=1e-4)


def test_a_labelled_head_gets_the_square_its_person_would() -> None:
    square = head_square(np.array([[100, 50, 110, 62]], np.float32))[0]
    assert square[2] - square[0] == pytest.approx(12 / HEAD_SHARE) == square[3] - square[1]
    assert (square[0] + square[2]) / 2 == pytest.approx(105) and (square[1] + square[3]) / 2 == pytest.approx(56)


# ---- what is known of whom


def known(
    heads: list[tuple[float, float, float, float]], *persons: tuple[float, float, float, float]
) -> list[list[int]]:
    found, attributes = squares(labelled(heads, list(persons or [PERSON])), FOUND, LABELS, SIZE)
    assert found.shape == (len(attributes), 4)
    return [list(map(int, row)) for row in attributes]


HELMET = (44.0, 20.0, 56.0, 34.0)


def test_a_helmet_in_the_square_is_the_persons_and_none_is_none() -> None:
    assert known([HELMET]) == [[1, -1]]
    assert known([]) == [[0, -1]]
    assert known([(150, 20, 162, 34)]) == [[0, -1]], "a helmet far away is another's"


def test_where_it_is_not_clear_whose_helmet_it_is_the_head_is_left_out() -> None:
    assert known([(46, 60, 58, 74)]) == [], "someone who stoops"
    assert known([HELMET, (46, 22, 58, 36)]) == [], "two in one square"
    assert known([(58, 20, 70, 34)]) == [], "it reaches in and may be a neighbour's"
    assert known([(49, 26, 51, 28)]) == [], "too small to be this person's"
    assert known([], (40, 0, 60, 80)) == [], "the picture's edge cuts the person: the head may be outside"


def test_a_helmet_in_two_squares_is_the_nearers() -> None:
    beside = (52.0, 20.0, 72.0, 100.0)
    assert known([HELMET], PERSON, beside) == [[1, -1]], "of the other one nothing is known"


def test_labelled_boxes_say_what_their_class_does_and_unlisted_classes_nothing() -> None:
    sample = Sample(Path("x"), fractions(HELMET, HELMET, HELMET), np.array([0, 1, 2], np.int32), np.zeros(3, bool))
    heads = Heads(attributes={0: {"mask": 1, "helmet": 0}, 1: {"mask": 0}})
    assert squares(Labelled(sample, None), heads, LABELS, SIZE)[1].tolist() == [[0, 1], [-1, 0]]
    persons = Heads(boxes="person", attributes={0: {"helmet": 0}})
    found, _ = squares(Labelled(sample, None), persons, LABELS, SIZE)
    np.testing.assert_allclose(found, person_square(np.array([HELMET], np.float32)), atol=1e-3)


# ---- a small data set: heads are discs, a helmet is a red half above them, a mask a white bar


def draw(image: Any, x: int, y: int, r: int, *, helmet: bool, mask: bool) -> None:
    cv2.circle(image, (x, y), r, (120, 150, 190), -1)
    if helmet:
        cv2.ellipse(image, (x, y), (r, r), 0, 180, 360, (20, 20, 220), -1)
    if mask:
        cv2.rectangle(image, (x - r // 2, y + r // 4), (x + r // 2, y + r // 2), (255, 255, 255), -1)


def dataset(folder: Path, count: int = 6, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for name in ("images", "labels", PERSONS):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        image = rng.integers(60, 110, (120, 160, 3), np.uint8)
        lines, persons = [], []
        for j in range(2):
            x, y, r, kind = 40 + 80 * j, 40, 14, (i + j) % 2
            draw(image, x, y, r, helmet=kind == 0, mask=kind == 1)
            lines.append(f"{kind} {x / 160} {y / 120} {2 * r / 160} {2 * r / 120}")
            persons.append(f"0 {x / 160} {70 / 120} {40 / 160} {90 / 120}")
        assert cv2.imwrite(str(folder / "images" / f"{'ab'[i % 2]}_{i}.png"), image)
        (folder / "labels" / f"{'ab'[i % 2]}_{i}.txt").write_text("\n".join(lines))
        (folder / PERSONS / f"{'ab'[i % 2]}_{i}.txt").write_text("\n".join(persons))
    return folder


BOTH = Heads(attributes={0: {"helmet": 1, "mask": 0}, 1: {"helmet": 0, "mask": 1}})


def source(folder: Path, **changes: Any) -> Source:
    return Source(**{"path": folder, "heads": BOTH, "licence": "CC0", "origin": "drawn", **changes})


def test_heads_are_read_by_box_and_by_found_person(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d")
    by_box = [c for image in read_crops(source(folder), LABELS) for c in image]
    assert len(by_box) == 12 and {tuple(map(int, c.attributes)) for c in by_box} == {(1, 0), (0, 1)}
    found = Heads(found_persons=True, attributes={0: {"helmet": 1}, 1: {"helmet": 0}})
    by_person = [c for image in read_crops(source(folder, heads=found), LABELS) for c in image]
    assert len(by_person) == 12 and {int(c.attributes[0]) for c in by_person} == {0, 1}
    assert len(read_crops(source(folder, leave_out=("a_",)), LABELS)) == 3
    grey = BOTH.model_copy(update={"grey": True})
    for image in read_crops(source(folder, heads=grey), LABELS):
        assert all(np.ptp(c.image, axis=2).max() == 0 for c in image)


def test_persons_that_were_not_found_yet_are_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="training persons"):
        read_heads(source(tmp_path, heads=FOUND))


def test_a_crop_at_the_pictures_edge_is_letterboxed_not_stretched() -> None:
    image = np.full((40, 40, 3), 200, np.uint8)
    whole, half = (cut(image, np.array(s, np.float32), 32) for s in ((5, 5, 25, 25), (30, 5, 50, 25)))
    assert (whole == 200).all()
    assert (half[:, :16] == 200).all() and (half[:, 17:] == 114).all()
    outside = cut(image, np.array((90, 90, 99, 99), np.float32), 32)
    assert outside.shape == (32, 32, 3), "a square beyond the picture gives its nearest pixel, not an error"


def test_shares_follow_the_weights_and_one_kind_alone_is_refused(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d")
    masks = Heads(attributes={1: {"mask": 1}})
    crops = HeadCrops([source(folder), source(folder, heads=masks, weight=2)], LABELS)
    np.testing.assert_allclose(crops.shares, (0.5, 0.75), atol=1e-6)
    with pytest.raises(DataError, match="helmet: heads with and heads without"):
        HeadCrops([source(folder, heads=masks), source(folder, heads=Heads(attributes={0: {"mask": 0}}))], LABELS)


def test_changes_keep_the_size_and_the_same_seed_gives_the_same(tmp_path: Path) -> None:
    crops = HeadCrops([source(dataset(tmp_path / "d"))], LABELS)
    one, two, other = (crops.batch(8, 64, Crops(), np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.images, two.images)
    assert one.images.shape == (8, 64, 64, 3) and one.attributes.shape == (8, 2) and (one.images != other.images).any()


def test_grey_crops_get_colour_so_that_grey_does_not_tell_the_data_set() -> None:
    grey = np.repeat(np.random.default_rng(0).integers(40, 200, (60, 60, 1), np.uint8), 3, axis=2)
    crop = Crop(grey, np.array([10, 10, 50, 50], np.float32), np.array([-1, 1], np.int8))
    tint = PLAIN.model_copy(update={"tint": 1.0})
    spreads = [
        float(np.ptp(change(crop, 32, s, np.random.default_rng(i)).astype(int), axis=2).mean())
        for s in (PLAIN, tint)
        for i in range(8)
    ]
    assert max(spreads[:8]) < 1 and np.median(spreads[8:]) > 10


# ---- figures


def judged(truth: list[bool], scores: list[float], heights: list[float] | None = None) -> Judged:
    n = len(truth)
    return Judged(
        np.array(truth), np.array(scores, np.float32), np.arange(n), np.array(heights or [50.0] * n, np.float32)
    )


def test_a_verdict_by_hand() -> None:
    v = verdict(judged([True, True, False, False], [0.9, 0.4, 0.6, 0.1], [10, 50, 50, 15]), rounds=50)
    assert (v.heads, v.positives, v.images, v.accuracy) == (4, 2, 4, 0.5)
    assert v.ap == pytest.approx((51 + 50 * 2 / 3) / 101) == v.ap_without
    assert (v.unsure, v.accuracy_sure) == (0.5, 1.0)
    assert v.small is not None and (v.small.heads, v.small.accuracy) == (2, 1.0)
    assert v.accuracy_interval[0] <= v.accuracy <= v.accuracy_interval[1]


def test_with_one_kind_only_there_is_nothing_to_rank() -> None:
    v = verdict(judged([False, False], [0.1, 0.2]), rounds=10)
    assert (v.ap, v.ap_without, v.ap_interval, v.accuracy, v.small) == (-1, -1, (-1, -1), 1.0, None)


def test_heads_are_measured_by_title_and_attribute_from_the_files_pixels(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d")
    held = read_held([source(folder, prefixes=(p,), name="drawn") for p in ("a_", "b_")], LABELS, 64)
    assert set(held) == {"drawn"} and held["drawn"].crops.shape == (12, 64, 64, 3)

    def eye(crops: Any) -> Any:
        red = ((crops[..., 0] > 180) & (crops[..., 1] < 90)).mean(axis=(1, 2))
        white = (crops.min(axis=3) > 230).mean(axis=(1, 2))
        return np.stack((red > 0.02, white > 0.01), axis=1).astype(np.float32)

    found = measure_heads(eye, held, LABELS, rounds=0)
    assert {name: (v.accuracy, v.ap) for name, v in found.items()} == {
        "drawn: helmet": (1, 1),
        "drawn: mask": (1, 1),
    }
    assert found["drawn: helmet"].images == 6


def test_the_card_names_geometry_data_figures_and_limits(tmp_path: Path) -> None:
    settings_ = Settings(
        task="classify",
        name="h",
        labels=LABELS,
        notes="- of this data\n",
        train=(source(tmp_path),),
        validate_on=(source(tmp_path),),
    )
    good, less = (verdict(judged([True, False], s, [12, 50]), rounds=9) for s in ([0.9, 0.1], [0.9, 0.8]))
    text = head_card(
        settings_,
        {"fp32.onnx": {"x: helmet": good}, "int8.onnx": {"x: helmet": less}},
        [Timing("fp32.onnx", "onnxruntime", 1, 1.0, 10.0)],
        history=History(640, 60.0, (12,)),
    )
    for part in (
        f"side {SIDE} root",
        "| drawn: heads as labelled (helmet, mask) | 12 | CC0 |",
        "after 640, 1 minutes",
        "| fp32.onnx | x: helmet | 1.000 (1.000–1.000) |",
        "| int8.onnx | x: helmet | -0.5000 |",
        "### Small heads",
        "| fp32.onnx | onnxruntime | 1 | 1.00 | 0.100 |",
        "## Limits",
        "- of this data",
    ):
        assert part in text, part
    assert isinstance(good, Verdict) and json.dumps(good.as_dict())


# ---- settings


def test_our_settings_file_keeps_the_people_it_is_measured_on_out_of_training(tmp_path: Path) -> None:
    found = load_settings(Path("training/configs/ppe-head.yaml"), tmp_path)
    assert found.task == "classify" and all(s.origin and s.licence for s in found.train)
    (trained,) = (s for s in found.train if s.path.parent.name == "mask")
    held = {p for s in found.validate_on if s.path == trained.path for p in s.prefixes}
    assert held == set(trained.leave_out)


def test_a_teacher_on_the_command_line_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["distil", "training/configs/ppe-head.yaml", "--teacher", "x.pt", "--out", str(tmp_path / "run")]
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs training/requirements.txt")
    assert main(arguments) == 2
    assert "knows no teacher" in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "detect"}, "heads: are for task: classify"),
        ({"teacher": "x.pt"}, "knows no teacher"),
        ({"labels": ["helmet"]}, "attributes mask are none of the labels helmet"),
        ({"train": [{"path": "x"}]}, "needs heads:"),
    ],
)
def test_settings_that_do_not_fit_the_task_are_refused(changes: dict[str, Any], said: str) -> None:
    base = {
        "task": "classify",
        "name": "x",
        "labels": LABELS,
        "train": [source(Path("x"))],
        "validate_on": [source(Path("x"))],
    }
    with pytest.raises(ValueError, match=said):
        Settings.model_validate({**base, **changes})
