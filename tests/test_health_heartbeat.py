from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.health.heartbeat import MAX_BYTES, MAX_BYTES_PER_CAMERA, HeartbeatBuilder
from edge_agent.health.status import AgentStatus, CameraStatus, HardwareStatus, HostStatus, ModelStatus, OutboxStatus
from edge_agent.types import CameraState, SensorValue
from tests.health_fixtures import agent_status

UTC = 1_770_000_000.25
BIG = 2**70
WORST_CAMERA = CameraStatus("c" * 63, "delivering", "covered", 99.94, 1e12, 1e12, dropped=10**18 - 1)


def worst(cameras: tuple[CameraStatus, ...], error: str = "") -> AgentStatus:
    return agent_status(
        version="1" * 80,
        config_hash="f" * 64,
        uptime_s=1e15,
        cameras=cameras,
        outbox=OutboxStatus({"a": BIG, "b": BIG}, 1e15, BIG, BIG, BIG, "failing", "", BIG, ("mqtt", "influxdb")),
        model=ModelStatus("m" * 63, "v" * 63, "f" * 64, "onnxruntime", active=True),
        host=HostStatus(100.0, 6400.0, BIG, BIG, 1, BIG, BIG, False),
        hardware=HardwareStatus(-100.0, "'" * 99, ("power", "temperature", "voltage"), 1e15, {"VDD_IN": 1e9}),
        safe_mode="x",
        sensors={str(n): SensorValue(None, "", None, "failed") for n in range(64)},
        last_error=error,
    )


def size(status: AgentStatus) -> int:
    return len(HeartbeatBuilder().build(status, UTC))


def test_what_it_says() -> None:
    builder = HeartbeatBuilder()
    builder.build(agent_status(), UTC)
    assert json.loads(builder.build(agent_status(last_error="camera gate: refused"), UTC)) == {
        "time": "2026-02-02T02:40:00.250Z",
        "sequence": 1,
        "version": "0.1.0",
        "boot_id": "7d6b2f0e-3c52-4a6e-9a52-0c1f6f3c9a11",
        "uptime_s": 83,
        "config": "c0ffeec0ffee",
        "status": "ok",
        "cameras": [{"id": "gate", "state": "delivering", "fps": 7.0, "latency_ms": 34, "age_s": 0.1}],
        "outbox": {"depth": 3, "oldest_age_s": 12, "dropped": 0},
        "model": {"name": "person-n", "version": "1.0.0", "sha256": "ab" * 32},
        "host": {
            "cpu_pct": 50,
            "ram_pct": 25,
            "rss_mb": 190,
            "disk_free_mb": 20480,
            "temperature_c": 51,
            "hottest": "tj-thermal",
            "power_w": 7.1,
            "clock_ok": True,
        },
        "last_error": "camera gate: refused",
    }


def test_the_bounds_hold_for_the_worst_names() -> None:
    assert size(worst((WORST_CAMERA,))) + len("99999999") <= MAX_BYTES, "also when it has counted for years"
    assert size(worst((WORST_CAMERA,) * 2)) - size(worst((WORST_CAMERA,))) <= MAX_BYTES_PER_CAMERA
    usual = replace(WORST_CAMERA, id="c" * 32)
    assert size(worst((usual,) * 2)) - size(worst((usual,))) <= 150


def test_the_error_is_cut_to_what_is_left() -> None:
    beat = HeartbeatBuilder().build(worst((WORST_CAMERA,), "\x00" * 40 + "é" * 1000), UTC)
    assert len(beat) <= MAX_BYTES
    assert json.loads(beat)["last_error"]


@given(
    states=st.lists(st.sampled_from(get_args(CameraState)), min_size=1, max_size=64),
    name=st.text("abcXYZ09._-", min_size=1, max_size=63),
    number=st.none() | st.floats(0, allow_nan=False, allow_infinity=False),
    dropped=st.integers(0, 2**64),
    error=st.text(max_size=2000),
)
def test_any_state_fits_and_is_json(
    states: list[CameraState], name: str, number: float | None, dropped: int, error: str
) -> None:
    cameras = tuple(CameraStatus(name, state, "frozen", number, number, number, dropped=dropped) for state in states)
    beat = HeartbeatBuilder().build(worst(cameras, error), UTC)
    assert len(beat) <= MAX_BYTES + MAX_BYTES_PER_CAMERA * (len(cameras) - 1)
    assert [camera["id"] for camera in json.loads(beat)["cameras"]] == [name] * len(cameras)


def test_numbers_count_up_over_threads() -> None:
    builder = HeartbeatBuilder()
    with ThreadPoolExecutor(4) as pool:
        beats = list(pool.map(lambda _: json.loads(builder.build(agent_status(), UTC))["sequence"], range(200)))
    assert sorted(beats) == list(range(200))


def test_what_slows_the_box_down_and_sensors_that_are_bad() -> None:
    slow = HardwareStatus(88.0, 'a "part"\\ of its own', ("temperature", "voltage"), 12.6, {"GPU": 3.0, "CPU": 4.0})
    sensors = {"door": SensorValue(True, "", 1.0), "hall": SensorValue(None, "", None, "stale")}
    beat = json.loads(HeartbeatBuilder().build(agent_status(hardware=slow, sensors=sensors), UTC))
    assert (
        beat["host"].items()
        >= {
            "temperature_c": 88,
            "hottest": "a part of it",
            "throttled": ["temperature", "voltage"],
            "throttled_s": 13,
        }.items()
    )
    assert "power_w" not in beat["host"], "rails need not add up to what the box draws"
    assert (beat["sensors_bad"], beat["status"]) == (1, "degraded")


def test_without_a_model_it_says_none() -> None:
    assert json.loads(HeartbeatBuilder().build(agent_status(model=ModelStatus()), UTC))["model"] is None
