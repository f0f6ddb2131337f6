"""The TensorRT backend: on a GPU where there is one, and always on stand-ins for driver and library that only calculate."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.config import DetectConfig
from edge_agent.detect.backends.tensorrt import available
from edge_agent.detect.backends.tensorrt.memory import PACKAGES, installed
from tests.fake_cuda import build_driver
from tests.fake_tensorrt import install, with_tensorrt

OWN = ("tests/conformance/tensorrt_suite.py",)
COMMON = ("tests/conformance/test_backends.py", "-k", "tensorrt and not flipped")
"""What every backend must do. Flipped bytes are for the real parser: the stand-in's is ONNX Runtime's, which has had them."""


def run_suite(environment: dict[str, str], root: Path, *tests: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, check=False, cwd=root, env=environment, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not any(map(installed, PACKAGES)), reason="neither cuda-bindings nor pycuda is installed")
@pytest.mark.parametrize(("tests", "least"), [(OWN, 50), (COMMON, 25)], ids=["own", "common"])
@pytest.mark.timeout(400)
def test_on_stand_ins(tmp_path: Path, root: Path, tests: tuple[str, ...], least: int) -> None:
    site = tmp_path / "site"
    install(site, "10.3.0")
    said = run_suite(with_tensorrt(site, build_driver(tmp_path), root), root, *tests)
    passed = re.search(r"(\d+) passed", said)
    assert passed and int(passed[1]) >= least, said


@pytest.mark.gpu
@pytest.mark.timeout(3100)
def test_on_the_gpu(root: Path) -> None:
    if reason := available(DetectConfig()):
        pytest.skip(f"no GPU with TensorRT: {reason}")
    run_suite(dict(os.environ), root, *OWN)


def test_without_tensorrt_it_says_how_to_get_it() -> None:
    if importlib.util.find_spec("tensorrt"):
        pytest.skip("this machine has TensorRT")
    assert "python3-libnvinfer" in available(DetectConfig())
