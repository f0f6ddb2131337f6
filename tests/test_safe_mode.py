"""A model that takes the process along again and again: safe mode, in which the box can be reached and says why."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.crash_count import LIMIT, NAME
from tests.agent_process import RunningAgent, write_config
from tests.command_fixtures import ROOT, Asker
from tests.mosquitto import Subscriber, broker, subscriber, wait_for
from tests.nspawn import Machine, endless_pictures, machine, needs_nspawn
from tests.ota_models import BAD
from tests.tflite_fixtures import delegated, stand_in
from tests.update_fixtures import Box, updating_box

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TURNS_S = 120.0


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Somebody who starts the agent again: only then crashes are counted."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield


def heartbeats(sub: Subscriber) -> list[dict[str, Any]]:
    return [json.loads(message.payload) for message in sub.under("/heartbeat")]


def told(sub: Subscriber) -> list[dict[str, Any]]:
    return [json.loads(message.payload)["data"] for message in sub.under("_device/safe_mode")]


def test_after_crashes_in_a_row_the_box_is_reachable_and_says_why(
    root: Path, vtest_video: Path, tmp_path: Path, manager: None
) -> None:
    parts = delegated(tmp_path / "models", stand_in(), "late fault")
    with broker(tmp_path / "m") as mosquitto, subscriber(mosquitto.port) as sub:
        mqtt = {"enabled": True, "host": "127.0.0.1", "port": mosquitto.port, "heartbeat_s": 1}
        path = write_config(root, tmp_path, mqtt=mqtt, use_cases={}, models_dir=str(tmp_path / "models"), **parts)
        for number in range(LIMIT):
            assert not told(sub), number
            with RunningAgent(tmp_path, "-c", path) as agent:
                assert agent.process.wait(TURNS_S) == -signal.SIGSEGV, agent.log[-2000:]
        with RunningAgent(tmp_path, "-c", path) as agent:
            agent.wait_for_log("safe mode", TURNS_S)
            wait_for(lambda: any(beat.get("safe_mode") for beat in heartbeats(sub)), TURNS_S, "heartbeat")
            beat = heartbeats(sub)[-1]
            assert (beat["status"], beat["cameras"], beat["model"]) == ("degraded", [], None)
            assert f"{LIMIT} crashes in a row" in beat["last_error"]
            wait_for(lambda: bool(told(sub)), TURNS_S, "event")
            assert told(sub)[0] == {
                "state": "entered",
                "reason": "ended without a word (killed, or by a fault in native code)",
                "crashes": LIMIT,
                "retry_s": 300,
            }
            asker = Asker(sub)
            asked = asker.send("status")
            wait_for(lambda: bool(asker.answers(asked)), TURNS_S, "answer")
            assert "crashes in a row" in asker.answers(asked)[0][1]["result"]["safe_mode"]
            assert agent.end() == 0
        assert json.loads((tmp_path / "state" / NAME).read_text())["in_a_row"] == 0  # an operator's hand
        assert any(message.topic == f"{ROOT}status" for message in sub.messages)


def test_what_the_box_lacks_is_told_in_safe_mode_too(
    root: Path, tmp_path: Path, manager: None, vtest_video: Path
) -> None:
    """A model that is gone, an accelerator that was pulled: without safe mode nobody afar would learn of it."""
    with broker(tmp_path / "m") as mosquitto, subscriber(mosquitto.port) as sub:
        mqtt = {"enabled": True, "host": "127.0.0.1", "port": mosquitto.port, "heartbeat_s": 1}
        path = write_config(root, tmp_path, mqtt=mqtt, model="absent")
        for _ in range(LIMIT):
            with RunningAgent(tmp_path, "-c", path) as agent:
                assert agent.process.wait(TURNS_S) == 3
        with RunningAgent(tmp_path, "-c", path):
            wait_for(lambda: bool(told(sub)), TURNS_S, "event")
            assert "absent" in told(sub)[0]["reason"]
            wait_for(lambda: any("absent" in beat.get("last_error", "") for beat in heartbeats(sub)), TURNS_S, "reason")


FAULTY = """
import os, pathlib, sys
from edge_agent.detect.detector import ModelDetector
from edge_agent.cli import main
detect = ModelDetector.detect

def faulty(self, frame, *args):
    if frame.camera != "warm-up" and self.tag.version in pathlib.Path({bad!r}).read_text().split():
        os.abort()
    return detect(self, frame, *args)

