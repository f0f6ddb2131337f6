"""The whole agent on the real video with the real model, as its user runs it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_agent import config_file
from edge_agent.app import Agent
from edge_agent.run_options import RunOptions
from tests.agent_process import COMMAND, RunningAgent, result_of, run_agent, write_config
from tests.cpu_candidates import FIRST_CPU
from tests.mosquitto import broker, free_port, subscriber, wait_for

pytestmark = pytest.mark.slow
FRAMES = 60
"""Enough for the first violation: two people walk side by side from the start."""


@pytest.fixture(scope="module")
def recorded(root: Path, vtest_video: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A record of the first frames, and what the run said."""
    folder = tmp_path_factory.mktemp("recorded")
    config = write_config(root, folder)
    record = folder / "out.jsonl"
    done = run_agent(
        "run",
        "-c",
        config,
        "--source",
        vtest_video,
        "--no-mqtt",
        "--record",
        record,
        "--max-frames",
        str(FRAMES),
        "--json",
    )
    return record, result_of(done)


def lines_of(record: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in record.read_text().splitlines()]


def test_every_frame_is_recorded_in_order_with_real_time(recorded: tuple[Path, dict[str, Any]]) -> None:
    record, result = recorded
    header, *frames = lines_of(record)
    assert result["frames"] == FRAMES
    assert (header["record"], header["width"], header["height"], header["fps"]) == (1, 768, 576, 7.0)
    assert header["model"] == "person-n@1.0.0" and re.fullmatch("[0-9a-f]{64}", header["config_hash"])
    assert [line["frame"] for line in frames] == list(range(FRAMES))
    assert frames[-1]["t"] == pytest.approx((FRAMES - 1) / 7, abs=1e-3)


def test_people_are_tracked_on_the_ground_in_metres(recorded: tuple[Path, dict[str, Any]]) -> None:
    frames = lines_of(recorded[0])[1:]
    last = frames[-1]
    assert 3 <= len(last["tracks"]) <= 8
    assert all(line["score"] >= 0.05 for frame in frames for line in frame["detections"])
    for frame in frames:
        assert len({track["id"] for track in frame["tracks"]}) == len(frame["tracks"])
        places = {track["id"]: track["ground"] for track in frame["tracks"]}
        for pair in frame["pairs"]:
            assert pair["a"] < pair["b"] and 0 <= pair["distance_m"] <= 5 and pair["sigma_m"] > 0
            (ax, ay), (bx, by) = places[pair["a"]], places[pair["b"]]
            assert pair["distance_m"] == pytest.approx(((ax - bx) ** 2 + (ay - by) ** 2) ** 0.5, abs=0.01)
    # The plaza of this camera lies within some twenty metres of the site's origin.
    assert all(abs(value) < 60 for frame in frames for track in frame["tracks"] for value in track["ground"])


def test_a_violation_is_found(recorded: tuple[Path, dict[str, Any]]) -> None:
    events = recorded[1]["events"]
    assert events["edge_agent.social_distancing.violation.started"] >= 1
    assert (
        events["edge_agent.social_distancing.violation.ended"]
        == events["edge_agent.social_distancing.violation.started"]
    )


