"""Updates in the running agent: a real process, a real broker, a real web server, models that are good and bad."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.agent_process import run_agent
from tests.mosquitto import wait_for
from tests.ota_models import BAD
from tests.tflite_fixtures import compile_c
from tests.update_fixtures import Box, updating_box

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("vtest_video"), pytest.mark.timeout(600)]


def active(state: dict[str, Any]) -> str:
    return f"{state['active']['name']}@{state['active']['version']}"


def rest(box: Box, path: str) -> Any:
    """From the agent's API, whose address is in its status."""
    status = box.asker.ask("status")["result"]
    return httpx.get(f"{status['http']}{path}", timeout=60).json()


def test_the_whole_story_of_updates(root: Path, tmp_path: Path) -> None:
    """v1 comes, is watched and kept; a bad v2 does not come through; v3 comes; an operator goes back."""
    with updating_box(root, tmp_path) as box:
        first = box.publish("1.0")
        with box.agent() as agent:
            agent.wait_for_log("delivering")
            assert active(box.model) == "eyes@0.9" and box.model["update"] is None
            assert box.update("u1")["state"] == "asking"
            state = box.wait_until("confirmed", "eyes@1.0")
            assert active(state) == "eyes@1.0" and state["active"]["bundle"] == first.sha256
            assert state["previous"] == {"name": "eyes", "version": "0.9", "bundle": None}
            states = list(dict.fromkeys(model["state"] for model in box.models if model["update"] is not None))
            assert states[-2:] == ["probation", "confirmed"]
            box.wait_for(lambda: [fact["state"] for fact in box.facts()] == ["probation", "confirmed"])

            # What was seen from then on names it, in events, heartbeat and REST.
            box.wait_for(lambda: any(m["model"]["version"] == "1.0" for m in beats(box)), what="a heartbeat with it")
            assert rest(box, "/api/v1/models")["active"]["bundle"] == first.sha256
            assert box.update("u2")["state"] == "asking"
            box.wait_for(lambda: box.model["update"]["reason"] == "active", what="to hear that it is active already")

            box.publish("2.0", BAD["it detects nothing"]())
            box.update("u3")
            state = box.wait_until("rolled_back", "eyes@2.0")
            assert active(state) == "eyes@1.0" and state["update"]["reason"] == "self_test"
            assert "AP50 0.000" in state["update"]["detail"]
            box.update("u4")  # it is not tried again and again
            state = box.wait_until("refused", "eyes")
            assert state["update"]["reason"] == "rejected" and active(state) == "eyes@1.0"

            third = box.publish("3.0", labels=("hen", "person", "dog"))  # the same in another order
            box.update("u5", "eyes@3.0")
            assert box.wait_until("confirmed", "eyes@3.0")["active"]["bundle"] == third.sha256
            back = box.asker.ask("model.rollback", {"id": "r1"})["result"]["model"]
            assert back["state"] == "asking"
            state = box.wait_until("rolled_back", "eyes@3.0")
            assert active(state) == "eyes@1.0" and state["update"]["reason"] == "operator"
            box.wait_for(lambda: len(box.facts()) == 7)
            told = [(fact["model"], fact["state"], fact["active"]) for fact in box.facts()]
            assert told[2:] == [
                ("eyes@2.0", "rolled_back", "eyes@1.0"),
                ("eyes", "refused", "eyes@1.0"),
                ("eyes@3.0", "probation", "eyes@3.0"),
                ("eyes@3.0", "confirmed", "eyes@3.0"),
                ("eyes@3.0", "rolled_back", "eyes@1.0"),
            ]
            assert agent.end() == 0
        # The next start has the model that is active, and a run with --model has what it says, for that run.
        with box.agent():
            wait_for(lambda: active(box.model) == "eyes@1.0")
        pinned = run_agent("run", "-c", box.config, "--model", "eyes@0.9", "--no-mqtt", "--max-frames", "3", "--json")
        assert pinned.returncode == 0 and "eyes@0.9" in pinned.stdout


def beats(box: Box) -> list[dict[str, Any]]:
    return [json.loads(message.payload) for message in box.asker.sub.under("/heartbeat")]


