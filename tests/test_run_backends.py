"""The whole agent on the real video with one backend and another: the same picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from edge_agent.types import F32
from tests.agent_process import RunningAgent, result_of, run_agent, write_config
from tests.cpu_candidates import FIRST_CPU
from tests.mosquitto import free_port, wait_for

pytestmark = pytest.mark.slow
FRAMES = 30


def record(root: Path, video: Path, folder: Path, backend: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The recorded frames, and what the run said."""
    folder.mkdir()
    config = write_config(root, folder, detect={"backend": backend, "precision": "fp32"})
    file = folder / "out.jsonl"
    options = ("--source", video, "--no-mqtt", "--record", file, "--max-frames", str(FRAMES), "--json")
    result = result_of(run_agent("run", "-c", config, *options))
    return [json.loads(line) for line in file.read_text().splitlines()[1:]], result


def boxes(frame: dict[str, Any], least: float) -> F32:
    return np.array([d["box"] for d in frame["detections"] if d["score"] >= least], np.float32).reshape(-1, 4)


def overlaps(a: F32, b: F32) -> F32:
    """IoU of every pair (len(a), len(b))."""
    corner = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.prod(np.clip(corner[1] - corner[0], 0, None), axis=2)
    areas = [np.prod(x[:, 2:] - x[:, :2], axis=1) for x in (a, b)]
    overlap: F32 = inter / (areas[0][:, None] + areas[1][None] - inter)
    return overlap


def test_two_backends_see_the_same(root: Path, vtest_video: Path, tmp_path: Path) -> None:
    one, said = record(root, vtest_video, tmp_path / "onnxruntime", "onnxruntime")
    other, said_other = record(root, vtest_video, tmp_path / "openvino", "openvino")
    assert "fp32 on onnxruntime (cpu)" in said["model"] and "fp32 on openvino (CPU)" in said_other["model"]
    compared = 0
    for a, b in zip(one, other, strict=True):
        assert (a["frame"], a["t"]) == (b["frame"], b["t"])
        sure = boxes(a, 0.3)
        # Every sure box has its partner; the bar is a little lower there, so that none falls out by rounding.
        assert (overlaps(sure, boxes(b, 0.29)).max(axis=1, initial=0) >= 0.95).all(), a["frame"]
        compared += len(sure)
        assert [t["id"] for t in a["tracks"]] == [t["id"] for t in b["tracks"]]
    assert compared > 3 * FRAMES


def test_status_says_which_backend_runs_and_why_no_other(root: Path, vtest_video: Path, tmp_path: Path) -> None:
    port = free_port()
    config = write_config(root, tmp_path, detect={"backend": "auto"}, http={"port": port}, mqtt={"enabled": False})
    agent = RunningAgent(tmp_path, "-c", config, "--source", vtest_video, "--realtime")
    try:

        def model() -> dict[str, Any] | None:
            try:
                answer: dict[str, Any] = httpx.get(f"http://127.0.0.1:{port}/api/v1/status", timeout=5).json()["model"]
            except httpx.TransportError:
                return None
            return answer

        wait_for(lambda: model() is not None, 30.0, "the REST API")
        status = model()
        assert status is not None
        assert status["backend"].startswith(f"{FIRST_CPU.backend} (") and status["error"] == ""
        assert status["name"] == "person-n" and status["why"].startswith("auto: the faster one")
        assert status["precision"] in ("fp32", "int8")
        assert "model person-n@1.0.0 (auto: the faster one" in agent.log
        assert "Edge TPU" in status["not_taken"]["tflite on an Edge TPU or delegate"]
        assert status["not_taken"]["tensorrt"] and status["not_taken"]["openvino on a GPU or NPU"]
    finally:
        assert agent.end() == 0


def test_a_backend_without_its_hardware_ends_the_start_with_what_to_do(
    root: Path, vtest_video: Path, tmp_path: Path
) -> None:
    config = write_config(root, tmp_path, detect={"backend": "openvino", "openvino": {"device": "NPU"}})
    done = run_agent("run", "-c", config, "--source", vtest_video, "--no-mqtt")
    assert done.returncode == 3
    assert "cannot run with openvino: no NPU" in done.stderr
