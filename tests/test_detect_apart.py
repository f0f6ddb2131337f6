"""A detector in a process of its own: it finds what one in this process finds, and no fault of it comes across."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_agent.config import DetectConfig
from edge_agent.detect import apart
from edge_agent.detect.apart import DetectorApart
from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.detector import ModelDetector
from edge_agent.detect.manifest import load_model
from edge_agent.errors import HardwareError, InferenceError, ModelError
from edge_agent.types import Frame
from tests.capture_helpers import wait_until
from tests.ota_models import BAD, good, write_detector

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _children_find_the_tests(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setattr(apart, "MODULE", "tests.apart_faults")


def request_for(folder: Path, content: bytes) -> LoadRequest:
    model = load_model(write_detector(folder / "models", "1.0", content))
    return LoadRequest(model.network("onnxruntime"), DetectConfig(), folder)


@pytest.fixture
def detector(tmp_path: Path) -> Iterator[DetectorApart]:
    made = DetectorApart("onnxruntime", request_for(tmp_path, good()), niceness=3, growth_mb=30, memory_mb=4096)
    yield made
    made.close()
    assert children() == []


def children() -> list[int]:
    """Processes of ours that are left."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            after = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(after[1]) == os.getpid() and "apart" in (path.parent / "cmdline").read_text():
            found.append(int(path.parent.name))
    return found


def frame(number: int, size: tuple[int, int] = (120, 90)) -> Frame:
    rng = np.random.default_rng(number)
    return Frame("a", number, 0.0, 0.0, rng.integers(0, 255, (size[1], size[0], 3), np.uint8))


def test_it_finds_what_one_in_this_process_finds_whatever_the_size(detector: DetectorApart, tmp_path: Path) -> None:
    here = ModelDetector("onnxruntime", request_for(tmp_path / "here", good()))
    (child,) = children()
    assert os.getpriority(os.PRIO_PROCESS, child) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 3)
    for number, size in enumerate(((120, 90), (640, 480), (64, 48))):
        mine, other = here.detect(frame(number, size)), detector.detect(frame(number, size))
        assert len(mine) and other.model == mine.model
        np.testing.assert_allclose(other.boxes, mine.boxes, atol=0.01)
        np.testing.assert_allclose(other.scores, mine.scores, atol=1e-4)
        assert other.classes.tolist() == mine.classes.tolist() and other.labels == mine.labels
    with pytest.raises(InferenceError, match="the device is lost"):
        detector.detect(frame(104))
    assert len(detector.detect(frame(1))) and detector.trouble is None, "one frame failed, and no more"
    here.close()


def test_a_crash_is_told_with_its_signal(detector: DetectorApart) -> None:
    with pytest.raises(HardwareError, match="killed by SIGABRT while looking at frames"):
        detector.detect(frame(101))
    assert detector.trouble is not None and detector.trouble[0] == "crashed"
    with pytest.raises(HardwareError, match="SIGABRT"):
        detector.detect(frame(1))


def test_one_that_hangs_is_ended(detector: DetectorApart, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "HUNG_S", 0.5)
    with pytest.raises(HardwareError, match=r"not come back for 0\.5 s"):
        detector.detect(frame(102))
    assert detector.trouble is not None and detector.trouble[0] == "hung"
    wait_until(lambda: not children(), 30, "its end")


def test_one_that_needs_ever_more_memory_is_ended(detector: DetectorApart) -> None:
    with pytest.raises(HardwareError, match=r"needs \d+ MB, \d+ MB when it began"):
        detector.detect(frame(103))
    assert detector.trouble is not None and detector.trouble[0] == "memory"
    wait_until(lambda: not children(), 30, "its end")


def test_it_can_be_ended_while_a_frame_is_inside(detector: DetectorApart) -> None:
    errors: list[HardwareError] = []

    def look() -> None:
        try:
            detector.detect(frame(102))
        except HardwareError as error:
            errors.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    wait_until(detector._lock.locked, 30, "the frame to be inside")
    began = time.monotonic()
    detector.close()
    thread.join(10)
    assert not thread.is_alive() and errors and time.monotonic() - began < 30
    with pytest.raises(HardwareError, match="was stopped"):
        detector.detect(frame(1))


def test_what_does_not_load_is_told_as_ever_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"1\.0"):
        DetectorApart("onnxruntime", request_for(tmp_path, BAD["it is no network"]()), niceness=0, growth_mb=30)
    assert children() == []
