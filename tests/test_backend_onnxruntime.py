"""What is ONNX Runtime's own; what every backend must do is in ``conformance/test_backends.py``."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.config import DetectConfig
from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.backends.onnxruntime import CPU, OnnxRuntimeBackend, available
from edge_agent.errors import HardwareError, ModelError
from tests.conformance.backend_rows import Case, copied, network


def settings(**values: Any) -> DetectConfig:
    return DetectConfig.model_validate({"onnxruntime": values})


def load(name: str, folder: Path, config: DetectConfig | None = None, **case: Any) -> OnnxRuntimeBackend:
    files = [f"{name}.onnx"]
    tiny = network(Case(name, copied(*files), **case), folder / "model")
    return OnnxRuntimeBackend(LoadRequest(tiny, config or settings(), folder / "cache"))


def test_another_provider_than_the_one_asked_for_is_an_error(tmp_path: Path) -> None:
    config = settings(providers=["CUDAExecutionProvider", CPU])
    with pytest.raises(HardwareError, match=f"no CUDAExecutionProvider .*{CPU}"):
        load("float", tmp_path, config)
    assert "no CUDAExecutionProvider" in available(config)


def test_a_provider_that_is_missing_further_down_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        backend = load("float", tmp_path, settings(providers=[CPU, "OpenVINOExecutionProvider"]))
    assert backend.device == "cpu"
    assert "OpenVINOExecutionProvider" in caplog.text


def test_threads_of_one_inference_leave_fewer_inferences_at_once(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    assert load("float", tmp_path).concurrency == cores
    assert load("float", tmp_path, settings(threads=cores)).concurrency == 1


def test_integers_and_lists_whose_length_the_picture_decides(tmp_path: Path) -> None:
    run = load("labels", tmp_path, outputs=("grid", "best", "found")).runner()
    for seed in range(5):
        tensor = np.random.default_rng(seed).random((1, 3, 24, 32), np.float32) * seed
        for _ in range(2):
            grid, best, found = run(tensor)
            assert best.dtype == found.dtype == np.float32
            np.testing.assert_array_equal(best, grid.argmax(axis=1))
            np.testing.assert_array_equal(found, np.stack(np.nonzero(grid)))


def test_a_float_network_makes_nothing_new_for_a_frame(tmp_path: Path) -> None:
    run = load("float", tmp_path).runner()
    tensor = np.zeros((1, 3, 24, 32), np.float32)
    first = [output.ctypes.data for output in run(tensor)]
    before = run(tensor)[0].copy()
    tensor[:] = 1
    again = run(tensor)
    assert [output.ctypes.data for output in again] == first
    assert not np.array_equal(again[0], before)


def test_a_network_with_two_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"inputs \['image', 'other'\].* names 'image'"):
        load("two_inputs", tmp_path)


def test_external_data_that_the_manifest_does_not_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"external\.onnx"):
        load("external", tmp_path)
