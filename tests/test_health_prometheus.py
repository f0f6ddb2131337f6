from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.health.prometheus import Writer, escape_label, exposition
from edge_agent.health.status import CameraStatus, HardwareStatus, SinkStatus, WorkerStatus
from edge_agent.types import SensorValue
from tests.health_fixtures import agent_status

LINE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-z0-9_]+="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (\S+)$')
"""A sample of the text format 0.0.4."""


def parse(text: str) -> dict[str, float]:
    """All samples by ``name{labels}``; fails on a line that the format does not allow."""
    assert text.endswith("\n")
    found: dict[str, float] = {}
    for line in text[:-1].split("\n"):
        if not line.startswith("# "):
            match = LINE.fullmatch(line)
            assert match, line
            found[line.rpartition(" ")[0]] = float(match[3])
    return found


def test_what_it_says() -> None:
    seen = parse(exposition(agent_status()))
    assert seen['edge_agent_camera_fps{camera="gate"}'] == 6.98
    assert seen['edge_agent_camera_latency_seconds{camera="gate"}'] == 0.0342
    assert seen['edge_agent_camera_state{camera="gate",state="delivering"}'] == 1
    assert seen['edge_agent_camera_state{camera="gate",state="stalled"}'] == 0
    assert seen['edge_agent_outbox_messages{priority="event"}'] == 2
    assert seen["edge_agent_mqtt_connected"] == 1
    assert seen["edge_agent_host_cpu_ratio"] == 0.5
    assert seen["edge_agent_host_temperature_celsius"] == 51.2
    assert seen['edge_agent_host_power_watts{rail="VDD_IN"}'] == 7.06


def test_throttling_has_a_sample_for_each_reason_where_the_box_tells() -> None:
    slow = HardwareStatus(throttled=("voltage",), throttled_s=12.5)
    seen = parse(exposition(agent_status(hardware=slow)))
    assert seen['edge_agent_host_throttled{reason="voltage"}'] == 1
    assert seen['edge_agent_host_throttled{reason="temperature"}'] == 0
    assert seen["edge_agent_host_throttled_seconds_total"] == 12.5
    assert "throttled" not in exposition(agent_status(hardware=HardwareStatus()))


def test_a_sensor_that_is_not_good_has_no_value() -> None:
    sensors = {
        "hall": SensorValue(21.5, "°C", 1.0),
        "door": SensorValue(True, "", 1.0),
        "x": SensorValue(7.0, "", 99.0, "stale"),
    }
    seen = parse(exposition(agent_status(sensors=sensors)))
    assert {name: value for name, value in seen.items() if "sensor" in name} == {
        'edge_agent_sensor_good{sensor="hall"}': 1,
        'edge_agent_sensor_good{sensor="door"}': 1,
        'edge_agent_sensor_good{sensor="x"}': 0,
        'edge_agent_sensor_value{sensor="hall",unit="°C"}': 21.5,
        'edge_agent_sensor_value{sensor="door",unit=""}': 1,
        'edge_agent_health{part="sensors"}': 1,
    }


def test_frames_on_which_inference_failed_are_counted() -> None:
    seen = parse(exposition(agent_status(cameras=(CameraStatus("gate", "delivering", dropped=2, failed=3),))))
    assert seen['edge_agent_camera_frames_failed_total{camera="gate"}'] == 3
    assert seen['edge_agent_camera_frames_dropped_total{camera="gate"}'] == 2


def test_sinks_beside_mqtt() -> None:
    sinks = (SinkStatus("influxdb", delivered=70), SinkStatus("webhook", delivered=3, last_error="401"))
    seen = parse(exposition(agent_status(sinks=sinks)))
    assert [seen[f'edge_agent_sink_up{{sink="{name}"}}'] for name in ("influxdb", "webhook")] == [1, 0]
    assert seen['edge_agent_sink_delivered_total{sink="influxdb"}'] == 70
    assert seen['edge_agent_health{part="webhook"}'] == 1


def test_every_family_has_help_and_type_once_before_its_samples() -> None:
    text = exposition(agent_status())
    names = re.findall(r"^# HELP (\S+) \S", text, re.M)
    assert names == re.findall(r"^# TYPE (\S+) (?:gauge|counter)$", text, re.M)
    assert len(names) == len(set(names)) > 20
    assert {re.split(r"[{ ]", line)[0] for line in text.splitlines() if line[0] != "#"} == set(names)
    counters = re.findall(r"^# TYPE (\S+) counter$", text, re.M)
    assert all(name.endswith("_total") for name in counters)


def test_the_unknown_is_left_out() -> None:
    text = exposition(agent_status(cameras=(CameraStatus("gate", "starting"),)))
    assert "edge_agent_camera_fps" not in text
    assert "None" not in text


@given(st.text())
def test_any_label_survives(value: str) -> None:
    written = escape_label(value)
    assert "\n" not in written
    assert re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], written) == value


@given(st.text(), st.text())
def test_hostile_names_cannot_forge_a_sample(camera: str, worker: str) -> None:
    status = agent_status(
        cameras=(CameraStatus(camera, "delivering", fps=1.0),), workers=(WorkerStatus(worker, True, "running"),)
    )
    harmless = parse(exposition(agent_status(cameras=(CameraStatus("c", "delivering", fps=1.0),))))
    assert len(parse(exposition(status))) == len(harmless)


@given(st.floats() | st.integers() | st.booleans())
def test_any_number_is_readable(value: float) -> None:
    out = Writer()
    out.family("x", "gauge", "a\\b\nc", [({}, value)])
    assert out.text().startswith("# HELP x a\\\\b\\nc\n# TYPE x gauge\nx ")
    assert repr(parse(out.text())["x"]) == repr(float(value))
