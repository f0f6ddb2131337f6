"""Training's data side: labels from both formats come out alike, boxes follow their pixels, faults are named. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.adapters import DataError, Sample, check_classes, read_coco, read_yolo
from training.augment import MIN_VISIBLE, Picture, compose
from training.data import Pictures, letterbox, read_source
from training.settings import Augment, Settings, Source, load_settings

BOX = (0.25, 0.2, 0.75, 0.6)
PLAIN = Augment(mosaic=0, scale=(1, 1), colour=0, degrade=0, grey=0)


def image(path: Path, size: tuple[int, int] = (80, 60)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((size[1], size[0], 3), 90, np.uint8))


def yolo(folder: Path, lines: str = "0 0.5 0.4 0.5 0.4\n") -> Path:
    image(folder / "images" / "a_1.jpg")
    image(folder / "images" / "b_1.png")
    (folder / "labels").mkdir()
    (folder / "labels" / "a_1.txt").write_text(lines)
    return folder


def coco(**changes: Any) -> dict[str, Any]:
    document = {
        "images": [{"id": 7, "width": 80, "height": 60, "file_name": "x.jpg"}],
        "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [20, 12, 40, 24]},
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 8, 6], "iscrowd": 1},
            {"image_id": 7, "category_id": 3, "bbox": [0, 0, 8, 6]},
        ],
    }
    return {**document, **changes}


def test_both_formats_say_the_same(tmp_path: Path) -> None:
    first, second = read_yolo(yolo(tmp_path / "yolo"))
    (tmp_path / "c.json").write_text(json.dumps(coco()))
    (from_coco,) = read_coco(tmp_path / "c.json", tmp_path, {"person": 0})
    for found in (first, from_coco):
        np.testing.assert_allclose(found.boxes[0], BOX, atol=1e-6)
        assert found.classes[0] == 0 and not found.ignore[0]
    assert len(second.boxes) == 0 and second.image.name == "b_1.png"
    assert from_coco.ignore.tolist() == [False, True]


def test_prefixes_choose_images(tmp_path: Path) -> None:
    assert [s.image.name for s in read_yolo(yolo(tmp_path), ("b_",))] == ["b_1.png"]


@pytest.mark.parametrize("line", ["0 0.5 0.5 0.1", "x 0.5 0.5 0.1 0.1", "0 nan 0.5 0.1 0.1", "-1 0.5 0.5 0.1 0.1"])
def test_a_bad_label_line_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(DataError, match=r"a_1\.txt:2: "):
        list(read_yolo(yolo(tmp_path, f"0 0.5 0.5 0.1 0.1\n{line}\n")))


@pytest.mark.parametrize(
    "document",
    [
        coco(images=[{"id": 7}]),
        coco(annotations=[{"image_id": 7, "category_id": 1, "bbox": [1, 2]}]),
        coco(images=[{"id": 7, "width": 0, "height": 60, "file_name": "x.jpg"}]),
        coco(images=[{"id": 7, "width": 80, "height": 60, "file_name": "../../x.jpg"}]),
        [],
    ],
)
def test_a_file_that_is_not_cocos_is_refused(tmp_path: Path, document: Any) -> None:
    (tmp_path / "c.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"c\.json"):
        list(read_coco(tmp_path / "c.json", tmp_path, {"person": 0}))


def test_a_class_without_a_label_is_refused() -> None:
    sample = Sample(Path("x"), np.zeros((1, 4), np.float32), np.array([2], np.int32), np.zeros(1, bool))
    with pytest.raises(DataError, match="class 2, but there are only 2 labels"):
        list(check_classes([sample], 2))


def test_held_out_and_train_are_all_and_share_nothing(tmp_path: Path) -> None:
    for i in range(11):
        image(tmp_path / "images" / f"{i:02}.jpg")
    parts = {
        part: {s.image.name for s in read_source(Source(path=tmp_path, part=part))}
        for part in ("all", "train", "held_out")
    }
    assert parts["train"] | parts["held_out"] == parts["all"] and len(parts["all"]) == 11
    assert not parts["train"] & parts["held_out"] and len(parts["held_out"]) == 2


def test_what_has_no_labels_of_ours_counts_nowhere(tmp_path: Path) -> None:
    source = Source(path=yolo(tmp_path, "1 0.5 0.4 0.5 0.4\n"), labelled=False)
    found = read_source(source)[0]
    assert found.boxes.tolist() == [[0, 0, 1, 1]] and found.ignore.tolist() == [True] and found.classes.tolist() == [0]


def test_a_letterboxed_picture_lies_in_the_top_left_corner() -> None:
    canvas, ratio = letterbox(np.full((30, 60, 3), 200, np.uint8), 96)
    assert ratio == 96 / 60 and (canvas[:48] == 200).all() and (canvas[48:] == 114).all()


def red_box(width: int, height: int, box: tuple[int, int, int, int]) -> Picture:
    picture = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = box
    picture[y1:y2, x1:x2] = (255, 0, 0)
    return Picture(picture, np.array([box], np.float32), np.array([0], np.int32), np.zeros(1, bool))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(0.4, 1.6),
    count=st.sampled_from([1, 4]),
    sides=st.tuples(st.integers(60, 200), st.integers(60, 200)),
)
def test_boxes_follow_their_pixels(seed: int, scale: float, count: int, sides: tuple[int, int]) -> None:
    width, height = sides
    picture = red_box(width, height, (width // 4, height // 4, width // 2, height // 2))
    augment = PLAIN.model_copy(update={"scale": (scale, scale)})
    made = compose([picture] * count, 160, augment, np.random.default_rng(seed))
    assert made.image.shape == (160, 160, 3) and len(made.boxes) == len(made.classes) == len(made.ignore) <= count
    assert (made.boxes >= 0).all() and (made.boxes <= 160).all()
    red = (made.image[..., 0] > 128) & (made.image[..., 1] < 60)
    covered = np.zeros_like(red)
    for x1, y1, x2, y2 in made.boxes:
        ys, xs = slice(round(float(y1)), round(float(y2))), slice(round(float(x1)), round(float(x2)))
        covered[ys, xs] = True
        if min(x2 - x1, y2 - y1) >= 6:
            inner = red[ys, xs][2:-2, 2:-2]
            assert inner.all(), "what a box encloses is the object"
    outside = red & ~cv2.dilate(covered.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    # A strip of a pixel at the edge has no box: nobody could find it.
    outside = cv2.erode(outside.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    assert not outside.any(), "no part of an object is outside its box"


def test_an_object_of_which_little_is_left_is_ignored() -> None:
    made = [
        compose(
            [red_box(100, 100, (0, 0, 100, 100))],
            100,
            PLAIN.model_copy(update={"scale": (s, s)}),
            np.random.default_rng(0),
        )
        for s in (1.0, 2.5)
    ]
    assert not made[0].ignore.any()
    assert made[1].ignore.all() and MIN_VISIBLE > 1 / 2.5**2


def test_the_same_seed_gives_the_same_batch(tmp_path: Path) -> None:
    pictures = Pictures([Source(path=yolo(tmp_path))], ["person"])
    one, two, other = (pictures.batch(4, 96, Augment(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.images, two.images)
    assert (one.images != other.images).any()


@pytest.mark.parametrize("name", ["person-s", "person-n"])
def test_our_settings_files_are_read_and_state_origin_and_licence(name: str, tmp_path: Path) -> None:
    found = load_settings(Path("training/configs") / f"{name}.yaml", tmp_path)
    assert found.name == name and all(s.path.is_relative_to(tmp_path) for s in (*found.train, *found.validate_on))
    assert all(s.origin and s.licence for s in found.train)


def test_a_misspelt_setting_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("name: x\ntrain: [{path: a}]\nvalidate_on: [{path: a}]\nscedule: {}\n")
    with pytest.raises(ValueError, match="scedule"):
        load_settings(tmp_path / "s.yaml")
    assert Settings.model_fields["schedule"].annotation is not None
