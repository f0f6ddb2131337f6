"""Commands to the whole agent, as its user runs it, over a real broker."""

from __future__ import annotations

import base64
import json
import signal
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.agent_process import RunningAgent
from tests.command_fixtures import ANSWERS, ROOT, Asker, commanded, config_for, wait_until_listening
from tests.mosquitto import broker, subscriber, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("vtest_video")]


def test_a_ping_is_answered_where_the_asker_wants_it_and_else_beside_the_command(root: Path, tmp_path: Path) -> None:
    with commanded(root, tmp_path) as (agent, asker):
        correlation = asker.send("ping", {"id": "a1"})
        plain = asker.send("ping", to=None)
        wait_for(lambda: asker.answers(correlation) and asker.answers(plain))
        ((topic, answer),) = asker.answers(correlation)
        assert topic == ANSWERS and (answer["id"], answer["command"], answer["ok"]) == ("a1", "ping", True)
        assert answer["result"]["boot_id"] == json.loads(asker.sub.under("/status")[0].payload)["boot_id"]
        ((topic, answer),) = asker.answers(plain)
        assert topic == ROOT + "commands/ping/reply" and "id" not in answer and answer["ok"]
        assert agent.end() == 0


ALL = {"allow": ["ping", "status", "config.get", "diagnostics", "log.level", "config.apply", "restart"], "trial_s": 6}


def boots(asker: Asker) -> list[str]:
    """Boot ids in the order in which the agent came online."""
    statuses = [json.loads(message.payload) for message in asker.sub.under("/status")]
    return [status["boot_id"] for status in statuses if status["state"] == "online"]


def events(asker: Asker, what: str) -> list[dict[str, Any]]:
    return [json.loads(message.payload)["data"] for message in asker.sub.under(f"/events/_device/{what}")]


def test_a_restart_is_done_once_and_answered_by_who_comes_back(root: Path, tmp_path: Path) -> None:
    with commanded(root, tmp_path, commands=ALL) as (agent, asker):
        # Retained, so that the broker gives it again to the agent that comes back.
        first = asker.send("restart", {"id": "r1"}, retain=True)
        wait_for(lambda: asker.answers(first), 40)
        answer = asker.answers(first)[0][1]
        assert answer["ok"] and answer["id"] == "r1"
        wait_for(lambda: len(boots(asker)) == 2)
        assert answer["result"]["boot_id"] == boots(asker)[1] != boots(asker)[0]
        # Redelivered at that connection: the same answer, no second restart.
        wait_for(lambda: len(asker.answers(first)) == 2)
        assert asker.answers(first)[1][1] == answer
        assert asker.ask("ping")["result"]["boot_id"] == boots(asker)[1]
        assert asker.ask("restart", {"id": "r1"}) == answer
        assert agent.process.poll() is None and agent.log.count("command restart r1 is done") == 1
        wait_for(lambda: events(asker, "command") == [{"command": "restart", "id": "r1", "ok": True}])
        assert agent.end() == 0


def test_a_change_is_confirmed_once_the_agent_is_as_ready_with_it(root: Path, tmp_path: Path) -> None:
    with commanded(root, tmp_path, commands=ALL) as (agent, asker):
        agent.wait_for_log("delivering")
        before = asker.ask("config.get")["result"]
        assert before["state"] == "none" and before["config"]["cameras"]["pets"]["max_fps"] == 2
        patch = {"cameras": {"pets": {"max_fps": 3}}, "track": {"max_lost_s": 1.5}}
        answer = asker.ask("config.apply", {"id": "c1", "args": {"config": patch}}, timeout_s=60)
        assert answer["result"]["state"] == "confirmed" and answer["result"]["restarted"] is True
        now = asker.ask("config.get")["result"]
        assert now["config"]["cameras"]["pets"]["max_fps"] == 3 and now["overlay"] == patch
        assert now["config_hash"] == answer["result"]["config_hash"] != before["config_hash"]
        wait_for(lambda: [event["state"] for event in events(asker, "config")] == ["confirmed"])
        # What needs no restart is taken over at once.
        answer = asker.ask("config.apply", {"id": "c2", "args": {"config": {"mqtt": {"heartbeat_s": 1}}}})
        assert answer["result"]["restarted"] is False
        seen = len(asker.sub.under("/heartbeat"))
        wait_for(lambda: len(asker.sub.under("/heartbeat")) >= seen + 3, 10)
        beat = json.loads(asker.sub.under("/heartbeat")[-1].payload)
        assert answer["result"]["config_hash"].startswith(beat["config"])
        assert len(boots(asker)) == 2
        assert agent.end() == 0


