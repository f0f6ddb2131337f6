"""What is OpenVINO's own; what every backend must do is in ``conformance/test_backends.py``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.config import DetectConfig
from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.backends.openvino import OpenVinoBackend, accelerator, available
from edge_agent.errors import HardwareError, ModelError
from tests.conformance.backend_rows import Case, as_ir, copied, network

GPU = any(Path("/dev/dri").glob("renderD*"))
NPU = any(Path("/dev/accel").glob("accel*"))


def settings(**values: Any) -> DetectConfig:
    return DetectConfig.model_validate({"openvino": {"device": "CPU"} | values})


def load(case: Case, folder: Path, config: DetectConfig | None = None, **change: Any) -> OpenVinoBackend:
    tiny = network(case, folder / "model", **change)
    return OpenVinoBackend(LoadRequest(tiny, config or settings(), folder / "cache"))


FLOAT = Case("float", copied("float.onnx"))


@pytest.mark.skipif(GPU, reason="this machine has a GPU")
@pytest.mark.parametrize("device", ["GPU", "GPU.1", "MULTI:CPU,GPU"])
def test_a_device_that_is_not_there_is_an_error_that_lists_those_that_are(tmp_path: Path, device: str) -> None:
    with pytest.raises(HardwareError, match=r"no device 'GPU(\.1)?' here \(there: CPU\)"):
        load(FLOAT, tmp_path, settings(device=device))
    assert "GPU" in available(settings(device=device))
    assert accelerator(settings(device=device))


def test_auto_takes_the_cpu_where_there_is_nothing_else(tmp_path: Path) -> None:
    config = settings(device="AUTO")
    assert available(config) == ""
    if not (GPU or NPU):
        assert accelerator(config) == "no GPU: there is no /dev/dri/renderD*; no NPU: there is no /dev/accel/accel*"
        assert load(FLOAT, tmp_path, config).device == "CPU"
    assert accelerator(settings(device="CPU")) == "detect.openvino.device is CPU"


def test_hints(tmp_path: Path) -> None:
    assert load(FLOAT, tmp_path, settings(hint="latency")).concurrency == 1
    assert 1 <= load(FLOAT, tmp_path, settings(hint="throughput")).concurrency <= len(os.sched_getaffinity(0))


def test_a_float_file_is_calculated_in_float(tmp_path: Path) -> None:
    """Newer CPUs take bfloat16 unasked: half the time, and boxes that are off by pixels."""
    backend = load(FLOAT, tmp_path)
    assert backend._compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"


def test_integers_and_lists_whose_length_the_picture_decides(tmp_path: Path) -> None:
    case = Case("labels", copied("labels.onnx"), outputs=("grid", "best", "found"))
    run = load(case, tmp_path).runner()
    for seed in range(5):
        tensor = np.random.default_rng(seed).random((1, 3, 24, 32), np.float32) * seed
        grid, best, found = run(tensor)
        assert best.dtype == found.dtype == np.float32
        np.testing.assert_array_equal(best, grid.argmax(axis=1))
        np.testing.assert_array_equal(found, np.stack(np.nonzero(grid)))


def test_a_float_network_makes_nothing_new_for_a_frame(tmp_path: Path) -> None:
    run = load(FLOAT, tmp_path).runner()
    tensor = np.zeros((1, 3, 24, 32), np.float32)
    first = [output.ctypes.data for output in run(tensor)]
    tensor[:] = 1
    assert [output.ctypes.data for output in run(tensor)] == first


def test_an_ir_without_its_weights_is_refused(tmp_path: Path) -> None:
    case = Case("ir", lambda folder: as_ir("float")(folder)[:1], backend="openvino")
    with pytest.raises(ModelError, match=r"float\.xml: .*[Ww]eights"):
        load(case, tmp_path)


def test_an_ir_with_weights_that_are_too_short_is_refused(tmp_path: Path) -> None:
    def short(folder: Path) -> list[Path]:
        xml, weights = as_ir("float")(folder)
        weights.write_bytes(weights.read_bytes()[:100])
        return [xml, weights]

    with pytest.raises(ModelError, match=r"float\.xml: .*weights"):
        load(Case("ir", short, backend="openvino"), tmp_path)
