"""The whole agent with its sinks: on real servers, over kills, and with one of them dead."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import socket
import sqlite3
from pathlib import Path

import pytest

from edge_agent.outbox.verify import verify
from tests.agent_process import RunningAgent, result_of, run_agent, write_config
from tests.file_server import serve, status
from tests.mosquitto import broker, free_port, subscriber, wait_for
from tests.tcp_server import TcpServer
from tests.time_series import VictoriaMetrics, victoria_metrics

pytestmark = pytest.mark.slow
FRAMES = 100
SEQUENCE = "edge_event_.*_sequence"


def last_sequence(folder: Path) -> int:
    """The last number that an event was given."""
    with contextlib.closing(sqlite3.connect(folder / "state" / "outbox.db")) as database:
        return int(database.execute("SELECT value FROM meta WHERE key='sequence'").fetchone()[0])


def waiting(folder: Path) -> dict[str, int]:
    """Messages that wait, by sink."""
    done = run_agent("outbox", "stat", "--state-dir", folder / "state", "--json")
    return {name: sum(sink["depth"].values()) for name, sink in result_of(done)["sinks"].items()}


def test_a_run_on_a_file_can_be_asked_for_in_the_time_series_and_the_webhook_had_its_events(
    root: Path, vtest_video: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("whsec_" + base64.b64encode(bytes(32)).decode())
    with victoria_metrics(tmp_path / "vm") as server, serve({"/hook": status(204)}) as hooks:
        config = write_config(
            root,
            tmp_path,
            influxdb={"enabled": True, "url": server.url},
            webhook={
                "enabled": True,
                "url": f"{hooks.url}/hook",
                "secret_file": "secret",
                "types": ["edge_agent.social_distancing.*"],
            },
        )
        result = result_of(run_agent("run", "-c", config, "--no-mqtt", "--max-frames", str(FRAMES), "--json"))
        events = result["events"]
        assert events["edge_agent.social_distancing.violation.ended"] >= 1
        assert waiting(tmp_path) | {"mqtt": 0} == {"mqtt": 0, "influxdb": 0, "webhook": 0}
        assert sorted(server.values(SEQUENCE)) == [float(n) for n in range(1, sum(events.values()) + 1)]
        people = server.values("edge_metric_social_distancing_people_.*")
        assert result["metrics"] >= 1 and people
        ((labels, _),) = server.series("edge_event_social_distancing_people_max")[:1]
        assert (labels["site"], labels["device"], labels["camera"]) == ("lab", "box1", "pets")
        assert server.values("edge_heartbeat_sequence")[0] == 0.0
        assert server.series("edge_heartbeat_camera_fps")[0][0]["camera"] == "pets"
    ours = {name: count for name, count in events.items() if name.startswith("edge_agent.social_distancing.")}
    posted = [json.loads(one.body)["type"] for one in hooks.posted]
    assert {name: posted.count(name) for name in set(posted)} == ours
    assert verify(tmp_path / "state" / "outbox.db").problems == []


def test_nothing_is_lost_over_kills_while_the_server_is_away(root: Path, vtest_video: Path, tmp_path: Path) -> None:
    server = VictoriaMetrics(tmp_path / "vm", free_port())
    config = write_config(root, tmp_path, influxdb={"enabled": True, "url": server.url}, mqtt={"enabled": False})
    try:
        for number in range(3):
            (logs := tmp_path / str(number)).mkdir()
            with RunningAgent(logs, "-c", config, "--realtime") as agent:
                agent.wait_for_log("delivering")
                before = last_sequence(tmp_path)
                wait_for(lambda before=before: last_sequence(tmp_path) > before + 1, 60, what="events")  # type: ignore[misc]
                if number == 0:
                    agent.wait_for_log(f"{server.url}: Connection refused")
                if number == 1:
                    server.start()
                    wait_for(lambda: server.values(SEQUENCE), 90, what="a first delivery")
                if number == 2:
                    assert agent.end() == 0
                else:
                    agent.end(signal.SIGKILL)
        assert set(server.values(SEQUENCE)) == {float(n) for n in range(1, last_sequence(tmp_path) + 1)}
        assert waiting(tmp_path)["influxdb"] == 0
    finally:
        server.stop()
    assert verify(tmp_path / "state" / "outbox.db").problems == []


def test_servers_that_hang_hold_nothing_back_neither_mqtt_nor_the_stop(
    root: Path, vtest_video: Path, tmp_path: Path
) -> None:
    held: list[socket.socket] = []
    hole = TcpServer(held.append)  # takes the connection and says nothing, ever
    (tmp_path / "secret").write_text("whsec_" + base64.b64encode(bytes(32)).decode())
    with broker(tmp_path / "broker") as mosquitto, subscriber(mosquitto.port, "edge/v1/lab/box1/#") as seen:
        config = write_config(
            root,
            tmp_path,
            mqtt={"host": "127.0.0.1", "port": mosquitto.port},
            influxdb={"enabled": True, "url": f"http://127.0.0.1:{hole.port}", "timeout_s": 60},
            webhook={
                "enabled": True,
                "url": f"http://127.0.0.1:{hole.port}",
                "timeout_s": 60,
                "secret_file": "secret",
            },
        )
        result = result_of(run_agent("run", "-c", config, "--max-frames", str(FRAMES), "--json"))
        count = sum(result["events"].values())
        wait_for(lambda: len(seen.under("/events/")) == count, what="all events at the broker")
        assert {m.topic.rpartition("/")[2] for m in seen.under("/heartbeat")} == {"heartbeat"}
        left = waiting(tmp_path)
        assert left["mqtt"] == 0 and left["webhook"] == count and left["influxdb"] >= count + result["metrics"]
    for client in held:
        client.close()
    hole.close()