def test_no_bad_model_comes_through_and_by_hand_it_is_the_same(root: Path, tmp_path: Path) -> None:
    library = tmp_path / "driver.so"
    compile_c("broken.c", library, "-DACT=abort()")
    detect = {"tflite": {"delegate": str(library)}}
    with updating_box(root, tmp_path, detect=detect) as box, box.agent() as agent:
        agent.wait_for_log("delivering")
        said = {
            "its outputs are no numbers": "no numbers",
            "it detects everywhere": "AP50 0.0",
            "its output has another shape": "expects [1, N, 6], the network gave [1, 3]",
        }
        for number, (name, words) in enumerate(said.items()):
            version = f"2.{number}"
            box.publish(version, BAD[name]())
            box.update(f"u{number}", f"eyes@{version}")
            state = box.wait_until("rolled_back", f"eyes@{version}")
            assert words in state["update"]["detail"] and active(state) == "eyes@0.9"
        box.publish_for_delegate("1.0.0")
        box.update("abort", "squares@1.0.0")
        state = box.wait_until("rolled_back", "squares@1.0.0")
        assert "killed by SIGABRT" in state["update"]["detail"] and active(state) == "eyes@0.9"
        # By hand, where the agent is running: it does the work, and says the same.
        refused = run_agent("model", "install", "eyes@9", "-c", box.config, "--json")
        assert refused.returncode == 1 and json.loads(refused.stdout)["error"] == "NotOffered"
        box.publish("1.0")
        installed = run_agent("model", "install", "-c", box.config, "--json")
        assert json.loads(installed.stdout)["job"]["state"] == "warming", installed.stderr
        assert active(box.model) == "eyes@0.9"
        activated = run_agent("model", "activate", "-c", box.config, "--json")
        assert json.loads(activated.stdout)["active"]["version"] == "1.0", activated.stderr
        box.wait_until("confirmed", "eyes@1.0")
        assert run_agent("model", "rollback", "-c", box.config).returncode == 0
        assert active(box.wait_until("rolled_back", "eyes@1.0")) == "eyes@0.9"
        assert agent.end() == 0


FAULTY = """
import os, sys, time
from threading import Thread
from edge_agent.detect.detector import ModelDetector
from edge_agent.errors import InferenceError
from edge_agent.cli import main
detect, kept = ModelDetector.detect, []
acts = {acts!r}

def faulty(self, frame, *args):
    if frame.camera != "warm-up" and self.tag.version in acts:
        exec(acts[self.tag.version])
    return detect(self, frame, *args)

ModelDetector.detect = faulty
sys.exit(main())
"""


def program(acts: dict[str, str]) -> dict[str, Any]:
    """An agent in which some versions do something on live frames."""
    return {"program": [sys.executable, "-c", FAULTY.format(acts=acts)]}


ON_LIVE_FRAMES = {
    "2.0": ("raise InferenceError('the device is lost')", "errors"),
    "2.1": ("time.sleep(0.35)", "latency"),
    # In a thread of its own, as a driver would: in this one it would be slow first.
    "2.2": ("kept or kept.append(0) or Thread(target=lambda: kept.append(b'x' * (160 << 20))).start()", "memory"),
    "2.3": ("time.sleep(1000)", "errors"),  # the agent's own patience, which ends the process, is the shorter one
}


def test_what_fails_on_live_frames_is_taken_back(root: Path, tmp_path: Path) -> None:
    """It fails, is too slow, leaks, hangs; each came well through its self-test."""
    probation = {"frames": 100_000, "minutes": 30, "deadline_minutes": 100, "max_growth_mb": 64}
    with updating_box(root, tmp_path, probation=probation) as box:
        acts = {version: act for version, (act, _) in ON_LIVE_FRAMES.items()}
        with box.agent(**program(acts)) as agent:
            agent.wait_for_log("delivering")
            box.wait_for(lambda: len(beats(box)) >= 1)
            for number, (version, (_, reason)) in enumerate(ON_LIVE_FRAMES.items(), 1):
                box.publish(version)
                box.update(f"u{version}", f"eyes@{version}")
                state = box.wait_until("rolled_back", f"eyes@{version}")
                assert state["update"]["reason"] == reason, state
                box.wait_for(lambda n=number: len(box.facts("rolled_back")) == n, what="the event")  # type: ignore[misc]
                box.wait_for(lambda: box.model["active"] and active(box.model) == "eyes@0.9", what="the model before")
                before = box.asker.ask("status")["result"]["cameras"][0]["frames"]
                box.wait_for(lambda b=before: box.asker.ask("status")["result"]["cameras"][0]["frames"] > b + 2)  # type: ignore[misc]
            assert "stuck" in box.facts("rolled_back")[-1]["detail"]
            assert agent.end() == 0


