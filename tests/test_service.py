"""The systemd unit: what it says, by systemd's own tools; and the agent at work under it, in a machine with real systemd."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.contract.published import CHANNELS
from edge_agent.journal import KINDS, message_id
from tests.mosquitto import wait_for
from tests.nspawn import Machine, endless_pictures, machine, needs_nspawn

ROOT = Path(__file__).parent.parent
UNITS = ROOT / "systemd"
STEPS_SINCE = 254


def systemd_version() -> int:
    said = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=True).stdout
    return int(said.split()[1])


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that is there: what has none is a fault to systemd."""
    path = tmp_path / "edge-agent.service"
    text = (UNITS / path.name).read_text()
    path.write_text(text.replace("/opt/edge-agent/current/bin/edge-agent", "/bin/true"))
    return path


@pytest.mark.parametrize("drop_in", [None, "jetson", "no-runtime-code", "restart-steps"])
def test_systemd_has_nothing_to_say_about_the_unit(unit: Path, drop_in: str | None) -> None:
    """It ends with 0 also where it ignores a key, and says so on standard error."""
    if drop_in is not None:
        (unit.parent / f"{unit.name}.d").mkdir()
        shutil.copy(UNITS / f"drop-ins/{drop_in}.conf", unit.parent / f"{unit.name}.d")
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if "edge-agent" in line]
    if drop_in == "restart-steps" and systemd_version() < STEPS_SINCE:
        assert [line for line in said if "RestartSteps" in line or "RestartMaxDelaySec" in line] == said != []
    else:
        assert (done.returncode, said) == (0, [])


@pytest.mark.parametrize("drop_in", [None, "jetson", "no-runtime-code"])
def test_the_sandbox_is_tight(unit: Path, drop_in: str | None) -> None:
    """At most 2.0 of 10, with cameras and accelerators in reach; ``--threshold`` is ten times that."""
    if drop_in is not None:  # --offline reads no drop-ins
        settings = (UNITS / f"drop-ins/{drop_in}.conf").read_text().partition("[Service]")[2]
        unit.write_text(unit.read_text().replace("[Install]", f"{settings}\n[Install]"))
    asked = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:]


def test_the_user_gets_the_groups_of_its_devices(tmp_path: Path) -> None:
    subprocess.run([UNITS / "install.sh", "--root", tmp_path, "journald", "hardware-watchdog"], check=True)
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", "edge-agent.conf"], check=True)
    groups = {row.split(":")[0] for row in (tmp_path / "etc/group").read_text().split() if row.endswith(":edge-agent")}
    assert groups == {"video", "render", "plugdev", "apex"}
    assert "/usr/sbin/nologin" in (tmp_path / "etc/passwd").read_text()
    assert (tmp_path / "etc/systemd/journald.conf.d/edge-agent.conf").is_file()
    assert (tmp_path / "etc/systemd/system.conf.d/edge-agent.conf").is_file()


