"""What an exported model carries: golden pictures and their floor; and the Edge TPU's documented limits. Needs no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_agent.detect.manifest import Golden
from tests.tflite_fixtures import squares_manifest
from training import edge_tpu
from training.adapters import Sample
from training.golden_set import LOWEST, MARGIN, Pictures, attach, bundled, of_samples

NETWORKS = Path(__file__).parent / "tflite_networks"
SQUARE = [8.0, 8.0, 16.0, 16.0]


def pictures(**changes: Any) -> Pictures:
    image = np.full((48, 64, 3), 20, np.uint8)
    image[8:16, 8:16] = 250
    content = cv2.imencode(".png", image)[1].tobytes()
    entry = {"path": "a.png", "sha256": hashlib.sha256(content).hexdigest()}
    found = {"objects": [{"box": SQUARE, "label": "square"}]} | changes
    return Pictures((entry | found,), {"a.png": content}, "drawn", "CC0")


@pytest.mark.slow
def test_the_floor_is_the_float_files_figure_less_a_margin(tmp_path: Path) -> None:
    fields = squares_manifest(tmp_path, "float", "int8")
    outcome = attach(tmp_path, fields, pictures())
    assert outcome.ap50 == {"float.tflite": 1.0, "int8.tflite": 1.0} and outcome.objects == 1
    assert outcome.min_ap50 == fields["golden"]["min_ap50"] == pytest.approx(1 - MARGIN)
    assert (tmp_path / "a.png").exists()


@pytest.mark.slow
def test_a_model_that_does_not_see_them_goes_without(tmp_path: Path) -> None:
    fields = squares_manifest(tmp_path, "float")
    outcome = attach(tmp_path, fields, pictures(objects=[{"box": [40, 24, 60, 44], "label": "square"}]))
    assert outcome.min_ap50 is None and outcome.ap50["float.tflite"] < LOWEST
    assert "golden" not in fields and not (tmp_path / "a.png").exists()


@pytest.mark.slow
def test_a_file_below_the_floor_is_not_exported(tmp_path: Path) -> None:
    fields = squares_manifest(tmp_path, "float", "int8")
    # An integer file with another network's outputs: it runs, and finds nothing.
    fields["files"][1]["decode"] = {"scores": "logit", "boxes": "normalised"}
    with pytest.raises(ValueError, match=r"int8\.tflite has AP50 0\.\d+, the FP32 file 1\.000: not exported"):
        attach(tmp_path, fields, pictures())
    assert "golden" not in fields


def test_a_users_pictures_come_small_and_without_what_cameras_write(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = []
    for number in range(5):
        path = tmp_path / f"{number}.jpg"
        cv2.imwrite(str(path), cv2.resize(rng.integers(0, 255, (12, 16, 3), np.uint8), (1600, 1200)))
        content = path.read_bytes()
        path.write_bytes(content[:2] + b"\xff\xe1\x00\x12Exif\x00\x00where it was" + content[2:])
        boxes = np.array([[0.25, 0.5, 0.5, 1.0]] if number else np.zeros((0, 4)), np.float32)
        samples.append(Sample(path, boxes, np.zeros(len(boxes), np.int32), np.full(len(boxes), number == 4)))
    chosen = of_samples(samples, ("forklift",), 2)
    Golden.model_validate({"min_ap50": 0.5, "images": chosen.entries})
    assert [entry["path"] for entry in chosen.entries] == ["golden-1.jpg", "golden-2.jpg"]
    for entry in chosen.entries:
        content = chosen.contents[entry["path"]]
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None and picture.shape == (480, 640, 3) and b"where it was" not in content
        assert entry["objects"] == [{"box": [160.0, 240.0, 320.0, 480.0], "label": "forklift"}]
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    assert len(of_samples(samples, ("forklift",), 99).entries) == 3, "those with certain objects"
    with pytest.raises(ValueError, match="none of the held-out pictures"):
        of_samples(samples[:1], ("forklift",), 2)


def test_the_bundled_ones_are_all_there() -> None:
    ours = bundled()
    assert {entry["path"] for entry in ours.entries} == set(ours.contents)
    for entry in ours.entries:
        assert hashlib.sha256(ours.contents[entry["path"]]).hexdigest() == entry["sha256"]


# ---- the Edge TPU


def test_an_integer_file_keeps_to_what_is_documented() -> None:
    operations = edge_tpu.inspect(NETWORKS / "int8.tflite")
    assert {"CONV_2D", "LOGISTIC"} <= {o.name for o in operations}
    convolutions = next(o for o in operations if o.name == "CONV_2D")
    assert convolutions.count == 2 and not convolutions.faults
    assert convolutions.largest == (1, 12, 16, 4)
    table = edge_tpu.table(operations)
    assert "| CONV_2D | 2 | 1×12×16×4 | the same dilation in x and y | yes |" in table


def test_what_is_against_the_documentation_is_named() -> None:
    floats = edge_tpu.faults(edge_tpu.inspect(NETWORKS / "float.tflite"))
    assert "CONV_2D: a tensor that is no int8" in floats
    detection = edge_tpu.faults(edge_tpu.inspect(NETWORKS / "ssd.tflite"))
    assert any(said.endswith("not among the supported operations") for said in detection)