def test_replay_gives_the_tracks_of_the_run_and_the_same_answer_twice(
    root: Path, recorded: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    record, result = recorded
    config = write_config(root, tmp_path)
    again = [run_agent("replay", record, "-c", config, "--json", "--record", tmp_path / f"{i}.jsonl") for i in (1, 2)]
    assert again[0].returncode == 0, again[0].stderr
    assert again[0].stdout == again[1].stdout
    assert (tmp_path / "1.jsonl").read_text() == (tmp_path / "2.jsonl").read_text()
    types = [event["type"] for line in again[0].stdout.splitlines() if "type" in (event := json.loads(line))]
    started = "edge_agent.social_distancing.violation.started"
    assert types.count(started) == result["events"][started]
    # The record rounds detections to a hundredth of a pixel, so tracks may differ by little more than that.
    for ours, theirs in zip(lines_of(tmp_path / "1.jsonl")[1:], lines_of(record)[1:], strict=True):
        assert [t["id"] for t in ours["tracks"]] == [t["id"] for t in theirs["tracks"]]
        for a, b in zip(ours["tracks"], theirs["tracks"], strict=True):
            assert a["box"] == pytest.approx(b["box"], abs=0.5)


def stored(folder: Path) -> list[dict[str, Any]]:
    """The CloudEvents that lie in the outbox."""
    with contextlib.closing(sqlite3.connect(folder / "state" / "outbox.db")) as database:
        return [json.loads(row[0]) for row in database.execute("SELECT payload FROM message ORDER BY row")]


def events_of(messages: list[Any]) -> list[dict[str, Any]]:
    return [json.loads(message.payload) for message in messages]


def test_a_broker_that_was_away_the_whole_run_gets_every_event_once(
    root: Path, vtest_video: Path, tmp_path: Path
) -> None:
    port = free_port()
    mqtt = {"host": "127.0.0.1", "port": port, "heartbeat_s": 1, "reconnect_max_s": 1}
    config = write_config(root, tmp_path, mqtt=mqtt)
    result = result_of(run_agent("run", "-c", config, "--max-frames", str(FRAMES), "--json"))
    count = sum(result["events"].values())
    assert result["outbox_pending"] == count + result["metrics"] > 4
    with broker(tmp_path / "broker") as server:
        config = write_config(root, tmp_path, mqtt=mqtt | {"port": server.port})
        with (
            subscriber(server.port, "edge/v1/lab/box1/#") as seen,
            RunningAgent(tmp_path, "-c", config, "--realtime") as agent,
        ):
            wait_for(lambda: len(seen.under("/events/")) >= count, what="all events of the run before")
            wait_for(lambda: seen.under("/heartbeat"), what="a heartbeat")
            wait_for(lambda: seen.under("/model"), what="the model state")
            assert agent.end() == 0
            wait_for(lambda: len(seen.under("/status")) >= 2, what="offline")
            messages = list(seen.messages)
    arrived = events_of([m for m in messages if "/events/" in m.topic])
    ids = [event["id"] for event in arrived]
    assert len(ids) == len(set(ids))
    sequences = [int(event["sequence"]) for event in arrived]
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
    status = [json.loads(m.payload)["state"] for m in messages if m.topic.endswith("/status")]
    assert status[0] == "online" and status[-1] == "offline"
    beat = json.loads(next(m.payload for m in messages if m.topic.endswith("/heartbeat")))
    assert len(json.dumps(beat)) <= 1100 and "config" in json.dumps(beat)
    event = next(e for e in arrived if e["type"].endswith("violation.started"))
    assert event["specversion"] == "1.0" and event["source"] == "/lab/box1/pets" and event["subject"]
    assert event["data"]["calibrated"] is True and event["data"]["min_distance_m"] < 2


def test_kill_9_with_episodes_open_then_a_restart_ends_them(root: Path, vtest_video: Path, tmp_path: Path) -> None:
    config = write_config(root, tmp_path)
    with RunningAgent(tmp_path, "-c", config, "--no-mqtt", "--realtime") as agent:
        agent.wait_for_log("apart for")
        agent.end(signal.SIGKILL)
    assert run_agent("run", "-c", config, "--no-mqtt", "--max-frames", "5").returncode == 0
    events = [message for message in stored(tmp_path) if "specversion" in message]
    sequences = [int(event["sequence"]) for event in events]
    assert sequences == list(range(1, len(events) + 1))
    started = {event["subject"] for event in events if event["type"].endswith(".started")}
    ended = {event["subject"]: event for event in events if event["type"].endswith(".ended")}
    assert started and started == set(ended)
    restarted = [event for event in ended.values() if event["data"]["reason"] == "agent_restart"]
    assert restarted and all(event["bootid"] != events[0]["bootid"] for event in restarted)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_cleanly(root: Path, vtest_video: Path, tmp_path: Path, how: signal.Signals) -> None:
    config = write_config(root, tmp_path)
    record = tmp_path / "out.jsonl"
    with RunningAgent(tmp_path, "-c", config, "--no-mqtt", "--realtime", "--record", record) as agent:
        agent.wait_for_log("apart for")
        assert agent.end(how, timeout_s=10) == 0
        assert "summary" in agent.log and "Traceback" not in agent.log
    assert record.read_text().endswith("}\n")
    ended = [event for event in stored(tmp_path) if event.get("type", "").endswith(".ended")]
    assert ended and {event["data"]["reason"] for event in ended} <= {"shutdown", "left", "merged"}
    assert "shutdown" in {event["data"]["reason"] for event in ended}


def test_the_device_is_released_at_the_end(
    root: Path, vtest_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Agent(config_file.load(write_config(root, tmp_path)), RunOptions(mqtt=False, max_frames=3))
    monkeypatch.setattr(agent.supervisor, "install_signals", lambda *_: None)  # the test's own process keeps its
    detector, released = agent.detector.current, []
    monkeypatch.setattr(detector, "close", lambda: released.append(agent.cameras[0].chain.stats.frames))
    assert agent.run(lambda: None) == 0
    assert released == [3]
    assert agent.status().model.backend.startswith(f"{FIRST_CPU.backend} (")


def test_rest_tells_the_truth_while_it_runs(root: Path, vtest_video: Path, tmp_path: Path) -> None:
    port = free_port()
    mqtt = {"host": "127.0.0.1", "port": free_port()}
    config = write_config(root, tmp_path, http={"port": port}, mqtt=mqtt, privacy={"images": True})
    with (
        RunningAgent(tmp_path, "-c", config, "--realtime") as agent,
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as web,
    ):
        agent.wait_for_log("apart for")
        assert web.get("/readyz").status_code == 200
        health = web.get("/healthz").json()
        assert health["parts"]["mqtt"]["status"] == "degraded", "the broker is away and it says so"
        camera = web.get("/api/v1/cameras").json()[0]
        assert camera["state"] == "delivering" and camera["size"] == [768, 576] and camera["people"] > 0
        models = web.get("/api/v1/models").json()
        assert models["models"][0]["active"] is True and models["state"] == "confirmed" and models["previous"] is None
        assert any(event["type"].endswith("violation.started") for event in web.get("/api/v1/events").json())
        assert "edge_agent" in web.get("/metrics").text
        picture = web.get("/api/v1/cameras/pets/snapshot.jpg")
        assert picture.headers["content-type"] == "image/jpeg" and picture.content[:2] == b"\xff\xd8"
        assert agent.end() == 0


def test_no_picture_leaves_unless_it_is_allowed(root: Path, vtest_video: Path, tmp_path: Path) -> None:
    port = free_port()
    config = write_config(root, tmp_path, http={"port": port})
    with RunningAgent(tmp_path, "-c", config, "--no-mqtt", "--realtime") as agent:
        agent.wait_for_log("delivering")
        assert httpx.get(f"http://127.0.0.1:{port}/api/v1/cameras/pets/snapshot.jpg").status_code == 403


def test_two_agents_on_one_state_folder_are_refused(root: Path, vtest_video: Path, tmp_path: Path) -> None:
    config = write_config(root, tmp_path)
    with RunningAgent(tmp_path, "-c", config, "--no-mqtt", "--realtime") as agent:
        agent.wait_for_log("delivering")
        second = run_agent("run", "-c", config, "--no-mqtt")
        assert second.returncode == 2 and "in use by another agent" in second.stderr
        assert agent.process.poll() is None


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--source", "/nowhere/video.mp4"], 2, "no such file: /nowhere/video.mp4"),
        (["--model", "nobody"], 3, "person-n@1.0.0"),
        (["--record", "/nowhere/out.jsonl"], 2, "/nowhere/out.jsonl"),
        (["--max-frames", "0"], 2, "positive"),
        (["--source", ""], 2, "is empty"),
    ],
)
def test_what_cannot_start_says_why(
    root: Path, vtest_video: Path, tmp_path: Path, arguments: list[str], code: int, says: str
) -> None:
    done = run_agent("run", "-c", write_config(root, tmp_path), "--no-mqtt", *arguments)
    assert done.returncode == code, done.stderr
    assert says in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "state" / "outbox.db").exists(), "nothing was started"


