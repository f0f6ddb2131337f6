"""Child processes that crash, hang, shout and lie become typed errors, and nothing is left behind."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from edge_agent.config import DetectConfig
from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.child import run_child
from edge_agent.detect.manifest import Manifest, Model, Network
from edge_agent.detect.trial import trial
from edge_agent.errors import HardwareError, ModelError, UsageError

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _children_find_the_tests(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(root))


def act(name: str, **options: Any) -> dict[str, Any] | None:
    arguments: dict[str, Any] = {"what": "the test", "timeout_s": 30.0} | options
    return run_child("tests.child_programs", {"act": name}, **arguments)


def test_a_result_comes_back_apart_from_what_libraries_print() -> None:
    heard: list[tuple[str, float | None]] = []
    result = act("answer", niceness=3, progress=lambda doing, done: heard.append((doing, done)))
    assert result == {"got": {"act": "answer"}, "oom": "1000", "nice": os.nice(0) + 3}
    assert heard == [("preparing", 0.0), ("halfway there", 0.5)]


def test_what_lies_in_the_current_folder_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('a stranger ran')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert act("answer") is not None


def test_a_segmentation_fault_is_an_error_that_says_where() -> None:
    with pytest.raises(HardwareError, match=r"SIGSEGV while calling the vendor.*vendor: assertion failed"):
        act("segfault")


def test_errors_keep_their_type() -> None:
    with pytest.raises(ModelError, match=r"^no good$"):
        act("refuse")


def test_a_bug_is_told_with_its_place() -> None:
    with pytest.raises(HardwareError, match=r"while preparing: KeyError: 'surprise' \(child_programs.py:\d+\)"):
        act("bug")


def test_leaving_without_an_answer_is_an_error() -> None:
    with pytest.raises(HardwareError, match="ended with code 7 while preparing"):
        act("exit")


def test_what_a_dead_child_started_does_not_keep_us_waiting() -> None:
    began = time.monotonic()
    with pytest.raises(HardwareError, match="ended with code 3"):
        act("leave a grandchild")
    assert time.monotonic() - began < 30


def test_memory_is_limited() -> None:
    with pytest.raises(HardwareError, match="not enough memory"):
        act("memory", memory_mb=1024)


def test_a_hang_is_stopped_with_all_it_started() -> None:
    with pytest.raises(HardwareError, match=r"no result after 3 s, stopped while sleeping beside \d+") as caught:
        act("hang", timeout_s=3.0)
    gone(int(str(caught.value).split("beside ")[1].split(";")[0]))


def test_cancelling_stops_it_at_once() -> None:
    cancel, pids = threading.Event(), []

    def progress(doing: str, done: float | None) -> None:
        if doing.startswith("sleeping"):
            pids.append(int(doing.rsplit(maxsplit=1)[-1]))
            cancel.set()

    assert act("hang", cancel=cancel, progress=progress) is None
    gone(pids[0])


def gone(pid: int) -> None:
    """Wait until a process is dead (or a zombie that its new parent has not reaped)."""
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return
        assert time.monotonic() < deadline, f"{pid} lives"
        time.sleep(0.02)


@pytest.mark.parametrize("name", ["shout", "endless line", "nonsense", "number"])
def test_a_child_that_does_not_keep_to_the_rules_is_stopped(name: str) -> None:
    with pytest.raises(HardwareError):
        act(name, timeout_s=3.0)


def test_a_crash_after_the_answer_does_not_matter() -> None:
    assert act("crash at exit") == {"fine": True}


def test_a_child_that_cannot_be_started_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(HardwareError, match="no child process can be started"):
        act("answer")


def test_too_large_a_request_is_refused() -> None:
    with pytest.raises(HardwareError, match="too large"):
        act("x" * (2 << 20))


@pytest.fixture
def request_for_bundled(bundled: Model, tmp_path: Path) -> LoadRequest:
    return LoadRequest(bundled.network("onnxruntime"), DetectConfig(), tmp_path)


def test_a_trial_says_what_the_network_is_and_sees(request_for_bundled: LoadRequest, first_frame: Path) -> None:
    result = trial("onnxruntime", request_for_bundled, image=first_frame)
    assert (result.device, result.input.shape, result.input.dtype) == ("cpu", (1, 3, 416, 416), "float32")
    assert [(o.name, o.shape, o.dtype) for o in result.outputs] == [
        ("boxes", (1, 4, 3549), "float32"),
        ("scores", (1, 1, 3549), "float32"),
    ]
    assert result.inference_ms > 0 and result.load_s > 0
    assert result.seen and result.seen[0].label == "person" and result.seen[0].score > 0.5
    x1, y1, x2, y2 = result.seen[0].box
    assert 0 <= x1 < x2 <= 768 and 0 <= y1 < y2 <= 576


@pytest.fixture
def first_frame(vtest_video: Path, tmp_path: Path) -> Path:
    import cv2

    ok, image = cv2.VideoCapture(str(vtest_video)).read()
    assert ok and cv2.imwrite(str(tmp_path / "frame.png"), image)
    return tmp_path / "frame.png"


def test_a_trial_without_a_picture_looks_at_grey(request_for_bundled: LoadRequest) -> None:
    assert trial("onnxruntime", request_for_bundled).seen is None


def test_a_trial_tells_a_damaged_file(request_for_bundled: LoadRequest, tmp_path: Path) -> None:
    network = request_for_bundled.network
    (tmp_path / network.file.path).write_bytes(b"\x08\x07nothing")
    with pytest.raises(ModelError, match="SHA-256"):
        trial("onnxruntime", LoadRequest(Network(network.manifest, network.file, tmp_path), DetectConfig(), tmp_path))


def test_a_trial_tells_a_manifest_that_does_not_fit(request_for_bundled: LoadRequest) -> None:
    network = request_for_bundled.network
    text = network.manifest.model_dump(mode="json") | {"outputs": ["boxes", "other"]}
    wrong = Manifest.model_validate(text)
    with pytest.raises(ModelError, match="'scores'"):
        trial("onnxruntime", LoadRequest(Network(wrong, wrong.files[0], network.folder), DetectConfig(), Path("/")))


def test_a_trial_tells_a_picture_that_is_none(request_for_bundled: LoadRequest, tmp_path: Path) -> None:
    (tmp_path / "frame.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"frame\.png"):
        trial("onnxruntime", request_for_bundled, image=tmp_path / "frame.png")
