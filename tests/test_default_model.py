"""``model: auto`` and ``detect.precision``: which model, and which of its files, on which box."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_agent.cli import main
from edge_agent.config import DetectConfig
from edge_agent.detect.backends import choice, openvino, tensorrt, tflite
from edge_agent.detect.backends.choice import CANDIDATES, choose, usable_files
from edge_agent.detect.backends.cpu import multiplies_bfloat16, multiplies_bytes
from edge_agent.detect.default_model import take_model
from edge_agent.detect.manifest import Model, load_model
from edge_agent.errors import HardwareError, ModelError
from tests.agent_process import write_config
from tests.model_manifests import COMPILED, FILES, IR, write_model


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with both bundled models, without their files."""
    for name in ("person-s", "person-n"):
        write_model(tmp_path / "models", name)
    return tmp_path / "models"


Box = Callable[..., None]


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Box:
    """Let the box have these accelerators and no others, as far as the candidates can tell: ``tensorrt``, ``coral``, ``gpu``."""

    def install(*there: str) -> None:
        known = {
            "tensorrt": (tensorrt, "available"),
            "coral": (tflite, "accelerator"),
            "gpu": (openvino, "accelerator"),
        }
        for name, (module, question) in known.items():
            monkeypatch.setattr(module, question, lambda _, name=name: "" if name in there else f"no {name} here")

    return install


def settings(**values: Any) -> DetectConfig:
    return DetectConfig.model_validate(values)


# ---- which model


@pytest.mark.parametrize(
    ("there", "config", "name", "why"),
    [
        ((), {}, "person-n", "no tensorrt here"),
        (("tensorrt",), {}, "person-s", "tensorrt has room"),
        (("gpu",), {}, "person-s", "openvino on a GPU or NPU has room"),
        (("coral",), {}, "person-n", "no gpu here"),
        (("coral", "gpu"), {}, "person-s", "openvino on a GPU or NPU has room"),
        (("tensorrt", "coral", "gpu"), {}, "person-s", "tensorrt has room"),
        # What the configuration names decides, whatever else is in the box.
        (("tensorrt", "gpu"), {"backend": "onnxruntime"}, "person-n", "for want"),
        (("tensorrt", "gpu"), {"backend": "tflite"}, "person-n", "for want"),
        (("gpu",), {"backend": "openvino"}, "person-s", "openvino on a GPU or NPU has room"),
        (("tensorrt",), {"backend": "openvino"}, "person-n", "no gpu here"),
        (("gpu",), {"backend": "tensorrt"}, "person-n", "no tensorrt here"),
    ],
)
def test_the_model_that_is_right_for_the_box(
    models: Path, box: Box, there: tuple[str, ...], config: dict[str, Any], name: str, why: str
) -> None:
    box(*there)
    taken = take_model("auto", models, settings(**config))
    assert (taken.model.manifest.name, taken.model.folder) == (name, models / name / "1.0.0")
    assert taken.why.startswith("auto: ") and why in taken.why


def test_a_coral_with_a_file_of_its_own_serves_and_has_no_room(tmp_path: Path, box: Box) -> None:
    for name in ("person-s", "person-n"):
        write_model(tmp_path, name, (COMPILED, *FILES))
    box("coral", "gpu")
    taken = take_model("auto", tmp_path, settings())
    assert taken.model.manifest.name == "person-n" and "Edge TPU" in taken.why
    assert choose(taken.model, settings()).network.file.device == "edgetpu"


