"""Golden pictures: a model carries them, ``model verify`` judges every file by them, and what makes a new version keeps them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from edge_agent.cli import main
from edge_agent.config import DetectConfig
from edge_agent.detect.manifest import Golden, Manifest, load_model
from edge_agent.detect.trial import Seen
from edge_agent.errors import ModelError
from edge_agent.model_tools.golden import judge, read_image, usual_thresholds
from edge_agent.model_tools.merge import copy_files
from edge_agent.model_tools.verify import Check, verify
from tests.tflite_fixtures import squares_manifest

ROOT = Path(__file__).parent.parent
SQUARES = Path(__file__).parent / "tflite_networks"
BOXES = ([8.0, 8.0, 16.0, 16.0], [40.0, 24.0, 48.0, 32.0])
"""Light squares of the fixtures' network: cells of 8 pixels in a picture of 64x48."""


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def golden(folder: Path, min_ap50: float = 0.9) -> dict[str, Any]:
    """Two pictures: one with two light squares, one with nothing."""
    picture = np.full((48, 64, 3), 20, np.uint8)
    assert cv2.imwrite(str(folder / "nothing.png"), picture)
    for x1, y1, x2, y2 in np.array(BOXES, int):
        picture[y1:y2, x1:x2] = 250
    assert cv2.imwrite(str(folder / "two.png"), picture)
    objects = {"two.png": [{"box": box, "label": "square"} for box in BOXES], "nothing.png": []}
    images = [{"path": n, "sha256": sha256(folder / n), "objects": found} for n, found in objects.items()]
    return {"min_ap50": min_ap50, "images": images}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``squares@1.0.0``: float and integer TFLite, with golden pictures."""
    folder = tmp_path / "models" / "squares" / "1.0.0"
    folder.mkdir(parents=True)
    save(folder, squares_manifest(folder, "float", "int8") | {"golden": golden(folder)})
    return folder


def save(folder: Path, manifest: dict[str, Any]) -> None:
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))


def write(folder: Path, **changes: Any) -> None:
    """The manifest, with some of its keys otherwise."""
    save(folder, raw(folder) | changes)


def raw(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((folder / "manifest.yaml").read_text())
    return read


def states(checks: list[Check]) -> list[tuple[str, str, str]]:
    return [(check.file, check.what, check.state) for check in checks]


# ---- the manifest


def broken(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    section: dict[str, Any] = {
        "min_ap50": 0.8,
        "images": [{"path": "a.jpg", "sha256": "0" * 64, "objects": [{"box": [1, 2, 3, 4], "label": "square"}]}],
    }
    change(section)
    return section


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda g: g.update(min_ap50=0), "greater than 0"),
        (lambda g: g.update(min_ap50=80), "less than or equal to 1"),
        (lambda g: g.update(images=[]), "at least 1"),
        (lambda g: g.update(images=g["images"] * 17), "at most 16"),
        (lambda g: g.update(images=g["images"] * 2), "listed twice"),
        (lambda g: g.update(pictures=[]), "Extra inputs"),
        (lambda g: g["images"][0].update(objects=[]), "none of the images has an object"),
        (lambda g: g["images"][0].update(path="../a.jpg"), "should match pattern"),
        (lambda g: g["images"][0].update(path="/etc/passwd"), "should match pattern"),
        (lambda g: g["images"][0].update(sha256="abc"), "should match pattern"),
        (lambda g: g["images"][0].update(objects=g["images"][0]["objects"] * 201), "at most 200"),
        (lambda g: g["images"][0]["objects"][0].update(box=[3, 2, 1, 4]), "has no area"),
        (lambda g: g["images"][0]["objects"][0].update(box=[-1, 2, 3, 4]), "greater than or equal to 0"),
        (lambda g: g["images"][0]["objects"][0].update(box=[1, 2, float("inf"), 4]), "finite"),
        (lambda g: g["images"][0]["objects"][0].update(box=[1, 2, 3]), "box"),
        (lambda g: g["images"][0]["objects"][0].update(label="cat"), "'cat' is none of `labels`"),
    ],
)
def test_a_section_that_says_no_sense_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    write(folder, golden=broken(lambda _: None))
    load_model(folder)
    write(folder, golden=broken(change))
    with pytest.raises(ModelError, match="golden") as error:
        load_model(folder)
    assert said in str(error.value)


def test_a_manifest_without_golden_pictures_is_as_before(folder: Path) -> None:
    fields = raw(folder)
    del fields["golden"]
    assert Manifest.model_validate(fields).golden is None


# ---- judging


def test_what_is_missed_and_what_is_invented_both_cost() -> None:
    section = Golden.model_validate(
        {
            "min_ap50": 0.7,
            "images": [
                {"path": "a.jpg", "sha256": "0" * 64, "objects": [{"box": box, "label": "square"} for box in BOXES]},
                {"path": "b.jpg", "sha256": "0" * 64},
            ],
        }
    )
    labels = ("square", "cat")

    def ap50(*pictures: list[Seen]) -> float:
        return judge(section, labels, pictures).ap50

    first, second = (Seen("square", 0.9, (b[0], b[1], b[2], b[3])) for b in BOXES)
    assert ap50([first, second], []) == 1
    assert ap50([first], []) == pytest.approx(51 / 101, abs=1e-4), "half of them, without an error"
    assert ap50([], []) == 0
    invented = Seen("square", 0.95, (0.0, 0.0, 8.0, 8.0))
    assert ap50([first, second], [invented]) == pytest.approx(2 / 3, abs=1e-4), "surer of it than of what is there"
    assert ap50([first, second], [Seen("cat", 0.95, (0.0, 0.0, 8.0, 8.0))]) == 1, "another label, nothing is known of"
    assert ap50([first, Seen("cat", 0.9, second.box)], []) < 0.6
    half_beside = Seen("square", 0.9, (second.box[0] + 4, second.box[1], second.box[2] + 4, second.box[3]))
    assert ap50([first, half_beside], []) < 0.6
    result = judge(section, labels, [[first], []])
    assert not result.passed and "AP50 0.505 on 2 pictures with 2 objects; must be 0.700 or more" in result.text


def test_an_operators_thresholds_do_not_judge_the_model() -> None:
    own = DetectConfig(score_threshold=0.9, max_detections=1, nms_iou=0.1, backend="tflite")
    assert usual_thresholds(own) == DetectConfig(backend="tflite")


def test_the_pictures_that_come_with_the_training_are_what_their_list_says(tmp_path: Path) -> None:
    place = ROOT / "training" / "golden"
    entries = json.loads((place / "golden.json").read_text())["images"]
    section = Golden.model_validate({"min_ap50": 0.9, "images": entries})
    heights, counts = [], []
    for image in section.images:
        content = read_image(place, image)
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None and len(content) <= 60_000
        assert picture.shape == (480, 640, 3)
        for found in image.objects:
            assert found.label == "person"
            assert found.box[2] <= 640 and found.box[3] <= 480
            heights.append(found.box[3] - found.box[1])
        counts.append(len(image.objects))
    assert 0 in counts and max(counts) >= 3, "one without anybody, one with several"
    assert sum(40 <= h <= 100 for h in heights) >= 4 and max(heights) > 200
    on_disk = {p.name for p in place.glob("*.jpg")}
    assert on_disk == {image.path for image in section.images}


# ---- verify


@pytest.mark.slow
def test_every_file_is_judged_and_one_that_does_not_see_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checks = list(verify(load_model(folder), DetectConfig(), folder / "two.png"))
    assert states(checks) == [
        ("golden pictures", "sha256", "ok"),
        ("float.tflite", "sha256", "ok"),
        ("float.tflite", "tflite", "ok"),
        ("float.tflite", "golden", "ok"),
        ("int8.tflite", "sha256", "ok"),
        ("int8.tflite", "tflite", "ok"),
        ("int8.tflite", "golden", "ok"),
    ]
    judged = [check.golden for check in checks if check.golden is not None]
    assert [(g.ap50, g.min_ap50, g.images, g.objects, g.passed) for g in judged] == [(1.0, 0.9, 2, 2, True)] * 2

    # Pixels that come in a tenth as bright: it loads, it runs, and it is blind.
    spec = raw(folder)["input"]
    write(folder, input=spec | {"std": [2550.0] * 3})
    models = str(folder.parent.parent)
    assert main(["model", "verify", "squares", "--models-dir", models, "--json"]) == 3
    answer = json.loads(capsys.readouterr().out)
    blind = [check for check in answer["checks"] if check["what"] == "golden"]
    assert not answer["ok"] and [check["state"] for check in blind] == ["fail", "fail"]
    assert blind[0]["golden"] == {"ap50": 0.0, "min_ap50": 0.9, "images": 2, "objects": 2, "passed": False}
    assert main(["model", "verify", "squares", "--models-dir", models]) == 3
    assert "AP50 0.000 on 2 pictures with 2 objects; must be 0.900 or more" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("damage", "said"), [(b"more", "damaged"), (None, "No such file")])
def test_a_picture_that_is_damaged_or_gone_fails_by_itself(folder: Path, damage: bytes | None, said: str) -> None:
    path = folder / "two.png"
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + damage)
    checks = list(verify(load_model(folder), DetectConfig(), folder / "nothing.png"))
    assert states(checks)[0] == ("golden pictures", "sha256", "fail") and said in checks[0].text
    assert ("float.tflite", "sha256", "ok") in states(checks) and not any(check.golden for check in checks)


@pytest.mark.slow
def test_a_file_that_is_no_picture_is_the_models_fault(folder: Path) -> None:
    (folder / "two.png").write_text("no picture")
    section = raw(folder)["golden"]
    section["images"][0]["sha256"] = sha256(folder / "two.png")
    write(folder, golden=section)
    checks = list(verify(load_model(folder), DetectConfig(), folder / "nothing.png"))
    assert [c.state for c in checks if c.what == "tflite"] == ["fail", "fail"]
    assert "two.png" in checks[2].text and "golden" in checks[2].text


# ---- new versions of it


def test_copies_keep_the_pictures_and_check_them(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    copy_files(load_model(folder), copy)
    assert {p.name for p in copy.iterdir()} == {"float.tflite", "int8.tflite", "two.png", "nothing.png"}
    (folder / "two.png").write_bytes(b"another")
    again = tmp_path / "again"
    again.mkdir()
    with pytest.raises(ModelError, match=r"two\.png: SHA-256"):
        copy_files(load_model(folder), again)
    (folder / "two.png").unlink()
    shutil.rmtree(again)
    again.mkdir()
    with pytest.raises(ModelError, match=r"two\.png: No such file"):
        copy_files(load_model(folder), again)


@pytest.mark.slow
def test_a_file_that_is_added_is_judged_by_the_same_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = str(folder.parent.parent)
    add = ["model", "import", str(SQUARES / "uint8.tflite"), "--add-to", "squares", "--version", "1.1.0"]
    assert main([*add, "--models-dir", models, "--json"]) == 0, capsys.readouterr()
    capsys.readouterr()
    added = load_model(folder.parent / "1.1.0")
    assert added.manifest.golden == load_model(folder).manifest.golden
    judged = [check for check in verify(added, DetectConfig(), None) if check.what == "golden"]
    assert [(check.file, check.state) for check in judged] == [
        (name, "ok") for name in ("float.tflite", "int8.tflite", "uint8.tflite")
    ]