def test_a_model_that_sees_other_things_than_the_one_before_is_taken_back(root: Path, tmp_path: Path) -> None:
    """It came without golden pictures, so its self-test could not tell."""
    probation = {"frames": 100_000, "minutes": 30, "deadline_minutes": 100, "compare": 1}
    with updating_box(root, tmp_path, probation=probation) as box:
        box.publish("2.0", BAD["it detects everywhere"](), golden=False)
        with box.agent() as agent:
            agent.wait_for_log("delivering")
            box.update("u1")
            state = box.wait_until("rolled_back", "eyes@2.0")
            assert state["update"]["reason"] == "agreement" and active(state) == "eyes@0.9"
            assert "agree with eyes@0.9" in state["update"]["detail"]
            box.publish("3.0")  # and one that sees the same is seen to do so, also by an agent that starts again
            box.update("u2")
            box.wait_until("probation", "eyes@3.0")
            box.wait_for(lambda: box.model["update"]["compared"] > 2, what="frames that both have seen")
            assert box.model["update"]["agreement"] == 1
            assert agent.end() == 0
        with box.agent() as agent:
            box.wait_for(lambda: box.model["update"]["compared"] > 2, what="frames that both have seen")
            assert box.model["state"] == "probation" and box.model["update"]["agreement"] == 1
            assert agent.end() == 0


def test_a_model_that_takes_the_agent_down_is_gone_before_it_is_loaded_again(root: Path, tmp_path: Path) -> None:
    probation = {"frames": 100_000, "minutes": 30, "deadline_minutes": 100}
    with updating_box(root, tmp_path, probation=probation) as box:
        box.publish("2.0")
        faulty = program({"2.0": "os.abort()"})
        with box.agent(**faulty) as agent:
            agent.wait_for_log("delivering")
            box.update("u1")
            assert agent.process.wait(200) == -signal.SIGABRT
        for _ in range(2):  # as systemd starts it again
            with box.agent(tells=False, **faulty) as agent:
                assert agent.process.wait(60) == -signal.SIGABRT
        with box.agent(**faulty) as agent:
            state = box.wait_until("rolled_back", "eyes@2.0")
            assert state["update"]["reason"] == "crash_loop" and active(state) == "eyes@0.9"
            box.wait_for(lambda: box.facts("rolled_back"), what="the event")
            assert "crashed 3 times" in box.facts("rolled_back")[0]["detail"]
            assert agent.end() == 0


def test_without_a_picture_its_self_test_decides_and_an_end_in_order_is_no_crash(root: Path, tmp_path: Path) -> None:
    probation = {"frames": 10, "minutes": 1, "deadline_minutes": 0.5}
    dead = [{"id": "yard", "source": "rtsp://127.0.0.1:9/nothing"}]
    with updating_box(root, tmp_path, probation=probation, cameras=dead) as box:
        box.publish("2.0")
        with box.agent() as agent:
            box.update("u1")
            box.wait_until("probation", "eyes@2.0")
            assert agent.end() == 0
        elapsed = stored(box)["probation"]["elapsed_s"]
        with box.agent() as agent:
            state = box.wait_until("confirmed", "eyes@2.0", 90)
            assert state["update"]["reason"] == "unobserved" and "0 of 10 frames" in state["update"]["detail"]
            job = stored(box)
            assert job["crashes"] == 0 and job["probation"]["elapsed_s"] >= 30 > elapsed
            box.wait_for(lambda: box.facts("confirmed"))
            assert box.facts("confirmed")[0]["reason"] == "unobserved"
            assert agent.end() == 0


def stored(box: Box) -> dict[str, Any]:
    job: dict[str, Any] = json.loads((box.folder / "state" / "models" / "state.json").read_bytes())["job"]
    return job