def test_a_box_without_accelerators_is_asked_for_nothing_else(
    models: Path, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing a runtime takes a second on a small box, and ``check`` need not."""

    def slow(_: DetectConfig) -> str:
        raise AssertionError("asked for a CPU")

    box()
    cpu = [c if c.roomy or "Edge TPU" in c.name else replace(c, missing=slow) for c in CANDIDATES]
    monkeypatch.setattr(choice, "CANDIDATES", cpu)
    assert take_model("auto", models, settings()).model.manifest.name == "person-n"


def test_a_vendor_package_that_breaks_is_no_accelerator(
    models: Path, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: DetectConfig) -> str:
        raise SystemError("initialisation of nothing raised unreported exception")

    box()
    monkeypatch.setattr(tensorrt, "available", broken)
    taken = take_model("auto", models, settings())
    assert taken.model.manifest.name == "person-n" and "tensorrt: it cannot be asked for" in taken.why


def test_a_name_is_taken_as_it_is(models: Path, box: Box) -> None:
    box("tensorrt")
    for reference in ("person-n", "person-n@1.0.0"):
        taken = take_model(reference, models, settings())
        assert (taken.model.manifest.name, taken.why) == ("person-n", "")


@pytest.mark.parametrize("missing", ["person-s", "person-n"])
def test_a_folder_that_lacks_one_is_told(tmp_path: Path, missing: str) -> None:
    write_model(tmp_path, "person-n" if missing == "person-s" else "person-s")
    write_model(tmp_path, "mine")
    with pytest.raises(ModelError) as told:
        take_model("auto", tmp_path, settings())
    said = str(told.value)
    assert f"model '{missing}' is not in {tmp_path}" in said and "mine@1.0.0" in said  # what was given, what is there
    assert "`model: auto` chooses between person-s and person-n" in said and "name another model" in said


def test_no_model_is_called_auto(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = root / "tests" / "decoder_networks" / "yolov8_layout" / "1" / "model.onnx"
    assert file.is_file()
    assert main(["model", "import", str(file), "--name", "auto", "--labels", "a", "--models-dir", str(tmp_path)]) == 2
    assert "--name auto" in capsys.readouterr().err


# ---- what check says


@pytest.fixture
def with_files(models: Path) -> Path:
    """Both models, with something in place of each file: ``check`` loads none."""
    for folder in models.glob("*/1.0.0"):
        for file in load_model(folder).manifest.files:
            (folder / file.path).write_bytes(b"")
    return models


@pytest.mark.parametrize(("there", "name"), [((), "person-n"), (("tensorrt",), "person-s")])
def test_check_says_which_model_and_why(
    root: Path,
    tmp_path: Path,
    with_files: Path,
    box: Box,
    capsys: pytest.CaptureFixture[str],
    there: tuple[str, ...],
    name: str,
) -> None:
    box(*there)
    config = write_config(root, tmp_path, models_dir=str(with_files))
    assert yaml.safe_load(config.read_text(encoding="utf-8"))["model"] == "auto", "the annotated example leaves it open"
    assert main(["check", "-c", str(config), "--json"]) == 0
    fact = json.loads(capsys.readouterr().out)["facts"][0]
    assert fact.startswith(f"model {name}@1.0.0: person, input 416x416 (auto: ")


def test_check_refuses_a_precision_that_the_model_does_not_have(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path / "models", "mine", FILES[:1])
    (tmp_path / "models" / "mine" / "1.0.0" / "fp32-any.onnx").write_bytes(b"")
    change = {"models_dir": str(tmp_path / "models"), "model": "mine"}
    config = write_config(root, tmp_path, detect={"backend": "onnxruntime", "precision": "int8"}, **change)
    assert main(["check", "-c", str(config)]) == 3
    said = capsys.readouterr().err
    assert "mine@1.0.0 has no int8 file" in said and "fp32" in said and "detect.precision" in said
    fits = write_config(root, tmp_path, detect={"backend": "onnxruntime", "precision": "fp32"}, **change)
    assert main(["check", "-c", str(fits)]) == 0


# ---- which file


@pytest.mark.parametrize(
    ("name", "in_bytes", "in_bfloat16"),
    [
        ("epyc-zen4", True, True),  # avx512_vnni, avx512_bf16
        ("core-12th-generation", True, False),  # avx_vnni
        ("celeron-j4125", False, False),
        ("raspberry-pi-4", False, False),  # Cortex-A72
        ("raspberry-pi-5", True, False),  # Cortex-A76
    ],
)
def test_what_the_kernel_says_of_cpus(root: Path, name: str, in_bytes: bool, in_bfloat16: bool) -> None:
    cpuinfo = root / "tests" / "cpuinfo" / f"{name}.txt"
    assert (multiplies_bytes(cpuinfo), multiplies_bfloat16(cpuinfo)) == (in_bytes, in_bfloat16)


def test_a_cpu_that_says_nothing_can_nothing(tmp_path: Path) -> None:
    assert multiplies_bytes(tmp_path / "none") is False
    (tmp_path / "odd").write_bytes(b"processor : 0\nmodel name : avx_vnni \xff\nflags\n")
    assert multiplies_bytes(tmp_path / "odd") is False


def taken_file(model: Model, config: DetectConfig, *, on: str) -> tuple[str, str, str]:
    """The file that the candidate ``on`` would take."""
    found = next(c for c in CANDIDATES if c.name == on)
    file = found.files(model, config)[0].file
    return file.backend, file.precision, file.device


@pytest.mark.parametrize("dot_products", [True, False])
def test_each_runtime_takes_the_file_that_is_right_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dot_products: bool
) -> None:
    monkeypatch.setattr(choice, "multiplies_bytes", lambda: dot_products)
    model, auto = write_model(tmp_path, "person-n", (COMPILED, *FILES)), settings()
    assert taken_file(model, auto, on="onnxruntime")[1] == ("int8" if dot_products else "fp32")
    gpu = settings(onnxruntime={"providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]})
    assert taken_file(model, gpu, on="onnxruntime")[1] == "fp32"
    assert taken_file(model, auto, on="tflite on the CPU") == ("tflite", "int8", "any")
    for name in ("tensorrt", "openvino on a GPU or NPU", "openvino on the CPU"):
        assert taken_file(model, auto, on=name) == ("onnxruntime", "fp32", "any")
    integers = settings(tensorrt={"precision": "int8"})
    calibrated = settings(tensorrt={"precision": "int8", "calibration_images": "pictures"})
    assert [taken_file(model, c, on="tensorrt")[1] for c in (integers, calibrated)] == ["int8", "fp32"]
    assert taken_file(model, auto, on="tflite on an Edge TPU or delegate") == COMPILED
    npu = settings(tflite={"delegate": "libvx_delegate.so"})
    assert taken_file(model, npu, on="tflite on an Edge TPU or delegate") == ("tflite", "int8", "any")


def test_an_ir_comes_before_onnx_for_openvino(tmp_path: Path) -> None:
    model = write_model(tmp_path, "person-n", (*FILES, IR))
    assert taken_file(model, settings(), on="openvino on the CPU") == IR
    assert taken_file(model, settings(precision="fp32"), on="openvino on the CPU") == FILES[0]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("dot_products", [True, False])
def test_a_precision_that_is_named_is_taken_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, dot_products: bool
) -> None:
    monkeypatch.setattr(choice, "multiplies_bytes", lambda: dot_products)
    model, config = write_model(tmp_path, "person-n", (*FILES, IR)), settings(precision=precision)
    for backend in ("onnxruntime", "openvino", "tflite"):
        found = usable_files(model, config.model_copy(update={"backend": backend}))
        assert found and {network.file.precision for network in found} == {precision}


def test_a_precision_that_no_file_has_is_an_error_and_never_another(tmp_path: Path, box: Box) -> None:
    box()
    model = write_model(tmp_path, "mine", FILES[:1])
    for backend in ("auto", "onnxruntime"):
        with pytest.raises(HardwareError, match=r"no int8 file for it \(it has: onnxruntime fp32\)"):
            choose(model, settings(precision="int8", backend=backend))


def test_a_coral_without_a_compiled_file_is_told_what_to_do(models: Path, box: Box) -> None:
    box("coral")
    model = take_model("auto", models, settings()).model
    chosen = choose(model, settings())
    assert "Edge TPU" not in chosen.name
    said = chosen.reasons["tflite on an Edge TPU or delegate"]
    assert "edge-agent model compile person-n@1.0.0 --target coral" in said and "person-n@1.0.0-coral" in said
    floats = choose(model, settings(precision="fp32"))
    assert "no fp32 file" in floats.reasons["tflite on an Edge TPU or delegate"]