def test_control_c_ends_a_verb_without_a_traceback(root: Path, vtest_video: Path, tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "endless.jsonl")
    command = [*COMMAND, "replay", str(pipe), "-c", str(write_config(root, tmp_path))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        with pipe.open("w"):  # returns once it is read
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (130, "")


@pytest.mark.parametrize("verb", [["check"], ["run", "--no-mqtt", "--max-frames", "1"]])
def test_a_label_that_the_model_does_not_know_is_refused(
    root: Path, vtest_video: Path, tmp_path: Path, verb: list[str]
) -> None:
    config = write_config(root, tmp_path, use_cases={"social_distancing": {"label": "persn"}})
    done = run_agent(*verb, "-c", config)
    assert done.returncode == 2
    assert re.search(r"config\.yaml:\d+:\d+: use_cases\.social_distancing\.label: given 'persn'.*person", done.stderr)


def test_a_ground_plane_that_cannot_be_is_refused_by_check(root: Path, tmp_path: Path) -> None:
    config = write_config(root, tmp_path)
    text = config.read_text().replace("- -12.0\n", "- 12.0\n", 1)
    config.write_text(text)
    done = run_agent("check", "-c", config)
    assert done.returncode == 2
    assert re.search(r"config\.yaml:\d+:\d+: cameras\[0\]\.ground\.points: ", done.stderr)
    as_json = run_agent("check", "-c", config, "--json")
    assert as_json.returncode == 2 and json.loads(as_json.stdout)["ok"] is False
