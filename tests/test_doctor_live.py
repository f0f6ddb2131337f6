"""Doctor against real brokers, cameras, ports and a running agent."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_agent import config_file
from edge_agent.doctor import cameras, models, network, servers, service, storage
from edge_agent.doctor.box import Box, find_agent, look
from edge_agent.doctor.examine import all_checks, examine
from tests.agent_process import COMMAND, RunningAgent, write_config
from tests.certificates import Authority, server_context
from tests.doctor_fixtures import configured, state_of
from tests.file_server import serve
from tests.mosquitto import broker, free_port, subscriber, wait_for
from tests.rtsp import RtspServer, SilentServer
from tests.time_series import victoria_metrics

pytestmark = pytest.mark.slow


def with_broker(folder: Path, port: int, **more: Any) -> Box:
    return configured(Box(), folder, f"mqtt: {json.dumps({'host': '127.0.0.1', 'port': port} | more)}\n")


def password(folder: Path, word: str) -> str:
    path = folder / "password"
    path.write_text(f"{word}\n")
    path.chmod(0o600)
    return str(path)


# ---- servers


def with_servers(folder: Path, **sections: Any) -> dict[str, tuple[str, str]]:
    """What is said of each."""
    box = configured(Box(), folder, "".join(f"{name}: {json.dumps(value)}\n" for name, value in sections.items()))
    return {check.name: state_of(check.run, box) for check in servers.checks(box, "network")}


def test_servers_that_are_off_are_not_spoken_of(tmp_path: Path) -> None:
    assert with_servers(tmp_path, influxdb={"url": "http://localhost:1"}, webhook={"types": ["*"]}) == {}


def test_influxdb_is_asked_whether_we_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with victoria_metrics(tmp_path / "vm") as there:
        section = {"enabled": True, "url": there.url, "bucket": "shop"}
        assert with_servers(tmp_path, influxdb=section) == {
            "influxdb": ("ok", f"{there.url}: may write to bucket shop ")
        }
        assert there.series(".+") == [], "and nothing is written"
        monkeypatch.setattr(servers, "local", lambda _: False)
        state, said = with_servers(tmp_path, influxdb=section)["influxdb"]
        assert state == "warn" and "token and data cross the network in the clear" in said
    state, said = with_servers(tmp_path, influxdb=section)["influxdb"]
    assert (state, said) == ("fail", f"{there.url}: Connection refused see docs/influxdb.md")


def test_a_webhook_is_reached_and_sent_nothing(tmp_path: Path) -> None:
    ours = Authority(tmp_path / "ours")
    secret = password(tmp_path, "whsec_" + "A" * 40)
    with serve({}, server_context(ours.issue("server"))) as there:
        section = {"enabled": True, "url": there.url, "secret_file": secret, "tls": {"ca_file": str(ours.cert)}}
        assert with_servers(tmp_path, webhook=section) == {
            "webhook": ("ok", f"{there.url}: connected; nothing was sent ")
        }
        assert there.asked == []
        state, said = with_servers(tmp_path, webhook=section | {"tls": {}})["webhook"]
        assert state == "fail" and "ca_file must hold the CA that signed it" in said


# ---- the broker


def test_an_open_broker(tmp_path: Path) -> None:
    with broker(tmp_path / "broker") as there, subscriber(there.port, "edge/#") as seen:
        box = with_broker(tmp_path, there.port)
        assert state_of(network.reachable, box)[0] == "ok"
        assert state_of(network.tls, box) == ("ok", "none, and the broker is on this box ")
        assert state_of(network.login, box) == ("ok", "no user name: MQTT 5.0, may publish below edge/v1/site/box1/ ")
        wait_for(lambda: seen.messages, what="the message that doctor sends")
        assert [(m.topic, m.payload, m.retain) for m in seen.messages] == [("edge/v1/site/box1/doctor", b"{}", False)]
        with subscriber(there.port, "#") as late:
            late.publish("end", b"1")
            wait_for(lambda: late.under("end"), what="its own message")
            assert [m.topic for m in late.messages] == ["end"], "nothing stays at the broker"


def test_the_session_of_a_running_agent_is_left_alone(tmp_path: Path) -> None:
    with broker(tmp_path / "broker") as there:
        assert state_of(network.login, with_broker(tmp_path, there.port))[0] == "ok"
        names = [line for line in there.log_text().splitlines() if "New client connected" in line]
        assert names and all("as edge-agent-doctor-" in line for line in names)


def test_a_wrong_password_and_a_denied_topic(tmp_path: Path) -> None:
    rules = ["user good", "topic readwrite edge/v1/#", "user mute", "topic read edge/v1/#"]
    with broker(tmp_path / "broker", users={"good": "right", "mute": "right"}, acl=rules) as there:
        right, wrong = password(tmp_path, "right"), tmp_path / "wrong"
        wrong.write_text("hunter2\n")
        assert (
            state_of(network.login, with_broker(tmp_path, there.port, username="good", password_file=right))[0] == "ok"
        )
        state, said = state_of(
            network.login, with_broker(tmp_path, there.port, username="good", password_file=str(wrong))
        )
        assert state == "fail" and "user good: broker refused: Not authorized" in said
        assert "hunter2" not in said and "mqtt.password_file" in said
        state, said = state_of(network.login, with_broker(tmp_path, there.port, username="mute", password_file=right))
        assert state == "fail" and "may not publish edge/v1/site/box1/doctor: Not authorized" in said
        assert state_of(network.login, with_broker(tmp_path, there.port))[0] == "fail"


def test_a_broker_that_speaks_tls(tmp_path: Path) -> None:
    ca = Authority(tmp_path / "ca")
    server, box_pair, old = ca.issue("broker"), ca.issue("box"), ca.issue("old", days=-1)
    wants_one = ("require_certificate true", f"cafile {ca.cert}")
    for extra in ((), wants_one):
        with broker(tmp_path / "broker", extra=(f"certfile {server.cert}", f"keyfile {server.key}", *extra)) as there:
            box = with_broker(tmp_path, there.port)
            state, said = state_of(network.tls, box)
            assert state == "fail" and "speaks TLS" in said and "no mqtt.tls" in said
            assert state_of(network.login, box)[0] == "fail"
            mine = {"ca_file": str(ca.cert), "cert_file": str(box_pair.cert), "key_file": str(box_pair.key)}
            box = with_broker(tmp_path, there.port, tls=mine)
            assert state_of(network.tls, box)[0] == "ok"
            assert state_of(network.login, box)[0] == "ok"
            box = with_broker(tmp_path, there.port, tls={"ca_file": str(ca.cert), "server_name": "elsewhere"})
            state, said = state_of(network.tls, box)
            assert state == "fail" and "Hostname mismatch" in said
    with broker(tmp_path / "broker", extra=(f"certfile {server.cert}", f"keyfile {server.key}", *wants_one)) as there:
        box = with_broker(tmp_path, there.port, tls={**mine, "cert_file": str(old.cert), "key_file": str(old.key)})
        state, said = state_of(network.tls, box)
        assert state == "fail" and "mqtt.tls.cert_file" in said and "expired on" in said
        state, said = state_of(network.login, box)
        assert state == "fail" and "expired" in said
        old.key.chmod(0o644)
        state, said = state_of(service.secrets, box)
        assert state == "warn" and str(old.key) in said


def test_a_broker_without_tls_where_it_is_wanted(tmp_path: Path) -> None:
    with broker(tmp_path / "broker") as there:
        box = with_broker(tmp_path, there.port, tls={})
        assert state_of(network.tls, box)[0] == state_of(network.login, box)[0] == "fail"


def test_each_of_several_brokers_is_looked_at(tmp_path: Path) -> None:
    with broker(tmp_path / "broker") as there:
        nobody = free_port()
        box = with_broker(tmp_path, nobody, brokers=[{}, {"port": there.port}])
        found = {check.name: check.run(box).state for check in network.checks(box) if "broker" in check.name}
        assert found["broker reachable"] == "fail"
        assert found["broker 2 reachable"] == found["broker 2 login"] == "ok"


def test_no_broker_and_something_else_in_its_place(tmp_path: Path) -> None:
    box = with_broker(tmp_path, free_port())
    assert "refused, nothing listens there" in state_of(network.reachable, box)[1]
    assert state_of(network.tls, box)[0] == state_of(network.login, box)[0] == "skip"
    named = with_broker(tmp_path, 1883, host="no-such-host.invalid")
    assert "cannot be resolved" in state_of(network.reachable, named)[1]
    off = with_broker(tmp_path, 1883, enabled=False)
    assert state_of(network.login, off) == ("skip", "mqtt.enabled is false ")


def test_a_broker_that_accepts_and_says_nothing_is_a_finding_in_time(tmp_path: Path) -> None:
    silent = SilentServer()
    try:
        box = with_broker(tmp_path, int(silent.url.split(":")[2].split("/")[0]))
        assert box.config_path is not None
        began = time.monotonic()
        report = examine(box.config_path, only="network")
        assert time.monotonic() - began < 20
    finally:
        silent.close()
    found = {f.name: f for f in report.findings}
    assert found["broker reachable"].state == "ok"
    assert found["broker login"].state == "fail" and "no answer to CONNECT" in found["broker login"].found


# ---- cameras


def test_a_camera_delivers_and_is_measured(tmp_path: Path) -> None:
    with RtspServer(fps=15) as server:
        box = configured(Box(), tmp_path, source=server.url)
        assert box.config is not None
        outcome = cameras.one_camera(box, box.config.cameras[0])
        assert outcome.state == "ok" and outcome.found.startswith("320x240, "), outcome
        fps = float(outcome.found.split(", ")[1].split()[0])
        assert 5 < fps < 25  # the server gives 15 where it gets the processor
    gone = cameras.one_camera(box, box.config.cameras[0])
    assert gone.state == "fail" and "rtsp://***@127.0.0.1" in gone.found and "s3cret" not in gone.found + gone.fix


def test_a_camera_that_hangs_is_a_finding_and_never_a_hang(tmp_path: Path) -> None:
    silent = SilentServer()
    try:
        box = configured(Box(), tmp_path, source=silent.url)
        assert box.config_path is not None
        began = time.monotonic()
        report = examine(box.config_path, only="cameras")
        assert time.monotonic() - began < 20
    finally:
        silent.close()
    camera = next(f for f in report.findings if f.name == "camera hall")
    assert camera.state == "fail" and "timed out" in camera.found


def test_a_file_and_one_that_is_missing(tmp_path: Path, vtest_video: Path) -> None:
    box = configured(Box(), tmp_path, source=str(vtest_video))
    assert box.config is not None
    assert cameras.one_camera(box, box.config.cameras[0]).found == "file, 768x576, 10.0 fps, 795 frames"
    away = configured(Box(), tmp_path, source="gone.mp4")
    assert away.config is not None
    assert "no such file" in cameras.one_camera(away, away.config.cameras[0]).found


# ---- ports and the running agent


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        box = configured(Box(), tmp_path, f"http: {{port: {port}}}\n")
        state, said = state_of(network.rest_port, box)
    assert state == "fail" and "taken by another program" in said
    assert state_of(network.rest_port, box) == ("ok", f"127.0.0.1:{port} is free ")


def test_beside_a_running_agent(tmp_path: Path, root: Path) -> None:
    port = free_port()
    with RtspServer() as server, broker(tmp_path / "broker") as there:
        path = write_config(root, tmp_path, http={"port": port}, mqtt={"port": there.port, "host": "127.0.0.1"})
        text = yaml.safe_load(path.read_text())
        text["cameras"] = [{"id": "cam", "source": server.url, "max_fps": 5}]
        text.pop("use_cases", None)
        path.write_text(yaml.safe_dump(text))
        with RunningAgent(tmp_path, "-c", path) as agent:
            wait_for(lambda: _delivering(path), 60, "the camera through REST")
            sessions = there.log_text().count("New client connected")
            box = look(path)
            assert box.agent is not None and box.agent.status is not None
            assert state_of(service.running, box)[0] == "ok"
            assert state_of(network.rest_port, box) == ("ok", f"127.0.0.1:{port} is the running agent's ")
            assert box.config is not None
            camera = cameras.one_camera(box, box.config.cameras[0])
            assert camera.state == "ok" and camera.found.startswith("held by the running agent: delivering, 320x240")
            assert "is at work in the running agent" in state_of(models.inference, box)[1]
            assert "held by the running agent" in state_of(storage.state_folder, box)[1]
            assert state_of(storage.outbox, box)[0] == "ok"
            assert state_of(network.login, box)[0] == "ok"
            assert there.log_text().count("New client connected") == sessions + 1
            assert "session taken over" not in there.log_text()
            changed = text | {"outbox": {"max_mb": 17}}
            path.write_text(yaml.safe_dump(changed))
            assert "another configuration than the file's" in state_of(service.running, look(path))[1]
            done = subprocess.run(
                [*COMMAND, "doctor", "-c", path, "--json"], capture_output=True, text=True, timeout=60, check=False
            )
            assert "s3cret" not in done.stdout + done.stderr and agent.process.poll() is None
            names = {check["name"]: check["state"] for check in json.loads(done.stdout)["checks"]}
            assert "fail" not in {names["camera cam"], names["REST port"], names["broker login"]}
    assert find_agent(box.config) is None
    silent = replace(box, agent=find_agent(box.config))
    assert state_of(network.rest_port, silent) == ("ok", f"127.0.0.1:{port} is free ")


def _delivering(path: Path) -> bool:
    agent = find_agent(config_file.load(path))
    states = [camera.get("state") for camera in (agent.part("cameras") if agent else None) or []]
    return states == ["delivering"]


def test_a_running_agent_without_rest_is_left_alone(tmp_path: Path, root: Path, vtest_video: Path) -> None:
    from edge_agent.state_dir import state_lock

    path = write_config(root, tmp_path, http={"enabled": False}, mqtt={"enabled": False})
    text = yaml.safe_load(path.read_text())
    text["cameras"] = [{"id": "cam", "source": "rtsp://127.0.0.1:1/x"}]
    path.write_text(yaml.safe_dump(text))
    box = look(path)
    assert box.agent is None and box.config is not None
    with state_lock(box.config.state_dir):
        box = look(path)
        assert box.agent is not None and box.config is not None
        assert cameras.one_camera(box, box.config.cameras[0]).state == "skip"
        assert state_of(models.inference, box)[0] == "skip"
        assert state_of(service.running, box)[0] == "warn"


# ---- all of it


def test_the_whole_with_the_demo(tmp_path: Path, root: Path, vtest_video: Path) -> None:
    path = write_config(root, tmp_path, mqtt={"enabled": False})
    report = examine(path)
    found = {finding.name: finding for finding in report.findings}
    assert report.took_s < 20 and len(report.findings) >= 40
    assert found["inference"].state == found["files and hashes"].state == found["camera pets"].state == "ok"
    assert not [finding for finding in report.findings if finding.state == "fail"]
    assert len(report.findings) == len(all_checks(look(path)))


def test_as_somebody_else_than_root(tmp_path: Path, root: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    code = (
        "import os, sys; os.setgid(64123); os.setuid(64123); os.environ['HOME'] = '/nonexistent'\n"
        "from pathlib import Path; from edge_agent.doctor.examine import examine\n"
        "print(examine(None, only='storage').to_json()); print(examine(None, only='system').to_json())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd="/", capture_output=True, text=True, timeout=60, check=False
    )
    if "PermissionError" in done.stderr or "ModuleNotFoundError" in done.stderr:
        pytest.skip("the environment is closed to other users")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == 2, done.stderr
    assert "itself failed" not in done.stdout
