"""``model import``: what it guesses of networks shaped as other projects export them, and that the guess sees the right boxes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from edge_agent.cli import main
from edge_agent.detect.manifest import FamilyName, Model, find_model, list_models
from edge_agent.errors import ModelError, UsageError
from edge_agent.model_tools.guess import _USUAL, Choices, Question
from edge_agent.model_tools.importer import Imported, ImportRequest, import_model
from edge_agent.model_tools.labels import COCO, SETS
from edge_agent.model_tools.parity import read_pictures
from edge_agent.types import U8
from tests import model_networks as networks
from tests import onnx_writer
from tests.onnx_writer import network

WIDE = (192, 128)
"""The picture they are tried on: twice the size of their input, so that letterbox and stretch do the same."""


def nobody(questions: list[Question], _: Choices) -> Choices:
    raise UsageError("; ".join(f"{q.option}: {q.text}" for q in questions))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    import cv2

    image: U8 = np.full((WIDE[1], WIDE[0], 3), 90, np.uint8)
    cv2.imwrite(str(tmp_path / "picture.png"), image)
    return tmp_path / "picture.png"


@pytest.fixture
def take(tmp_path: Path, picture: Path) -> Callable[..., Imported]:
    def take(content: bytes, labels: tuple[str, ...] = networks.LABELS, **more: object) -> Imported:
        file = tmp_path / "network.onnx"
        file.write_bytes(content)
        choices = Choices(labels=labels, labels_from="test", **more)  # type: ignore[arg-type]
        request = ImportRequest(file, "tiny", "1.0.0", tmp_path / "models", choices, image=picture)
        return import_model(request, nobody)

    return take


FAMILIES: dict[str, tuple[Callable[[], bytes], dict[str, object]]] = {
    "yolov8": (networks.yolov8, {"boxes": "pixels"}),
    "yolov8 in two tensors": (networks.yolov8_split, {"boxes": "pixels", "transposed": False}),
    "fcos": (networks.fcos, {"scores": "logit"}),
    "yolox raw": (lambda: networks.yolox(decoded=False), {"decoded": False}),
    "yolox decoded": (lambda: networks.yolox(decoded=True), {"decoded": True}),
    "yolov5": (networks.yolov5, {"boxes": "pixels"}),
    "yolov10": (networks.yolov10, {"boxes": "pixels"}),
    "yolov4": (networks.yolov4, {"boxes": "normalised"}),
    "rtdetr": (networks.rtdetr, {"boxes": "normalised", "scores": "logit"}),
    "yolonas": (networks.yolonas, {"boxes": "pixels"}),
    "boxes_labels_scores": (networks.torchvision, {"boxes": "pixels", "background": True}),
    "ssd": (networks.ssd, {"boxes": "normalised"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_told_by_its_outputs_and_sees_what_is_there(take: Callable[..., Imported], name: str) -> None:
    make, decode = FAMILIES[name]
    result = take(make())
    manifest = result.model.manifest
    assert manifest.family == name.split(maxsplit=1)[0]
    assert {key: getattr(manifest.decode, key) for key in decode} == decode
    assert manifest.input.size == networks.SIZE
    assert result.sight is not None
    seen = [s for s in result.sight.seen or () if s.score > 0.5]
    assert [s.label for s in seen] == ["cat", "hen"]
    np.testing.assert_allclose([s.box for s in seen], networks.BOXES * 2, atol=0.2)
    np.testing.assert_allclose([s.score for s in seen], networks.SCORES, atol=0.01)
    assert result.warnings == ()
    assert all(reason.because for reason in result.reasons)


def test_every_family_that_a_manifest_can_name_is_one_of_them() -> None:
    assert {name.split(maxsplit=1)[0] for name in FAMILIES} == set(get_args(FamilyName)) == set(_USUAL)


@pytest.mark.slow
def test_what_an_exporter_wrote_into_the_file_is_used(take: Callable[..., Imported]) -> None:
    result = take(networks.yolov8(metadata=networks.yolov8_metadata(), open_size=True), labels=())
    manifest = result.model.manifest
    assert manifest.labels == networks.LABELS
    assert manifest.input.size == networks.SIZE
    assert manifest.licence == "MIT"
    assert "metadata" in {r.key: r.because for r in result.reasons}["labels"]


@pytest.mark.slow
def test_other_tasks_are_refused(take: Callable[..., Imported]) -> None:
    with pytest.raises(ModelError, match="segment"):
        take(networks.yolov8(metadata=networks.yolov8_metadata() | {"task": "segment"}))


@pytest.mark.slow
def test_what_cannot_be_known_is_asked_for(take: Callable[..., Imported]) -> None:
    with pytest.raises(UsageError, match=r"--labels.*3 class"):
        take(networks.yolov8(), labels=())
    with pytest.raises(UsageError, match=r"--size.*open"):
        take(networks.yolov8(open_size=True))
    with pytest.raises(UsageError, match="3 classes, but there are 20 labels"):
        take(networks.yolov8(), labels=SETS["voc"])


@pytest.mark.slow
def test_a_family_that_the_user_names_must_fit(take: Callable[..., Imported]) -> None:
    with pytest.raises(UsageError, match="do not fit that family"):
        take(networks.yolov8(), family="ssd")
    with pytest.raises(UsageError, match="there are: yolov8"):
        take(networks.yolov8(), family="yolov99")
    assert take(networks.yolov8(), family="yolov8").model.manifest.family == "yolov8"


@pytest.mark.slow
def test_a_version_that_is_there_is_not_overwritten(take: Callable[..., Imported], tmp_path: Path) -> None:
    first = take(networks.yolov8()).model.manifest
    with pytest.raises(UsageError, match="--replace"):
        take(networks.yolov5())
    assert find_model("tiny", tmp_path / "models").manifest == first
    assert [p.name for p in (tmp_path / "models").iterdir()] == ["tiny"]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, object]]:
    code = main(["model", *map(str, arguments), "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert isinstance(answer, dict)
    return code, answer


@pytest.mark.slow
def test_the_bundled_model_comes_in_as_itself(
    bundled: Model, vtest_video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    source, theirs = bundled.network("onnxruntime").path, bundled.manifest
    cv2.imwrite(str(tmp_path / "frame.png"), list(read_pictures(vtest_video, 5))[1][1])
    mean, std = list(theirs.input.mean), list(theirs.input.std)
    settings = [f"--set=input.mean={mean}", f"--set=input.std={std}", "--set=input.position=top_left"]
    arguments = ["import", source, "--name", "again", "--labels", "person", "--models-dir", tmp_path, *settings]
    code, answer = run(capsys, *arguments, "--licence", "Apache-2.0", "--image", tmp_path / "frame.png")
    assert code == 0, answer
    ours = find_model("again", tmp_path).manifest
    assert ours.input == theirs.input
    assert (ours.family, ours.labels, ours.outputs) == (theirs.family, theirs.labels, theirs.outputs)
    assert ours.decode == theirs.decode
    assert ours.files == theirs.files[:1]
    trial = answer["trial"]
    assert isinstance(trial, dict)
    people = [s for s in trial["seen"] if s["score"] >= 0.5]
    assert len(people) >= 3
    assert answer["warnings"] == []


@pytest.mark.slow
def test_wrong_scores_and_boxes_are_noticed(picture: Path, tmp_path: Path) -> None:
    file = tmp_path / "network.onnx"
    file.write_bytes(networks.yolov8())
    choices = Choices(labels=networks.LABELS)
    wrong = (("decode.boxes", "normalised"),)
    request = ImportRequest(file, "tiny", "1.0.0", tmp_path / "models", choices, overrides=wrong)
    assert "boxes outside the picture (decode.boxes" in " ".join(import_model(request, nobody).warnings)
    file.write_bytes(networks.rtdetr())
    wrong = (("decode.boxes", "pixels"),)
    request = ImportRequest(file, "small", "1.0.0", tmp_path / "models", choices, overrides=wrong, image=picture)
    assert "2 of 2 boxes are narrower than a pixel" in " ".join(import_model(request, nobody).warnings)
    empty = network({"output0": np.full((1, 7, len(networks.cells())), 0.001, np.float32)}, size=networks.SIZE)
    file.write_bytes(empty)
    request = ImportRequest(file, "empty", "1.0.0", tmp_path / "models", choices)
    assert "nothing seen" in " ".join(import_model(request, nobody).warnings)


@pytest.mark.slow
def test_settings_that_no_manifest_has_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "network.onnx"
    file.write_bytes(networks.yolov8())
    base = ["import", file, "--name", "tiny", "--labels", "a,b,c", "--models-dir", tmp_path / "models"]
    assert run(capsys, *base, "--set", "input.colour=PINK")[0] == 3
    assert run(capsys, *base, "--set", "files=[]")[0] == 2
    assert run(capsys, *base, "--version", "../../1")[0] == 2
    assert list_models(tmp_path / "models") == []


@pytest.mark.slow
def test_a_zip_and_data_beside_the_file_come_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights in a file of their own, as large networks are exported, packed together."""
    weights = np.zeros((1, 7, len(networks.cells())), np.float32)
    tensors = [onnx_writer.external("w", weights.shape, "net.data")]
    nodes = [
        onnx_writer.node("ReduceMean", ["images"], ["m"], axes=[1, 2, 3], keepdims=0),
        onnx_writer.node("Add", ["m", "w"], ["output0"]),
    ]
    image = onnx_writer.value_info("images", 1, [1, 3, networks.SIZE[1], networks.SIZE[0]])
    out = onnx_writer.value_info("output0", 1, weights.shape)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("export/net.onnx", onnx_writer.model(onnx_writer.graph(nodes, [image], [out], tensors)))
        archive.writestr("export/net.data", weights.tobytes())
        archive.writestr("export/readme.txt", "hello")
        archive.writestr("__MACOSX/export/._net.onnx", "x")
    code, answer = run(
        capsys, "import", tmp_path / "all.zip", "--name", "z", "--labels", "a,b,c", "--models-dir", tmp_path
    )
    assert code == 0, answer
    folder = tmp_path / "z" / "1.0.0"
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.yaml", "net.data", "net.onnx"]
    assert [p.path for p in find_model("z", tmp_path).manifest.files[0].parts] == ["net.data"]
    assert run(capsys, "verify", "z", "--models-dir", tmp_path)[0] == 0
    (folder / "net.data").write_bytes(b"1" + (folder / "net.data").read_bytes()[1:])
    assert run(capsys, "verify", "z", "--models-dir", tmp_path)[0] == 3


