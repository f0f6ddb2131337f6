"""Which backend is taken, and what is said of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.config import DetectConfig
from edge_agent.detect.backends import BACKENDS, LoadRequest
from edge_agent.detect.backends import choice as module
from edge_agent.detect.backends.choice import CANDIDATES, choose
from edge_agent.detect.manifest import Model
from edge_agent.errors import HardwareError, ModelError
from tests.conformance.backend_rows import ONNX_CASES, TFLITE_CASES, Case, as_ir, network
from tests.cpu_candidates import CPU_NAMES, FIRST_CPU

ONNX = ONNX_CASES[0]
TFLITE = TFLITE_CASES[0]
IR = Case("ir", as_ir("float"), backend="openvino")


def settings(**values: Any) -> DetectConfig:
    return DetectConfig.model_validate(values)


def model(folder: Path, cases: Sequence[Case], edgetpu: Sequence[Case] = ()) -> Model:
    """One model with a file for each case, those of ``edgetpu`` as if compiled for it."""
    made = [network(case, folder) for case in cases]
    compiled = [network(case, folder) for case in edgetpu]
    files = [n.file for n in made] + [n.file.model_copy(update={"device": "edgetpu"}) for n in compiled]
    return Model((made + compiled)[0].manifest.model_copy(update={"files": tuple(files)}), folder)


@pytest.fixture
def plain_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the machine had no accelerator, whichever it has."""
    without = [c if c.name in CPU_NAMES else replace(c, missing=lambda _: "there is none") for c in CANDIDATES]
    monkeypatch.setattr(module, "CANDIDATES", without)


@pytest.mark.usefixtures("plain_box")
@pytest.mark.parametrize(
    ("cases", "name"),
    [
        ([ONNX, TFLITE, IR], FIRST_CPU.name),
        ([IR, TFLITE], "openvino on the CPU"),
        ([TFLITE], "tflite on the CPU"),
    ],
)
def test_on_a_plain_box(tmp_path: Path, cases: list[Case], name: str) -> None:
    chosen = choose(model(tmp_path, cases), settings())
    assert chosen.name == name
    assert chosen.network.file.backend == chosen.backend == name.partition(" ")[0]
    assert set(chosen.reasons) == {c.name for c in CANDIDATES} - {name}
    assert all(chosen.reasons.values())
    BACKENDS[chosen.backend](LoadRequest(chosen.network, chosen.config, tmp_path / "cache")).close()


def test_this_machine_says_why_each_accelerator_was_not_taken(tmp_path: Path) -> None:
    chosen = choose(model(tmp_path, [ONNX]), settings())
    for name, reason in chosen.reasons.items():
        assert "cannot be asked" not in reason, f"{name}: {reason}"
        assert len(reason) > 15


def test_the_order_where_everything_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CANDIDATES", [replace(c, missing=lambda _: "") for c in CANDIDATES])
    every = model(tmp_path, [ONNX, TFLITE, IR], edgetpu=[TFLITE_CASES[3]])
    taken: list[str] = []
    for _ in CANDIDATES:
        chosen = choose(every, settings(), failed=dict.fromkeys(taken, "it did not load"))
        assert [chosen.reasons[name] for name in taken] == ["it did not load"] * len(taken)
        taken.append(chosen.name)
    assert [name.partition(" ")[0] for name in taken[:3]] == ["tensorrt", "tflite", "openvino"]
    assert sorted(taken[3:]) == ["onnxruntime", "openvino on the CPU", "tflite on the CPU"]
    with pytest.raises(HardwareError, match=r"tiny@1 cannot run here: .*it did not load"):
        choose(every, settings(), failed=dict.fromkeys(taken, "it did not load"))


def test_the_file_compiled_for_the_edge_tpu_is_for_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = model(tmp_path, [TFLITE], edgetpu=[TFLITE_CASES[3]])
    there = [replace(c, missing=lambda _: "") if "Edge TPU" in c.name else c for c in CANDIDATES]
    monkeypatch.setattr(module, "CANDIDATES", there)
    assert choose(both, settings()).network.file.device == "edgetpu"
    without = choose(both, settings(), failed={there[1].name: "unplugged"})
    assert (without.name, without.network.file.device) == ("tflite on the CPU", "any")
    # A delegate of another make takes the plain file.
    other = choose(both, settings(tflite={"delegate": "libvx_delegate.so"}))
    assert other.network.file.device == "any" and other.config.tflite.delegate == "libvx_delegate.so"
    assert (
        choose(
            both, settings(tflite={"delegate": "libvx_delegate.so"}), failed={there[1].name: "no"}
        ).config.tflite.delegate
        is None
    )


@pytest.mark.usefixtures("plain_box")
def test_a_model_for_an_edge_tpu_that_is_not_there(tmp_path: Path) -> None:
    compiled = model(tmp_path, [], edgetpu=[TFLITE])
    for backend in ("auto", "tflite"):
        with pytest.raises(HardwareError, match="there is none"):
            choose(compiled, settings(backend=backend))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "tensorrt"])
def test_a_named_backend_without_a_file_is_a_model_error(tmp_path: Path, backend: str) -> None:
    with pytest.raises(ModelError, match=rf"no file for backend '{backend}' \(it has: tflite\)"):
        choose(model(tmp_path, [TFLITE]), settings(backend=backend))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            {"backend": "onnxruntime", "onnxruntime": {"providers": ["ROCMExecutionProvider"]}},
            "no ROCMExecutionProvider",
        ),
        ({"backend": "openvino", "openvino": {"device": "GPU.7"}}, "GPU"),
        ({"backend": "tflite", "tflite": {"delegate": "libnothing.so"}}, "libnothing.so"),
    ],
)
def test_a_named_backend_is_never_replaced(tmp_path: Path, config: dict[str, Any], says: str) -> None:
    with pytest.raises(HardwareError, match=f"cannot run with {config['backend']}: .*{says}"):
        choose(model(tmp_path, [ONNX, TFLITE]), settings(**config))


def test_a_named_backend_runs_as_it_is_configured(tmp_path: Path) -> None:
    config = settings(backend="openvino", openvino={"device": "CPU", "hint": "latency"})
    chosen = choose(model(tmp_path, [ONNX, IR]), config)
    assert (chosen.name, chosen.network.file.backend, chosen.config) == ("openvino", "openvino", config)


def test_a_vendor_package_that_breaks_is_only_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: DetectConfig) -> str:
        raise SystemError("initialisation of nothing raised unreported exception")

    monkeypatch.setattr(module, "CANDIDATES", [replace(CANDIDATES[0], missing=broken), *CANDIDATES[1:]])
    chosen = choose(model(tmp_path, [ONNX]), settings())
    assert "SystemError: initialisation" in chosen.reasons["tensorrt"]


def test_quantised_files_are_for_those_who_ask_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CANDIDATES", [replace(c, missing=lambda _: "") for c in CANDIDATES])
    both = model(tmp_path, [ONNX, next(c for c in ONNX_CASES if c.precision == "int8")])
    assert choose(both, settings()).network.file.precision == "fp32"
    assert choose(both, settings(tensorrt={"precision": "int8"})).network.file.precision == "int8"
