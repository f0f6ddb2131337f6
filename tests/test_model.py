"""Manifests and the bundled model itself."""

from __future__ import annotations

import hashlib
import shutil
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from edge_agent.config import DetectConfig
from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.detector import ModelDetector
from edge_agent.detect.manifest import Model, find_model, load_model
from edge_agent.errors import HardwareError, ModelError
from edge_agent.types import Detections, Frame


def load(model: Model) -> ModelDetector:
    return ModelDetector("onnxruntime", LoadRequest(model.network("onnxruntime"), DetectConfig(), Path("never used")))


def edit(folder: Path, **change: object) -> None:
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))


def test_newest_version_is_taken_unless_one_is_named(models: Path) -> None:
    for version in ("1.10.0-rc2", "1.10.0", "1.9.0"):
        shutil.copytree(models / "person-n" / "1.0.0", models / "person-n" / version)
        edit(models / "person-n" / version, version=version)
    assert find_model("person-n", models).manifest.version == "1.10.0"
    assert find_model("person-n@1.9.0", models).manifest.version == "1.9.0"


@pytest.mark.parametrize("reference", ["nobody", "person-n@9", "../person-n", "", "@1", "person-n@../1.0.0"])
def test_unknown_model_lists_what_there_is(models: Path, reference: str) -> None:
    with pytest.raises(ModelError, match=r"person-n@1\.0\.0|NAME"):
        find_model(reference, models)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"family": "yolov99"}, "family"),
        ({"extra": 1}, "extra"),
        ({"labels": []}, "labels"),
        ({"version": "7"}, "lies in person-n/1.0.0"),
        (
            {
                "files": [
                    {"backend": "onnxruntime", "path": "../../etc/passwd", "sha256": "0" * 64, "precision": "fp32"}
                ]
            },
            "path",
        ),
    ],
)
def test_wrong_manifest_is_refused(models: Path, change: dict[str, object], says: str) -> None:
    edit(models / "person-n" / "1.0.0", **change)
    with pytest.raises(ModelError, match=says):
        load_model(models / "person-n" / "1.0.0")


def test_a_scale_of_nothing_is_refused(models: Path) -> None:
    folder = models / "person-n" / "1.0.0"
    spec = yaml.safe_load((folder / "manifest.yaml").read_text())["input"]
    edit(folder, input=spec | {"std": [127.5, 0, 127.5]})
    with pytest.raises(ModelError, match=r"input\.std"):
        load_model(folder)


@pytest.mark.parametrize("text", ["[1, 2]", "{", "a: &a [*a]", "!!python/object/apply:os.system [id]", "x" * 300_000])
def test_garbage_manifest_is_refused(models: Path, text: str) -> None:
    (models / "person-n" / "1.0.0" / "manifest.yaml").write_text(text)
    with pytest.raises(ModelError, match=r"manifest\.yaml"):
        load_model(models / "person-n" / "1.0.0")


def test_damaged_file_is_not_loaded(models: Path) -> None:
    path = models / "person-n" / "1.0.0" / "person-n-416-fp32.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="SHA-256"):
        load(find_model("person-n", models))


def test_authentic_nonsense_is_a_model_error(models: Path) -> None:
    folder = models / "person-n" / "1.0.0"
    (folder / "person-n-416-fp32.onnx").write_bytes(b"no model")
    digest = hashlib.sha256(b"no model").hexdigest()
    edit(
        folder,
        files=[{"backend": "onnxruntime", "path": "person-n-416-fp32.onnx", "sha256": digest, "precision": "fp32"}],
    )
    with pytest.raises(ModelError, match="cannot load"):
        load(load_model(folder))


def test_manifest_that_does_not_fit_the_file_is_a_model_error(models: Path) -> None:
    folder = models / "person-n" / "1.0.0"
    edit(folder, outputs=["boxes", "other"])
    with pytest.raises(ModelError, match=r"'scores'.* names .*'other'"):
        load(load_model(folder))
    spec = yaml.safe_load((folder / "manifest.yaml").read_text())["input"] | {"size": [320, 320]}
    edit(folder, outputs=["boxes", "scores"], input=spec)
    with pytest.raises(ModelError, match="320"):
        load(load_model(folder))


def test_a_missing_runtime_says_how_to_install_it(bundled: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(HardwareError, match=r"pip install onnxruntime"):
        load(bundled)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["person-s", "person-n"])
@pytest.mark.parametrize("backend", ["onnxruntime", "tflite"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_file_of_the_bundled_models_finds_the_people_of_the_video(
    root: Path, vtest_video: Path, name: str, backend: str, precision: str
) -> None:
    model = find_model(name, root / "models")
    network = next(n for n in model.networks(backend) if n.file.precision == precision)
    detector = ModelDetector(backend, LoadRequest(network, DetectConfig(), Path("never used")))
    capture = cv2.VideoCapture(str(vtest_video))
    capture.set(cv2.CAP_PROP_POS_FRAMES, 300)
    image = capture.read()[1]
    capture.release()
    found = detector.detect(Frame("a", 0, 0.0, 0.0, image))
    sure = found.select(found.scores >= 0.5)
    assert detector.labels == ("person",)
    assert 4 <= len(sure) <= 7  # six people are in this frame, one of them partly behind another
    assert (sure.boxes[:, 3] - sure.boxes[:, 1] > 50).all() and (sure.boxes[:, 3] < 320).all()


@pytest.mark.slow
def test_several_threads_get_the_answers_of_one(bundled: Model, vtest_video: Path) -> None:
    detector = load(bundled)
    capture = cv2.VideoCapture(str(vtest_video))
    frames = [Frame("a", i, 0.0, 0.0, capture.read()[1]) for i in range(8)]
    capture.release()
    frames.append(Frame("a", 8, 0.0, 0.0, np.ascontiguousarray(frames[0].image[:400, :700])))
    alone = [detector.detect(frame) for frame in frames]
    together: dict[int, Detections] = {}

    def work(part: int) -> None:
        for frame in frames[part::3]:
            together[frame.index] = detector.detect(frame)

    threads = [threading.Thread(target=work, args=(part,)) for part in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, expected in enumerate(alone):
        np.testing.assert_array_equal(together[i].boxes, expected.boxes)
        np.testing.assert_array_equal(together[i].scores, expected.scores)
