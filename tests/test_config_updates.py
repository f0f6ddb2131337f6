"""Signed configuration in the running agent: a real process, a real broker, a real web server."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.agent_process import run_agent
from tests.config_fixtures import NAME, publish
from tests.mosquitto import wait_for
from tests.update_fixtures import Box, updating_box

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("vtest_video"), pytest.mark.timeout(600)]
WAIT_S = 120.0
CRASHING = """
import os, sys
from edge_agent.app import Agent
from edge_agent.cli import main
start = Agent._start

def fail(self):
    start(self)
    if self.config.track.max_lost_s == 3.5:
        os.abort()

Agent._start = fail
sys.exit(main())
"""


def states(box: Box) -> list[dict[str, Any]]:
    return [json.loads(message.payload) for message in box.asker.sub.under("/lab/box1/config")]


def facts(box: Box) -> list[tuple[str, str | None]]:
    told = [json.loads(message.payload)["data"] for message in box.asker.sub.under("/events/_device/config")]
    return [(fact["state"], fact.get("code")) for fact in told]


def wait_until(box: Box, state: str, bundle: str) -> dict[str, Any]:
    """The topic ``config``, once the update to ``bundle`` is in ``state``."""

    def there() -> bool:
        last = states(box)[-1:]
        return bool(last and last[0]["state"] == state and last[0]["update"] and last[0]["update"]["model"] == bundle)

    box.wait_for(there, WAIT_S, f"{bundle} to be {state}; {states(box)[-1:]}")
    return states(box)[-1]


def test_from_the_operator_to_the_box_and_back(root: Path, tmp_path: Path) -> None:
    """One that is good, one that is not for this box, one that blinds it, one that crashes it, and the way back."""
    commands = {"allow": ["ping", "status", "config.update", "config.rollback"], "trial_s": 8}
    with updating_box(root, tmp_path, commands=commands, ota={"config": NAME}) as box:

        def ask(ident: str, command: str = "config.update", **args: Any) -> dict[str, Any]:
            answer = box.asker.ask(command, {"id": ident, "args": args})
            assert answer["ok"], answer
            result: dict[str, Any] = answer["result"]["config"]
            return result

        first = publish(box.operator, "1", {"track": {"max_lost_s": 1.5}})
        with box.agent(program=[sys.executable, "-c", CRASHING]) as agent:
            agent.wait_for_log("delivering", 60)
            wait_for(lambda: states(box), 30, "the topic config")
            assert states(box)[-1]["active"] is None and states(box)[-1]["state"] == "confirmed"
            before = states(box)[-1]["config_hash"]
            assert ask("c1")["state"] == "asking"
            state = wait_until(box, "confirmed", "tills@1")
            assert state["active"] == {"name": "tills", "version": "1", "bundle": first.sha256}
            assert state["config_hash"] != before and state["previous"] is None
            status = box.asker.ask("status")["result"]
            assert status["config"]["bundle"] == "tills@1" and status["config_hash"] == state["config_hash"]
            assert httpx.get(f"{status['http']}/api/v1/status").json()["config"]["bundle"] == "tills@1"

            publish(box.operator, "2", {"cameras": {"yard": {"max_fps": 3}}})
            ask("c2")
            refused = wait_until(box, "rolled_back", "tills@2")
            assert "no such camera; there are: pets" in refused["update"]["detail"]
            assert refused["active"] == state["active"] and refused["config_hash"] == state["config_hash"]

            publish(box.operator, "3", {"cameras": {"pets": {"source": "rtsp://127.0.0.1:9/nothing"}}})
            ask("c3")
            blind = wait_until(box, "rolled_back", "tills@3")
            assert blind["update"]["reason"] == "unhealthy" and "it was ok" in blind["update"]["detail"]
            # Who takes it back still runs with it, says so, and starts again.
            wait_for(lambda: states(box)[-1]["config_hash"] == state["config_hash"], 60, "the one before at work")
            assert states(box)[-1]["state"] == "rolled_back" and states(box)[-1]["active"] == state["active"]

            publish(box.operator, "4", {"track": {"max_lost_s": 3.5}})
            ask("c4")
            assert agent.process.wait(60) == -signal.SIGABRT
        with box.agent(tells=False, program=[sys.executable, "-c", CRASHING]) as agent:  # as systemd starts it again
            assert agent.process.wait(60) == -signal.SIGABRT
        with box.agent(program=[sys.executable, "-c", CRASHING]) as agent:
            loop = wait_until(box, "rolled_back", "tills@4")
            assert loop["update"]["reason"] == "crash_loop" and loop["config_hash"] == state["config_hash"]
            checked = run_agent("check", "-c", box.config)
            assert "signed configuration: tills@1 (rolled_back)" in checked.stdout, checked.stderr

            ask("c5", "config.rollback")
            back = wait_until(box, "rolled_back", "tills@1")
            assert back["active"] is None and back["config_hash"] == before
            wait_for(lambda: facts(box)[-1:] == [("rolled_back", "operator")], 60, "the event")
            told = [
                ("probation", None),
                ("confirmed", None),
                ("rolled_back", "self_test"),
                ("rolled_back", "unhealthy"),
                ("rolled_back", "crash_loop"),
                ("rolled_back", "operator"),
            ]
            assert [fact for fact in facts(box) if fact[0] != "probation"] == told[1:]
            assert agent.end() == 0


def test_it_is_published_by_its_own_team_and_found_by_its_name(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("correct horse battery staple\n")
    layer = tmp_path / "tills.yaml"

    def repo(*words: str) -> Any:
        verb, *rest = words
        return run_agent("repo", verb, tmp_path / "r", *rest, "--passphrase-file", secret)

    assert repo("init").returncode == 0 and repo("add-key", "--role", "config").returncode == 0
    layer.write_text("detect: {score_threshold: 0.4}\nmqtt: {host: evil}\n")
    publishing = ("publish", "tills@1", "--config", str(layer), "--channel", "canary")
    refused = repo(*publishing)
    assert refused.returncode == 2 and "tills.yaml:2:14: mqtt.host: cannot be changed from afar" in refused.stderr
    layer.write_text("detect: {score_threshold: 0.4}\n")
    assert repo(*publishing).returncode == 0
    assert repo("promote", "tills@1", "--channel", "stable").returncode == 0
    told = json.loads(run_agent("repo", "status", tmp_path / "r", "--json").stdout)
    offered = [(each["team"], each["channel"], each["bundles"]) for each in told["channels"]]
    assert offered == [("config", "canary", {"tills": "1"}), ("config", "stable", {"tills": "1"})]
    assert repo("revoke", "tills@1").returncode == 0