ModelDetector.detect = faulty
sys.exit(main())
"""


def entered(box: Box) -> int:
    return [fact["state"] for fact in told(box.asker.sub)].count("entered")


def test_every_way_out_by_another_model_is_open(root: Path, tmp_path: Path, manager: None, vtest_video: Path) -> None:
    """A model crashes, and another one mends the box; one on probation is taken back first; one before is rolled back to."""
    bad = tmp_path / "bad"
    program = [sys.executable, "-c", FAULTY.format(bad=str(bad))]

    def crashes(box: Box, times: int) -> None:
        for _ in range(times):
            with box.agent(tells=False, program=program) as agent:
                assert agent.process.wait(TURNS_S) == -signal.SIGABRT, agent.log[-2000:]

    with updating_box(root, tmp_path) as box:
        bad.write_text("0.9")
        crashes(box, LIMIT)
        with box.agent(program=program) as agent:
            wait_for(lambda: entered(box) == 1, TURNS_S, "safe mode")
            assert box.model["active"] is None and box.model["update"] is None
            refused = box.asker.ask("model.rollback", {"id": "b0"})
            assert refused["error"]["code"] == "not_available"
            box.publish("1.0", BAD["it detects nothing"]())
            box.update("u1", "eyes@1.0")
            box.wait_until("rolled_back", "eyes@1.0")
            box.wait_for(lambda: box.facts("rolled_back"), what="the event")
            assert box.facts("rolled_back")[0]["reason"] == "self_test" and box.model["active"] is None
            box.publish("2.0")
            box.update("u2", "eyes@2.0")
            assert box.wait_until("confirmed", "eyes@2.0")["active"]["version"] == "2.0"
            assert box.asker.ask("status")["result"]["safe_mode"] == ""

            # Crashes of one on probation are its own: it goes, and no safe mode comes of it.
            bad.write_text("0.9 3.0")
            box.publish("3.0")
            box.update("u3", "eyes@3.0")
            assert agent.process.wait(TURNS_S) == -signal.SIGABRT
        crashes(box, LIMIT - 1)
        with box.agent(program=program) as agent:
            state = box.wait_until("rolled_back", "eyes@3.0")
            assert state["update"]["reason"] == "crash_loop" and state["active"]["version"] == "2.0"
            assert box.asker.ask("status")["result"]["safe_mode"] == "" and entered(box) == 1
            assert agent.end() == 0

        bad.write_text("2.0")  # confirmed, and bad all the same
        crashes(box, LIMIT)
        with box.agent(program=program) as agent:
            wait_for(lambda: entered(box) == 2, TURNS_S, "safe mode")
            assert box.model["active"] is None and box.model["previous"]["version"] == "0.9"
            assert box.asker.ask("model.rollback", {"id": "b1"})["ok"]
            state = box.wait_until("rolled_back", "eyes@2.0")
            wait_for(lambda: box.model["active"] is not None, TURNS_S, "a model at work")
            assert "0.9" in str(box.model["active"]) and state["update"]["reason"] == "operator"
            agent.wait_for_log("delivering", TURNS_S)
            assert agent.end() == 0


# ---- under the real unit


@pytest.fixture
def box(tmp_path: Path, root: Path) -> Iterator[Machine]:
    """With a delegate that never answers, and a broker."""
    endless_pictures(tmp_path / "pictures", root / "models/person-n/1.0.0/golden-terraces.jpg")
    library = Path(stand_in())
    parts = delegated(tmp_path / "models", f"/srv/{library.name}", "late hang")
    config = {
        "site": "lab",
        "device": "box1",
        "models_dir": "/mnt",
        "cameras": [{"id": "door", "source": "/media"}],
        "mqtt": {"enabled": True, "host": "127.0.0.1", "heartbeat_s": 2},
        **parts,
    }
    binds = {library.parent: "/srv", tmp_path / "models": "/mnt", tmp_path / "pictures": "/media"}
    with machine(tmp_path, config, binds=binds) as made:
        yield made


@needs_nspawn
@pytest.mark.timeout(600)
@pytest.mark.fleet
def test_an_inference_that_hangs_is_back_in_service_and_in_the_end_in_safe_mode(box: Machine) -> None:
    with box.background("/usr/sbin/mosquitto") as mosquitto:
        try:
            box.wait_for_service()
            first = box.pid()
            wait_for(lambda: box.pid() not in {0, first}, 120, "another process")
            box.wait_for_service()
            ready = [int(line["__MONOTONIC_TIMESTAMP"]) / 1e6 for line in box.journal("EDGE_AGENT_KIND=agent.ready")]
            print(f"a hang cost {ready[1] - ready[0]:.1f} s")
            assert any("tflite" in str(line["MESSAGE"]) for line in box.journal("EDGE_AGENT_KIND=worker.stuck"))
            wait_for(lambda: bool(box.rest("/api/v1/status").get("safe_mode")), 240, "safe mode")
            reason = box.rest("/healthz")["parts"]["model"]["reason"]
            assert "3 crashes in a row, the last: worker detect:0: stuck for" in reason
            heard = box.run(
                "mosquitto_sub", "-h", "127.0.0.1", "-t", "edge/v1/lab/box1/heartbeat", "-C", "1", "-W", "60"
            )
            assert "stuck for" in json.loads(heard)["last_error"]
            assert box.show("ActiveState") == "active" and "safe mode" in box.show("StatusText")
            box.write_config(
                box.config | {"model": "auto", "models_dir": "/opt/edge-agent/current/models", "detect": {}}
            )
            box.run("systemctl", "restart", "edge-agent")
            wait_for(lambda: box.rest("/readyz").get("status") == "ok", 90, "work")
            assert box.rest("/api/v1/status")["safe_mode"] == ""
        finally:
            mosquitto.kill()
