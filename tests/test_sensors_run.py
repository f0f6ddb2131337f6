"""Sensors on the whole way: files and a broker's messages in, telemetry, events, status, heartbeat and record out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_agent.sinks.mqtt_inbound import Listener
from tests.agent_process import RunningAgent, run_agent, write_config
from tests.mosquitto import Subscriber, broker, free_port, subscriber, wait_for
from tests.mqtt_fixtures import delivering
from tests.outbox_fixtures import running
from tests.sensor_fixtures import make_sensors, sensor_config

pytestmark = pytest.mark.slow
ROOT = "edge/v1/lab/box1/"


def docs(seen: Subscriber, topic: str) -> list[dict[str, Any]]:
    return [json.loads(message.payload) for message in seen.under(ROOT + topic)]


def values(seen: Subscriber, sensor: str) -> list[tuple[Any, str]]:
    return [(doc["value"], doc["quality"]) for doc in docs(seen, f"telemetry/{sensor}")]


def test_from_sensor_to_broker_record_and_replay(root: Path, vtest_video: Path, tmp_path: Path) -> None:
    file, pipe, record, http = tmp_path / "hall-temp", tmp_path / "hangs", tmp_path / "out.jsonl", free_port()
    file.write_text("21500\n")
    os.mkfifo(pipe)
    sensors = [
        {
            "id": "hall",
            "file": str(file),
            "unit": "°C",
            "scale": 0.001,
            "every_s": 0.2,
            "stale_after_s": 2,
            "report_s": 600,
        },
        {"id": "hangs", "file": str(pipe), "every_s": 0.2, "stale_after_s": 2},
        {"id": "door", "mqtt": {"topic": "zigbee2mqtt/door", "key": "contact"}},
    ]
    with broker(tmp_path / "broker") as server, subscriber(server.port) as seen:
        mqtt = {"host": "127.0.0.1", "port": server.port, "heartbeat_s": 1}
        config = write_config(root, tmp_path, sensors=sensors, mqtt=mqtt, http={"port": http})
        with RunningAgent(tmp_path, "-c", config, "--realtime", "--record", record) as agent:
            wait_for(lambda: values(seen, "hall") == [(21.5, "good")], what="the hall's temperature")
            seen.publish("zigbee2mqtt/door", b'{"contact": true, "battery": 97}', retain=False)
            wait_for(lambda: values(seen, "door") == [(True, "good")], what="the door")
            wait_for(lambda: values(seen, "hangs") == [(None, "stale")], what="the one that hangs")
            file.write_text("22000\n")
            wait_for(lambda: values(seen, "hall")[1:] == [(22.0, "good")], what="another temperature")
            file.unlink()
            wait_for(lambda: values(seen, "hall")[2:] == [(None, "failed")], what="no temperature")
            seen.publish("zigbee2mqtt/door", b'{"contact": false}', retain=False)
            wait_for(lambda: values(seen, "door")[1:] == [(False, "good")], what="the closed door")
            wait_for(lambda: docs(seen, "heartbeat")[-1].get("sensors_bad") == 2, what="the heartbeat")
            health = httpx.get(f"http://127.0.0.1:{http}/healthz").json()["parts"]["sensors"]
            assert health["status"] == "degraded"
            assert f"hall failed: {file}: No such file" in health["reason"] and "hangs stale" in health["reason"]
            status = httpx.get(f"http://127.0.0.1:{http}/api/v1/status").json()["sensors"]
            assert (status["door"]["value"], status["hall"]["value"], status["hangs"]["value"]) == (False, 22.0, None)
            file.write_text("23000\n")
            wait_for(lambda: values(seen, "hall")[3:] == [(23.0, "good")], what="the temperature again")
            assert agent.end() == 0
            assert "Traceback" not in agent.log
        beats = docs(seen, "heartbeat")
        turns = [doc["data"] for doc in docs(seen, "events/_device/sensor_state")]
    assert [(turn["sensor"], turn["previous"], turn["state"]) for turn in turns] == [
        ("hangs", "starting", "stale"),
        ("hall", "good", "failed"),
        ("hall", "failed", "good"),
    ]
    assert len({beat["boot_id"] for beat in beats}) == 1
    assert [beat["sequence"] for beat in beats] == list(range(beats[0]["sequence"], beats[0]["sequence"] + len(beats)))
    frames = [json.loads(line) for line in record.read_text().splitlines()[1:]]
    recorded = [frame["sensors"] for frame in frames if "sensors" in frame]
    assert {seen["hall"]["value"] for seen in recorded if "hall" in seen} == {21.5, 22.0, 23.0}
    assert {seen["door"]["value"] for seen in recorded if "door" in seen} == {True, False}
    assert {seen["hall"]["quality"] for seen in recorded if "hall" in seen} == {"good", "failed"}
    again = tmp_path / "again.jsonl"
    assert run_agent("replay", record, "-c", config, "--record", again).returncode == 0
    replayed = [json.loads(line) for line in again.read_text().splitlines()[1:]]
    assert [frame.get("sensors") for frame in replayed] == [frame.get("sensors") for frame in frames]


def test_a_device_is_heard_again_after_the_broker_was_away(tmp_path: Path) -> None:
    sensors = make_sensors(sensor_config("door", mqtt={"topic": "zigbee2mqtt/door", "key": "contact"}))
    listeners = [
        Listener(topic, lambda message, take=take: take(message.payload), qos=0)  # type: ignore[misc]
        for topic, take in sensors.subscriptions.items()
    ]

    def door() -> object:
        return sensors.latest()["door"].value if "door" in sensors.latest() else None

    with (
        running(tmp_path / "o.db") as outbox,
        broker(tmp_path / "broker") as server,
        delivering(outbox, server.port, listeners=listeners, reconnect_spread_s=0) as sink,
    ):
        wait_for(lambda: sink.state().connected)
        with subscriber(server.port) as device:
            for payload in (b"\xff\x00", b"[" * 10_000, b'{"contact": [1]}', b'{"contact": true}'):
                device.publish("zigbee2mqtt/door", payload)  # retained: whoever subscribes a moment later has it too
            device.publish("zigbee2mqtt/window", b'{"contact": false}')
            wait_for(lambda: door() is True)
        server.kill()
        wait_for(lambda: not sink.state().connected)
        server.start()
        wait_for(lambda: sink.state().connects == 2)
        with subscriber(server.port) as device:
            device.publish("zigbee2mqtt/door", b'{"contact": false}')
            wait_for(lambda: door() is False)
    assert "zigbee2mqtt/door (QoS 0)" in server.log_text()
    assert sink.state().connects == 2, "what a device sends ends no connection"
