"""``family: classifier``: the bundled one runs from every file, what it is shown follows from the manifest, and it is no detector."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from edge_agent.cli import main
from edge_agent.config import DetectConfig
from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.backends.cpu import multiplies_bytes
from edge_agent.detect.classifier import ModelClassifier
from edge_agent.detect.crop import CropSpec
from edge_agent.detect.detector import ModelDetector
from edge_agent.detect.manifest import Model, Network, find_detector, find_model, load_model
from edge_agent.errors import ModelError
from edge_agent.model_tools.sample import drawn_crop
from training.heads import ABOVE, SIDE

NAME = "ppe-head"
FINDS_NOTHING = "ppe-head@1.0.0 is a classifier: it judges helmet, mask on crops of a person"
MEBIBYTE = 1 << 20


@pytest.fixture
def model(root: Path) -> Model:
    return find_model(f"{NAME}@1.0.0", root / "models")


def classifier(network: Network) -> ModelClassifier:
    return ModelClassifier(network.file.backend, LoadRequest(network, DetectConfig(), Path("never used")))


def networks(model: Model) -> list[Network]:
    return [Network(model.manifest, file, model.folder) for file in model.manifest.files]


def test_the_model_is_whole_small_and_says_what_it_is_shown(model: Model) -> None:
    assert model.manifest.labels == ("helmet", "mask") and model.manifest.is_classifier
    assert model.manifest.crop == CropSpec(label="person", side=SIDE, above=ABOVE), "as in training"
    kinds = {(f.backend, f.precision) for f in model.manifest.files}
    assert kinds == {(b, p) for b in ("onnxruntime", "tflite") for p in ("fp32", "int8")}
    for network in networks(model):
        with network.verified():
            assert network.file.precision == "fp32" or network.path.stat().st_size <= MEBIBYTE
    assert sum(p.stat().st_size for p in model.folder.iterdir()) <= 4 * MEBIBYTE
    card = (model.folder / "README.md").read_text(encoding="utf-8")
    assert all(part in card for part in ("## Limits", "## Bias", "religious headgear", "| licence |"))


def test_every_file_says_the_same_of_a_head(model: Model) -> None:
    assert model.manifest.crop is not None
    crop, said = drawn_crop(model.manifest.crop), {}
    for network in networks(model):
        one = classifier(network)
        said[network.file.path] = one.classify(crop)
        np.testing.assert_array_equal(one.classify(crop), said[network.file.path])
        one.close()
    float_onnx, int_onnx, float_tflite, int_tflite = said.values()
    assert all(((s >= 0) & (s <= 1)).all() and s.shape == (2,) for s in said.values())
    np.testing.assert_allclose(float_onnx, float_tflite, atol=1e-3)
    # Without an instruction for it, ONNX Runtime's kernels add products of bytes in 16 bits and lose what does not fit (ADR 007).
    np.testing.assert_allclose(int_onnx, int_tflite, atol=0.03 if multiplies_bytes() else 0.15)
    np.testing.assert_allclose(float_onnx, int_onnx, atol=0.15)


def test_the_square_of_a_box_by_hand_and_of_none() -> None:
    crop = CropSpec(label="person", side=0.6, above=0.13)
    np.testing.assert_allclose(crop.square((40, 20, 60, 100)), (38, 14.8, 62, 38.8))
    assert crop.square((5, 5, 5, 9)) == (5, 5, 5, 5)


# ---- the manifest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"crop": None}, "`crop` is for family classifier, which needs it"),
        ({"family": "yolov8"}, "`crop` is for family classifier, which needs it"),
        ({"outputs": ["scores", "more"]}, "one output"),
        ({"crop": {"label": "person", "side": 0}}, "crop.side"),
    ],
)
def test_a_manifest_that_is_neither_is_refused(model: Model, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    folder = tmp_path / NAME / "1.0.0"
    shutil.copytree(model.folder, folder)
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text(encoding="utf-8")) | change
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest), encoding="utf-8")
    with pytest.raises(ModelError, match=said):
        load_model(folder)


# ---- it is no detector


def test_as_a_detector_it_is_refused_by_name(model: Model, root: Path) -> None:
    with pytest.raises(ModelError, match=FINDS_NOTHING):
        find_detector(NAME, root / "models")
    network = model.network("onnxruntime")
    with pytest.raises(ModelError, match=FINDS_NOTHING):
        ModelDetector("onnxruntime", LoadRequest(network, DetectConfig(), Path("never used")))
    person = find_model("person-n", root / "models").network("onnxruntime")
    with pytest.raises(ModelError, match="no classifier: its family is fcos"):
        classifier(person)


@pytest.mark.parametrize(
    "command",
    [
        ["run", "--source", "{pictures}", "--model", NAME],
        ["check"],
        ["model", "parity", NAME, NAME, "--backend-b", "tflite", "--images", "{pictures}"],
    ],
)
def test_the_command_line_says_so(
    command: list[str], root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures").mkdir()
    shutil.copy(root / "models/person-n/1.0.0/golden-nobody.jpg", tmp_path / "pictures")
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump(
            {
                "models_dir": str(root / "models"),
                "state_dir": str(tmp_path / "state"),
                "model": NAME,
                "cameras": [{"id": "a", "source": "x.avi"}],
            }
        ),
        encoding="utf-8",
    )
    arguments = [word.format(pictures=tmp_path / "pictures") for word in command]
    arguments += (
        ["--models-dir", str(root / "models")] if command[0] == "model" else ["-c", str(tmp_path / "config.yaml")]
    )
    assert main(arguments) == 3
    said = capsys.readouterr().err
    assert FINDS_NOTHING in said and "name a detector as `model`" in said
    assert not (tmp_path / "state").exists(), "nothing was started"


# ---- model list, show, verify


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main(["model", *map(str, arguments), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert isinstance(answer, dict)
    return answer


def test_it_is_listed_and_shown_with_its_crop(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = told(capsys, "list", "--models-dir", root / "models")["models"]
    assert {m["name"]: m["family"] for m in listed}[NAME] == "classifier"
    shown = told(capsys, "show", NAME, "--models-dir", root / "models")["manifest"]
    assert shown["crop"] == {"label": "person", "side": SIDE, "above": ABOVE}
    assert main(["model", "show", NAME, "--models-dir", str(root / "models")]) == 0
    assert "crop.side" in capsys.readouterr().out


@pytest.mark.slow
def test_verify_runs_every_file_and_tells_the_scores(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checks = told(capsys, "verify", NAME, "--models-dir", root / "models")["checks"]
    runs = [c for c in checks if c["what"] != "sha256"]
    assert len(runs) == 4 and all(c["state"] == "ok" for c in checks), checks
    for check in runs:
        assert set(check["sight"]["scores"]) == {"helmet", "mask"} and check["sight"]["seen"] is None
        assert "helmet 0." in check["text"] and "mask 0." in check["text"] and "of a drawing" in check["text"]
