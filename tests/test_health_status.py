from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.health.status import (
    CameraStatus,
    HardwareStatus,
    HostStatus,
    ModelStatus,
    MqttStatus,
    OutboxStatus,
    SinkStatus,
    WorkerState,
    WorkerStatus,
)
from edge_agent.status_board import outbox_status
from edge_agent.types import CameraState, SensorValue
from tests.health_fixtures import agent_status
from tests.outbox_fixtures import running


def test_all_well() -> None:
    assert agent_status().liveness().status == "ok"
    assert agent_status().readiness().status == "ok"


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("cameras", {"cameras": (CameraStatus("gate", "stalled"),)}),
        ("cameras", {"cameras": (CameraStatus("gate", "delivering", "black"),)}),
        ("mqtt", {"mqtt": MqttStatus(enabled=True, connected=False)}),
        ("influxdb", {"sinks": (SinkStatus("influxdb", last_error="401"), SinkStatus("webhook"))}),
        ("outbox", {"outbox": OutboxStatus(state="failing")}),
        ("outbox", {"outbox": OutboxStatus(dropping=("influxdb",))}),
        ("model", {"model": ModelStatus(error="damaged")}),
        ("model", {"safe_mode": "three crashes"}),
        ("host", {"host": HostStatus(clock_synchronised=False)}),
        ("host", {"host": HostStatus(disk_free_bytes=1)}),
        ("host", {"hardware": HardwareStatus(throttled=("voltage",))}),
        ("sensors", {"sensors": {"door": SensorValue(None, "", None, "stale", "nothing came")}}),
        ("workers", {"workers": (WorkerStatus("mqtt", essential=False, state="failed"),)}),
        ("workers", {"workers": (WorkerStatus("detect", essential=True, state="restarting"),)}),
    ],
)
def test_trouble_outside_never_asks_for_a_restart(part: str, changes: dict[str, object]) -> None:
    verdict = agent_status(**changes).liveness()
    assert verdict.status == "degraded"
    assert [name for name, seen in verdict.parts.items() if seen.status != "ok"] == [part]
    assert verdict.parts[part].reason


@pytest.mark.parametrize("state", ["stuck", "failed"])
def test_a_lost_essential_worker_is_failing(state: WorkerState) -> None:
    verdict = agent_status(workers=(WorkerStatus("detect-0", essential=True, state=state),)).liveness()
    assert (verdict.status, verdict.parts["workers"].reason) == ("failing", f"detect-0 {state}")


@pytest.mark.parametrize("state", ["starting", "stalled", "reconnecting", "failed", "ended"])
def test_not_ready_without_a_delivering_camera(state: CameraState) -> None:
    assert agent_status(cameras=(CameraStatus("gate", state),)).readiness().status == "failing"


def test_one_camera_of_two_is_ready_but_degraded() -> None:
    status = agent_status()
    two = replace(status, cameras=(*status.cameras, CameraStatus("yard", "failed")))
    assert two.readiness().status == "degraded"


def test_not_ready_without_a_model() -> None:
    verdict = agent_status(model=ModelStatus(error="sha256 differs")).readiness()
    assert (verdict.status, verdict.parts["model"].reason) == ("failing", "sha256 differs")


def test_nothing_configured_is_ok() -> None:
    assert agent_status(mqtt=MqttStatus(enabled=False), host=HostStatus()).liveness().status == "ok"


def test_an_outbox_that_cannot_write_says_why(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    with running(tmp_path / "state" / "o.db") as outbox:
        seen = outbox_status(outbox.stat())
        part = agent_status(outbox=seen).liveness().parts["outbox"]
    assert (seen.state, part.status) == ("failing", "degraded")
    assert "File exists" in seen.reason
    assert part.reason == seen.reason