@pytest.mark.slow
def test_on_a_terminal_it_asks(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(networks.yolov8(open_size=True))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "edge_agent.cli", "model", "import", "x.onnx", "--name", "x", "--models-dir", "."]
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as child:
        os.write(ours, f"{networks.SIZE[0]}x{networks.SIZE[1]}\ncat,dog,hen\n".encode())
        said = child.communicate(timeout=120)[0].decode()
    os.close(ours)
    os.close(theirs)
    assert child.returncode == 0, said
    assert "--size: " in said and "--labels: " in said
    manifest = find_model("x", tmp_path).manifest
    assert (manifest.input.size, manifest.labels) == (networks.SIZE, networks.LABELS)


def test_label_sets_and_files(tmp_path: Path) -> None:
    from edge_agent.model_tools.labels import parse_labels, read_labels

    assert len(COCO) == 80 and len(set(COCO)) == 80
    assert (COCO[0], COCO[16], COCO[79]) == ("person", "dog", "toothbrush")
    by_id = SETS["coco91"]
    assert (by_id[0], by_id[11], by_id[43], by_id[89]) == ("person", "unused 12", "bottle", "toothbrush")
    assert len(SETS["voc"]) == 20
    (tmp_path / "names.txt").write_text("red\n\ngreen thing\n", encoding="utf-8")
    assert read_labels(str(tmp_path / "names.txt")) == ("red", "green thing")
    assert read_labels("red,green") == ("red", "green")
    assert parse_labels("0  person\n2  car\n", "x") == ("person", "unused 1", "car")
    with pytest.raises(UsageError, match=r"coco, coco91, voc"):
        read_labels("no/such/file.txt")
    with pytest.raises(ModelError, match="no label"):
        parse_labels("a\x00b", "x")
