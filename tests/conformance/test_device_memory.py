"""Device memory, on a GPU where there is one, and always on a driver without a device that is loaded by the real packages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.detect.backends.tensorrt.memory import PACKAGES, installed, missing, open_memory
from edge_agent.detect.cuda_probe import probe_gpu
from edge_agent.errors import HardwareError
from tests.fake_cuda import build_driver, with_driver

needs_a_package = pytest.mark.skipif(
    not any(map(installed, PACKAGES)), reason="neither cuda-bindings nor pycuda is installed"
)


def gpu_missing() -> str:
    try:
        probe_gpu(0)
    except HardwareError as error:
        return str(error)
    return ""


def run_suite(environment: dict[str, str], root: Path) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/conformance/device_memory.py"]
    done = subprocess.run(command, check=False, cwd=root, env=environment, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@needs_a_package
def test_on_a_driver_without_a_device(tmp_path: Path, root: Path) -> None:
    said = run_suite(with_driver(build_driver(tmp_path)), root)
    passed = int(re.search(r"(\d+) passed", said).group(1))  # type: ignore[union-attr]
    assert passed >= 15 * sum(map(installed, PACKAGES))


@pytest.mark.gpu
@needs_a_package
def test_on_the_gpu(root: Path) -> None:
    if reason := gpu_missing():
        pytest.skip(f"no GPU: {reason}")
    run_suite(dict(os.environ), root)


@pytest.mark.slow
def test_the_driver_is_asked_in_a_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in with_driver(build_driver(tmp_path)).items():
        monkeypatch.setenv(key, value)
    probe_gpu.cache_clear()
    try:
        gpu = probe_gpu(0)
        assert (gpu.name, gpu.capability, gpu.driver, gpu.memory_mb) == ("Fake GPU", "8.7", "12.6", 1024)
        with pytest.raises(HardwareError, match="GPU 3 does not exist, the driver knows 1"):
            probe_gpu(3)
        monkeypatch.setenv("FAKE_CUDA_FAIL", "cuInit")
        monkeypatch.setenv("FAKE_CUDA_CODE", "100")
        probe_gpu.cache_clear()
        with pytest.raises(HardwareError, match="cuInit: CUDA_ERROR_NO_DEVICE"):
            probe_gpu(0)
        monkeypatch.setenv("FAKE_CUDA_CODE", "-11")
        with pytest.raises(HardwareError, match=r"SIGSEGV.*while starting the CUDA driver"):
            probe_gpu(0)
    finally:
        probe_gpu.cache_clear()


@needs_a_package
def test_without_a_driver_it_is_a_typed_error() -> None:
    if not gpu_missing():
        pytest.skip("this machine has a driver")
    for package in filter(installed, PACKAGES):
        with pytest.raises(HardwareError, match="CUDA"):
            open_memory(package, 0)


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.detect.backends.tensorrt.memory.PACKAGES", {"cuda-bindings": ("cuda.no_such",)})
    assert missing("auto") and "pip install" in missing("cuda-bindings")
    with pytest.raises(HardwareError, match="cuda-bindings is not installed"):
        open_memory("cuda-bindings", 0)