def test_a_drop_in_that_does_not_exist_is_named(tmp_path: Path) -> None:
    asked = [str(UNITS / "install.sh"), "--root", str(tmp_path), "jetsn"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "jetsn" in done.stderr and "no-runtime-code" in done.stderr


def test_the_message_ids_are_the_documented_ones() -> None:
    """They are searched for by what others wrote: one that changes is silence to them."""
    listed = dict(re.findall(r"^\| `([a-z_.]+)` \| `([0-9a-f]{32})` \|", (ROOT / "docs/service.md").read_text(), re.M))
    events = {message.fixed["type"] for channel in CHANNELS for message in channel.messages if "type" in message.fixed}
    assert listed == {kind: message_id(kind) for kind in {*KINDS, *events}}


# ---- in a machine


def config(**change: Any) -> dict[str, Any]:
    return {
        "site": "lab",
        "device": "box1",
        "cameras": [{"id": "door", "source": "/opt/pictures"}],
        "mqtt": {"enabled": False, "heartbeat_s": 2},
        "detect": {"backend": "onnxruntime"},
    } | change


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("camera") / "pictures"
    endless_pictures(folder, ROOT / "models/person-n/1.0.0/golden-terraces.jpg")
    return folder


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Iterator[Machine]:
    with machine(tmp_path_factory.mktemp("box"), config(), binds={pictures: "/opt/pictures"}) as made:
        yield made


def frames(box: Machine) -> int:
    cameras = box.rest("/api/v1/cameras")
    return int(cameras[0]["frames"]) if cameras else 0


def works(box: Machine, within_s: float = 60.0) -> None:
    """Ready, and frames go through the model."""
    box.wait_for_service()
    wait_for(lambda: box.rest("/readyz").get("status") == "ok", within_s, "ready")
    before = frames(box)
    wait_for(lambda: frames(box) > before, 60, "frames")


@pytest.mark.slow
@needs_nspawn
def test_it_comes_up_with_the_box_and_works_in_its_sandbox(box: Machine) -> None:
    works(box)
    state = box.run("stat", "--format=%U %G %a", "/var/lib/edge-agent", "/var/lib/edge-agent/outbox.db")
    assert state.splitlines() == ["edge-agent edge-agent 750", "edge-agent edge-agent 600"]
    status = box.run("cat", f"/proc/{box.pid()}/status")
    assert re.search(r"^Seccomp:\s+2$", status, re.M) and re.search(r"^NoNewPrivs:\s+1$", status, re.M)
    assert re.search(r"^CapBnd:\s+0+$", status, re.M)
    wait_for(lambda: "delivering" in box.show("StatusText"), 60, "state in systemctl status")
    assert box.run("stat", "--format=%U %a", "/etc/edge-agent/secrets") == "root 700"


@pytest.mark.slow
@needs_nspawn
@pytest.mark.parametrize("backend", ["openvino", "tflite"])
def test_what_makes_code_at_run_time_works_in_the_sandbox(box: Machine, backend: str) -> None:
    box.write_config(config(detect={"backend": backend}))
    box.run("systemctl", "restart", "edge-agent")
    works(box)
    assert backend in box.rest("/api/v1/status")["model"]["backend"]
    box.write_config(config())


@pytest.mark.slow
@needs_nspawn
def test_log_lines_have_their_fields_in_the_journal(box: Machine) -> None:
    works(box)
    ready = box.journal(f"MESSAGE_ID={message_id('agent.ready')}")[-1]
    assert ready["PRIORITY"] == "6" and ready["SYSLOG_IDENTIFIER"] == "edge-agent"
    assert ready["EDGE_AGENT_VERSION"] and (ready["LOGGER"], ready["CODE_FUNC"]) == ("edge_agent.app", "_start")
    camera = box.journal(f"MESSAGE_ID={message_id('edge_agent.device.camera_state')}")[-1]
    assert (camera["EDGE_AGENT_CAMERA"], camera["EDGE_AGENT_STATE"]) == ("door", "delivering")


@pytest.mark.slow
@needs_nspawn
def test_a_secret_comes_by_a_file_that_only_root_can_read(box: Machine) -> None:
    token = "a-token-that-is-long-enough-0123456789"
    path = box.tree / "etc/edge-agent/secrets/http_token"
    path.write_text(token + "\n")
    path.chmod(0o600)
    box.run("systemctl", "restart", "edge-agent")
    box.wait_for_service()
    ask = "curl -s -o /dev/null -w %{http_code} http://127.0.0.1:8080/api/v1/status"
    assert box.run(*ask.split()) == "401"
    assert box.run(*ask.split(), "-H", f"Authorization: Bearer {token}") == "200"
    assert token not in box.log()
    path.unlink()
    box.run("systemctl", "restart", "edge-agent")
    works(box)


@pytest.mark.slow
@needs_nspawn
def test_a_hang_ends_in_a_restart_that_says_where(box: Machine) -> None:
    """SIGSTOP stands for what holds the whole process up, as a call that keeps Python's lock does."""
    box.drop_in("test", "[Service]\nWatchdogSec=3\nTimeoutAbortSec=60\n")
    box.run("systemctl", "restart", "edge-agent")
    works(box)
    pid = box.pid()
    box.run("kill", "-STOP", str(pid))
    wait_for(lambda: "Watchdog timeout" in box.log(), 60, "watchdog")
    box.run("kill", "-CONT", str(pid))  # with systemd's SIGABRT waiting for it
    wait_for(lambda: box.pid() not in {0, pid}, 60, "another process")
    works(box)
    assert "Fatal Python error: Aborted" in box.log() and "supervisor.py" in box.log()
    box.drop_in("test", "")


@pytest.mark.slow
@needs_nspawn
def test_stopped_it_leaves_in_order_and_killed_it_comes_back(box: Machine) -> None:
    works(box)
    pid = box.pid()
    box.run("kill", "-TERM", str(pid))  # by hand: nobody told systemd that it should stay away
    wait_for(lambda: box.pid() not in {0, pid}, 60, "another process")
    box.wait_for_service()
    pid = box.pid()
    box.run("kill", "-SEGV", str(pid))
    wait_for(lambda: box.pid() not in {0, pid}, 60, "another process")
    box.wait_for_service()
    box.run("systemctl", "stop", "edge-agent")
    assert (box.show("ActiveState"), box.show("Result")) == ("inactive", "success")
    assert "timed out" not in box.log()
    box.run("systemctl", "start", "edge-agent")


@pytest.mark.slow
@needs_nspawn
def test_without_camera_broker_and_network_it_comes_up_and_finds_the_camera_later(tmp_path: Path) -> None:
    camera = {"id": "door", "source": "rtsp://127.0.0.1:8554/cam"}
    later = config(cameras=[camera], mqtt={"enabled": True, "heartbeat_s": 2})
    with machine(tmp_path, later, binds={ROOT / "tests": "/opt/tests"}, fields=False) as bare:
        bare.wait_for_service()
        wait_for(lambda: bare.rest("/healthz").get("status") == "degraded", 60, "the state of a box without anything")
        assert any("door" in str(line["MESSAGE"]) for line in bare.journal("PRIORITY=4")), bare.log()
        with bare.background(
            "/usr/bin/python3", "/opt/tests/rtsp_server.py", "8554", "320", "240", "15", "ball"
        ) as server:
            try:
                wait_for(lambda: bare.rest("/readyz").get("status") == "ok", 90, "camera")
            finally:
                server.kill()
        assert bare.show("NRestarts") == "0"


@pytest.mark.slow
@needs_nspawn
def test_a_read_only_root_with_one_place_for_the_state_is_enough(tmp_path: Path, pictures: Path) -> None:
    with machine(tmp_path, config(), binds={pictures: "/srv"}) as made:
        made.write_config(config(cameras=[{"id": "door", "source": "/srv"}]))
        made.run("systemctl", "stop", "edge-agent")
        for folder in ("/etc", "/opt", "/var"):
            made.run("mount", "--rbind", folder, folder)
            made.run("mount", "-o", "remount,ro,bind", folder)
        made.run("mount", "-t", "tmpfs", "tmpfs", "/var/lib/edge-agent")  # the state partition, new
        assert "Read-only" in made.run("sh", "-c", "touch /etc/x /opt/x /var/lib/x 2>&1", check=False)
        made.run("systemctl", "start", "edge-agent")
        works(made)
        assert made.run("stat", "--format=%U %a", "/var/lib/edge-agent") == "edge-agent 750"