def test_a_change_that_makes_the_agent_less_ready_is_taken_back(root: Path, tmp_path: Path) -> None:
    with commanded(root, tmp_path, commands=ALL) as (agent, asker):
        agent.wait_for_log("delivering")
        before = asker.ask("config.get")["result"]["config_hash"]
        patch = {"cameras": {"pets": {"source": "rtsp://127.0.0.1:9/nothing"}}}
        answer = asker.ask("config.apply", {"id": "c1", "args": {"config": patch}}, timeout_s=90)
        assert (
            answer["error"]["code"] == "rolled_back" and "readiness is failing, it was ok" in answer["error"]["message"]
        )
        assert len(boots(asker)) == 3
        now = asker.ask("config.get")["result"]
        assert (now["state"], now["config_hash"], now["overlay"]) == ("rolled_back", before, {})
        wait_for(lambda: [event["state"] for event in events(asker, "config")] == ["rolled_back"])
        assert agent.end() == 0


KILLED_AT = """
import os, signal, sys
from edge_agent.command_handlers import AgentCommands
from edge_agent.cli import main
AgentCommands.{handler} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("name", "handler", "args"), [("restart", "_restart", {}), ("log.level", "_log_level", {"level": "debug"})]
)
def test_a_command_that_was_written_down_and_not_done_is_told_truly(
    root: Path, tmp_path: Path, name: str, handler: str, args: dict[str, Any]
) -> None:
    """Killed with -9 between the two. Nobody asks again: the next start knows whom to tell."""
    with broker(tmp_path / "broker") as server, subscriber(server.port) as sub:
        asker, config = Asker(sub), config_for(root, tmp_path, server, commands=ALL)
        killed_at = [sys.executable, "-c", KILLED_AT.format(handler=handler)]
        with RunningAgent(tmp_path, "-c", config, "--realtime", program=killed_at) as agent:
            wait_until_listening(sub)
            asked = asker.send(name, {"id": "k1", "args": args})
            assert agent.process.wait(20) == -signal.SIGKILL
        with RunningAgent(tmp_path, "-c", config, "--realtime") as agent:
            wait_for(lambda: asker.answers(asked), 40)
            answer = asker.answers(asked)[0][1]
            if name == "restart":
                wait_for(lambda: len(boots(asker)) == 2)
                assert answer["result"]["boot_id"] == boots(asker)[1]
            else:
                assert answer["error"]["code"] == "interrupted"
            assert asker.ask(name, {"id": "k1", "args": args}) == answer
            assert asker.ask("ping")["result"]["boot_id"] == boots(asker)[1]
            assert agent.end() == 0


def test_what_lets_the_agent_not_start_is_taken_back_at_once(root: Path, tmp_path: Path) -> None:
    with commanded(root, tmp_path, commands=ALL) as (agent, asker):
        patch = {"detect": {"backend": "onnxruntime", "onnxruntime": {"providers": ["CUDAExecutionProvider"]}}}
        answer = asker.ask("config.apply", {"id": "c1", "args": {"config": patch}}, timeout_s=60)
        assert answer["error"]["code"] == "rolled_back" and "does not start" in answer["error"]["message"]
        assert asker.ask("config.get")["result"]["overlay"] == {}
        assert len(boots(asker)) == 2 and agent.end() == 0


def test_a_picture_comes_pixelated_and_not_too_large_where_privacy_allows_it(root: Path, tmp_path: Path) -> None:
    commands = {"allow": ["snapshot", "config.apply"]}
    with commanded(root, tmp_path, commands=commands, privacy={"images": True}) as (agent, asker):
        agent.wait_for_log("delivering")
        shot = {"args": {"camera": "pets", "width": 320}}
        wait_for(lambda: asker.ask("snapshot", shot)["ok"])
        picture = base64.b64decode(asker.ask("snapshot", shot)["result"]["jpeg"])
        image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None and image.shape == (240, 320, 3)
        assert asker.ask("snapshot", {"args": {"camera": "yard"}})["error"]["code"] == "not_available"
        # Stricter from afar it may become, and less strict again no further than the file says.
        stricter = {"id": "p1", "args": {"config": {"privacy": {"images": False}}}}
        assert asker.ask("config.apply", stricter, timeout_s=60)["ok"]
        assert asker.ask("snapshot", shot)["error"]["code"] == "not_allowed"
        assert agent.end() == 0


def test_the_box_is_looked_over_while_the_agent_works(root: Path, tmp_path: Path) -> None:
    with commanded(root, tmp_path) as (agent, asker):
        result = asker.ask("diagnostics", timeout_s=60)["result"]
        assert {"system", "network"} <= {check["area"] for check in result["checks"]}
        assert asker.ask("status")["result"]["cameras"][0]["id"] == "pets"
        assert agent.end() == 0


def test_a_flood_is_cut_off_and_events_still_come(root: Path, tmp_path: Path) -> None:
    with commanded(root, tmp_path) as (agent, asker):
        sent = [asker.send("ping") for _ in range(300)]
        # In order: those that were taken, those that were told that it is too much, then silence.
        wait_for(lambda: asker.answers(sent[39]))
        codes = [answer.get("error", {}).get("code", "ok") for one in sent for _, answer in asker.answers(one)]
        assert codes.count("ok") >= 10 and codes.count("rate_limited") >= 10 and len(codes) < 200
        assert agent.log.count("commands come faster") == 1
        wait_for(lambda: asker.sub.under("/events/pets/"), 40)
        assert agent.end() == 0
