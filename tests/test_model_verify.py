"""``model list``, ``show``, ``verify`` and ``compile``."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml

from edge_agent.cli import main
from edge_agent.detect.manifest import Network, find_model
from edge_agent.model_tools.compile import parse_report
from edge_agent.model_tools.tflite_file import read_tflite
from tests import model_networks as networks

FOLDER = Path(__file__).parent
TFLITE = FOLDER / "tflite_networks"

# Google's edgetpu_compiler 16.0, as printed with -s for a model of which one operator stays behind.
REPORT = """\
Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 1023 ms.

Input model: model.tflite
Input size: 6.20MiB
Output model: model_edgetpu.tflite
Output size: 6.55MiB
On-chip memory used for caching model parameters: 6.11MiB
On-chip memory remaining for caching model parameters: 1.36MiB
Off-chip memory used for streaming uncached model parameters: {off_chip}
Number of Edge TPU subgraphs: 1
Total number of operations: 66
Operation log: model_edgetpu.log

Model successfully compiled but not all operations are supported by the Edge TPU. […]
Number of operations that will run on Edge TPU: 64
Number of operations that will run on CPU: 2

Operator                       Count      Status

CONV_2D                        55         Mapped to Edge TPU
LOGISTIC                       9          Mapped to Edge TPU
TRANSPOSE                      1          Operation is otherwise supported, but not mapped due to some unspecified limitation
CUSTOM                         1          Operation is working on an unsupported data type
Compilation child process completed within timeout period.
Compilation succeeded!
"""


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, object]]:
    code = main(["model", *map(str, arguments), "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert isinstance(answer, dict)
    return code, answer


def test_models_are_listed_and_shown(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = run(capsys, "list", "--models-dir", models)
    listed = answer["models"]
    assert code == 0 and isinstance(listed, list)
    assert [m["name"] for m in listed] == ["person-n"]
    code, answer = run(capsys, "show", "person-n", "--models-dir", models)
    manifest = answer["manifest"]
    assert code == 0 and isinstance(manifest, dict)
    assert manifest["input"]["size"] == [416, 416]
    assert run(capsys, "show", "nobody", "--models-dir", models)[0] == 3
    for arguments in (["list"], ["show", "person-n"]):
        assert main(["model", *arguments, "--models-dir", str(models)]) == 0
        assert "person-n" in capsys.readouterr().out


@pytest.mark.slow
def test_verify_runs_what_is_whole_and_names_what_is_not(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = models / "person-n" / "1.0.1"
    shutil.copytree(models / "person-n" / "1.0.0", damaged)
    text = (damaged / "manifest.yaml").read_text()
    (damaged / "manifest.yaml").write_text(text.replace("version: 1.0.0", "version: 1.0.1"))
    file = damaged / find_model("person-n@1.0.1", models).manifest.files[-1].path
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    code, answer = run(capsys, "verify", "--models-dir", models)
    checks = answer["checks"]
    assert isinstance(checks, list)
    files = [(what, "ok") for runtime in ("onnxruntime", "tflite") for what in ("sha256", runtime, "golden") * 2]
    whole = [("sha256", "ok"), *files]  # first the golden pictures themselves
    told = [(c["model"], c["what"], c["state"]) for c in checks]
    assert told[: len(whole)] == [("person-n@1.0.0", *what) for what in whole]
    assert told[len(whole) :] == [("person-n@1.0.1", *what) for what in [*whole[:-3], ("sha256", "fail")]]
    assert "damaged" in checks[-1]["text"]
    assert code == 3
    assert run(capsys, "verify", "person-n@1.0.0", "--models-dir", models)[0] == 0


def test_a_manifest_that_cannot_be_read_is_told(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(models / "person-n" / "1.0.0", models / "person-n" / "9.9.9")  # says 1.0.0 and lies in 9.9.9
    shutil.rmtree(models / "person-n" / "1.0.0")
    code, answer = run(capsys, "list", "--models-dir", models)
    assert code == 0 and answer["models"] == [] and "lies in person-n/9.9.9" in str(answer["broken"])
    code, answer = run(capsys, "verify", "--models-dir", models)
    assert (code, answer["ok"]) == (3, False)
    assert "lies in person-n/9.9.9" in str(answer["checks"])


def import_tflite(capsys: pytest.CaptureFixture[str], models: Path, file: str) -> None:
    arguments = ["import", TFLITE / file, "--name", "squares", "--labels", "square", "--family", "yolov8"]
    code, answer = run(capsys, *arguments, "--models-dir", models)
    assert code == 0, answer


@pytest.mark.slow
@pytest.mark.parametrize("file", ["float.tflite", "float_nchw.tflite", "int8.tflite", "uint8.tflite", "ssd.tflite"])
def test_tflite_files_come_in_and_find_the_square(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2
    import numpy as np

    picture = np.zeros((48, 64, 3), np.uint8)
    picture[16:24, 40:48] = 255
    cv2.imwrite(str(tmp_path / "square.png"), picture)
    half = "[127.5, 127.5, 127.5]"
    options = ["--labels", "square", "--models-dir", tmp_path / "models", "--image", tmp_path / "square.png"]
    options += [f"--set=input.{key}={half}" for key in ("mean", "std")]
    options += [] if file == "ssd.tflite" else ["--family", "yolov8"]
    code, answer = run(capsys, "import", TFLITE / file, "--name", "squares", *options)
    assert code == 0, answer
    trial = answer["trial"]
    assert isinstance(trial, dict)
    best = trial["seen"][0]
    assert best["score"] > 0.5
    np.testing.assert_allclose(best["box"], [40, 16, 48, 24], atol=1.5)
    entry = find_model("squares", tmp_path / "models").manifest.files[0]
    assert entry.precision == ("int8" if "int8" in file else entry.precision)


def test_damaged_texts_at_the_end_of_a_tflite_file_say_nothing(tmp_path: Path) -> None:
    path = Path(shutil.copy(TFLITE / "float.tflite", tmp_path))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", "square\n" * 50)
    assert set(read_tflite(path)[0].hints.labels) == {"square"}
    content = bytearray(path.read_bytes())
    packed = content.index(b"labels.txt") + len("labels.txt")
    content[packed : packed + 6] = b"\xff" * 6
    path.write_bytes(content)
    assert read_tflite(path)[0].hints.labels == ()


@pytest.mark.slow
def test_the_same_network_for_other_devices_becomes_one_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import_tflite(capsys, tmp_path, "float.tflite")
    add = ["import", TFLITE / "int8.tflite", "--add-to", "squares", "--models-dir", tmp_path]
    assert run(capsys, *add)[0] == 2  # a version is needed
    assert run(capsys, *add, "--version", "1.1.0", "--labels", "circle")[0] == 2
    code, answer = run(capsys, *add, "--version", "1.1.0")
    assert code == 0, answer
    assert "made for mean 127.5" in str(answer["warnings"])
    code, answer = run(capsys, *add[:1], TFLITE / "edgetpu.tflite", *add[2:], "--version", "1.2.0")
    assert code == 0, answer
    model = find_model("squares", tmp_path)
    assert [(f.path, f.precision, f.device) for f in model.manifest.files] == [
        ("float.tflite", "fp32", "any"),
        ("int8.tflite", "int8", "any"),
        ("edgetpu.tflite", "int8", "edgetpu"),
    ]
    first, second, _ = (Network(model.manifest, file, model.folder) for file in model.manifest.files)
    assert (first.input.dtype, second.input.dtype) == ("float32", "int8")
    assert (len(first.outputs), len(second.outputs)) == (1, 2)
    assert second.input.mean == first.input.mean
    code, answer = run(capsys, "verify", "squares", "--models-dir", tmp_path)
    checks = answer["checks"]
    assert code == 0 and isinstance(checks, list)
    assert [c["state"] for c in checks if c["what"] == "sha256"] == ["ok"] * 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["squares"]


@pytest.mark.slow
def test_a_model_for_the_edge_tpu_comes_in_and_is_not_tried_without_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import_tflite(capsys, tmp_path, "edgetpu.tflite")
    manifest = find_model("squares", tmp_path).manifest
    assert manifest.files[0].device == "edgetpu"
    assert manifest.decode.boxes == "pixels"  # by the scale of its integers, as nothing was run
    code, answer = run(capsys, "verify", "squares", "--models-dir", tmp_path)
    checks = answer["checks"]
    assert isinstance(checks, list)
    assert [c["state"] for c in checks] == ["ok", "skip"]
    assert "Edge TPU" in checks[1]["text"]
    assert code == 0


@pytest.mark.slow
def test_compile_for_openvino_makes_a_version_that_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = tmp_path / "models"
    (tmp_path / "tiny.onnx").write_bytes(networks.yolov8())
    known = ["--labels", ",".join(networks.LABELS), "--models-dir", models]
    code, answer = run(capsys, "import", tmp_path / "tiny.onnx", "--name", "tiny", *known)
    assert code == 0, answer
    arguments = ["compile", "tiny", "--target", "openvino", "--models-dir", models]
    code, answer = run(capsys, *arguments)
    assert (code, answer["made"]) == (0, "tiny@1.0.0-openvino")
    model = find_model("tiny@1.0.0-openvino", models)
    assert [f.backend for f in model.manifest.files] == ["openvino", "onnxruntime"]
    assert find_model("tiny", models).manifest.version == "1.0.0"  # it serves only where it is asked for
    code, answer = run(capsys, "verify", "tiny@1.0.0-openvino", "--models-dir", models)
    checks = answer["checks"]
    assert isinstance(checks, list)
    assert [c["state"] for c in checks] == ["ok"] * 4
    assert run(capsys, *arguments)[0] == 2  # it is there already
    assert run(capsys, *arguments, "--replace")[0] == 0
    arguments[1] = "tiny@1.0.0-openvino"  # what is made would lie where its own file lies
    code, answer = run(capsys, *arguments)
    assert code == 2 and "a file tiny.xml already" in str(answer["problems"])
    # The IR by itself, as an integrator would get it from somebody.
    source = models / "tiny" / "1.0.0-openvino" / model.manifest.files[0].path
    code, answer = run(capsys, "import", source, "--name", "ir", *known)
    assert code == 0, answer
    entry = find_model("ir", models).manifest.files[0]
    assert (entry.backend, len(entry.parts)) == ("openvino", 1)
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:  # the folder that an exporter makes
        archive.write(source, "m_openvino_model/m.xml")
        archive.write(source.with_suffix(".bin"), "m_openvino_model/m.bin")
        archive.writestr(
            "m_openvino_model/metadata.yaml",
            "task: detect\nlicense: MIT\nnames:\n  0: man\n  1: woman\n  2: child\nx: &x [1]\ny: *x\n",
        )
    code, answer = run(capsys, "import", tmp_path / "export.zip", "--name", "zipped", "--models-dir", models)
    assert code == 0, answer
    zipped = find_model("zipped", models).manifest
    assert (zipped.labels, zipped.licence, zipped.files[0].precision) == (("man", "woman", "child"), "MIT", "fp16")


def test_without_its_tools_a_target_says_what_to_do(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    code, answer = run(capsys, "compile", "person-n", "--target", "coral", "--models-dir", models)
    assert code == 3 and "apt-get install edgetpu-compiler" in str(answer["problems"])
    squares = tmp_path / "squares"
    import_tflite(capsys, squares, "float.tflite")
    code, answer = run(capsys, "compile", "squares", "--target", "coral", "--models-dir", squares)
    assert code == 3 and "full-integer TFLite" in str(answer["problems"])
    code, answer = run(capsys, "compile", "person-n", "--target", "tensorrt", "--models-dir", models)
    assert code == 3, answer
    assert sorted(p.name for p in models.iterdir()) == ["person-n"]


@pytest.mark.slow
def test_coral_without_the_compiler(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import_tflite(capsys, tmp_path, "int8.tflite")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    code, answer = run(capsys, "compile", "squares", "--target", "coral", "--models-dir", tmp_path)
    assert code == 3
    assert "apt-get install edgetpu-compiler" in str(answer["problems"])


def put_compiler(folder: Path, script: str) -> None:
    folder.mkdir()
    path = folder / "edgetpu_compiler"
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)


@pytest.mark.slow
def test_coral_with_a_program_that_speaks_as_the_compiler_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler itself cannot be had here: a script prints its report and gives a file compiled in the form it gives."""
    models = tmp_path / "models"
    import_tflite(capsys, models, "int8.tflite")
    (tmp_path / "report").write_text(REPORT.format(off_chip="1.25MiB"))
    body = f'[ "$1" = -s ] && [ "$2" = -o ] || exit 9\ncp {TFLITE}/edgetpu.tflite "$3/int8_edgetpu.tflite"\ncat {tmp_path}/report\n'
    put_compiler(tmp_path / "bin", body)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    code, answer = run(capsys, "compile", "squares", "--target", "coral", "--models-dir", models)
    assert (code, answer["text"]) == (0, "64 of 66 operations run on the Edge TPU")
    warnings = str(answer["warnings"])
    assert "1 x TRANSPOSE stays on the CPU" in warnings and "1.25MiB of weights" in warnings
    made = find_model("squares@1.0.0-coral", models)
    assert [(f.device, f.path) for f in made.manifest.files] == [
        ("edgetpu", "int8_edgetpu.tflite"),
        ("any", "int8.tflite"),
    ]
    raw = yaml.safe_load((made.folder / "manifest.yaml").read_text())
    assert raw["version"] == "1.0.0-coral"


@pytest.mark.slow
def test_what_the_compiler_refuses_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    import_tflite(capsys, models, "int8.tflite")
    put_compiler(tmp_path / "bin", 'echo "Invalid model: model.tflite"\necho "Model not quantized" >&2\nexit 1\n')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    code, answer = run(capsys, "compile", "squares", "--target", "coral", "--models-dir", models)
    assert code == 3 and "Model not quantized" in str(answer["problems"])
    assert [p.name for p in (models / "squares").iterdir()] == ["1.0.0"]
    assert [p.name for p in models.iterdir()] == ["squares"]


def test_the_report_of_the_compiler() -> None:
    report = parse_report(REPORT.format(off_chip="0.00B"))
    assert (report.mapped, report.on_cpu) == (64, 2)
    assert [(name, count) for name, count, _ in report.left] == [("TRANSPOSE", 1), ("CUSTOM", 1)]
    assert len(report.warnings()) == 2
    whole = "Model compiled successfully\n\nOperator   Count  Status\n\nCONV_2D    3      Mapped to Edge TPU\n"
    assert (parse_report(whole).mapped, parse_report(whole).on_cpu, parse_report(whole).left) == (3, 0, ())
