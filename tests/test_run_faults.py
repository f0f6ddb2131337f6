"""The whole agent against what operators, power cuts, networks and full disks do to it."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks.crash_loop import Report, Run, judge
from tests.agent_process import COMMAND, RunningAgent, run_agent, write_config
from tests.mosquitto import wait_for

pytestmark = pytest.mark.slow


def test_no_event_is_lost_over_kills_at_any_moment(vtest_video: Path, tmp_path: Path) -> None:
    report = Run(kills=5, seed=int(os.environ.get("CRASH_SEED", "11")), folder=tmp_path).go()
    assert not report.broken
    assert report.episodes and report.ended_by.get("agent_restart")


def event(number: int, what: str = "started", subject: str = "e", ident: str = "") -> dict[str, Any]:
    return {
        "sequence": f"{number:020d}",
        "id": ident or str(number),
        "source": "/lab/box1/one",
        "subject": subject,
        "type": f"edge_agent.social_distancing.violation.{what}",
        "data": {"reason": "left"},
    }


@pytest.mark.parametrize(
    ("events", "last", "says"),
    [
        ([event(1), event(3, "ended")], 3, "missing"),
        ([event(1), event(2, "ended")], 3, "missing"),
        ([event(1), event(1, ident="x"), event(2, "ended")], 2, "two contents"),
        ([event(1), event(2, "ended", ident="1")], 2, "one id"),
        ([event(2, "ended"), event(1)], 2, "after"),
        ([event(1)], 1, "never ended"),
        ([event(1, "updated"), event(2, "ended")], 2, "updated after nothing"),
        ([event(1), event(2, "ended"), event(3, "ended")], 3, "ended after ended"),
    ],
)
def test_the_judge_of_the_crash_loop_sees_every_kind_of_loss(
    events: list[dict[str, Any]], last: int, says: str
) -> None:
    report = Report(0, 0, last_sequence=last)
    judge(report, events)
    assert any(says in line for line in report.broken), report.broken


def test_a_full_disk_ends_the_record_and_not_the_agent(root: Path, vtest_video: Path, tmp_path: Path) -> None:
    """The exit code says that what was asked for is not there; events are."""
    done = run_agent(
        "run", "-c", write_config(root, tmp_path), "--no-mqtt", "--max-frames", "60", "--record", "/dev/full", "--json"
    )
    assert done.returncode == 1
    assert done.stderr.count("No space left on device") == 1 and "Traceback" not in done.stderr
    result = json.loads(done.stdout)
    assert result["frames"] == 60 and result["events"]["edge_agent.social_distancing.violation.ended"] >= 1


@contextmanager
def http_camera(video: Path, dead: threading.Event) -> Iterator[str]:
    """A camera that sends the video at about its own pace and, once ``dead``, nothing more, on connections old or new."""

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not dead.is_set():
                self.send_response(200)
                self.end_headers()
                self.stream()
            gone.wait(60)

        def stream(self) -> None:
            with video.open("rb") as file, suppress(OSError):
                self.wfile.write(file.read(600_000))
                while not dead.wait(0.1):
                    self.wfile.write(file.read(8_000))

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the library has it
            pass

    gone = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/cam.avi"
    finally:
        dead.set()
        gone.set()
        server.shutdown()
        server.server_close()


def test_what_was_open_when_a_camera_died_ends_without_it(root: Path, vtest_video: Path, tmp_path: Path) -> None:
    dead = threading.Event()
    with http_camera(vtest_video, dead) as url:
        config = write_config(root, tmp_path, cameras=[{"id": "yard", "source": url}])
        with RunningAgent(tmp_path, "-c", config, "--no-mqtt") as agent:
            agent.wait_for_log("apart")
            dead.set()
            agent.wait_for_log("camera gap", timeout_s=25)
            assert agent.end() == 0


def refusing_by_turns() -> tuple[socket.socket, list[int]]:
    """A port whose listener answers every CONNECT with something else."""
    listener = socket.create_server(("127.0.0.1", 0))
    seen = [0]

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                seen[0] += 1
                with client, suppress(OSError):
                    if b"MQTT\5" in client.recv(1000):  # CONNACK: server unavailable, then unsupported version
                        client.sendall(bytes([0x20, 3, 0, 0x84 if seen[0] % 4 else 0x88, 0]))

    threading.Thread(target=serve, daemon=True).start()
    return listener, seen


def test_a_broker_that_fails_in_turns_is_told_once_each(root: Path, vtest_video: Path, tmp_path: Path) -> None:
    listener, seen = refusing_by_turns()
    with listener:
        mqtt = {"host": "127.0.0.1", "port": listener.getsockname()[1], "reconnect_max_s": 1}
        with RunningAgent(tmp_path, "-c", write_config(root, tmp_path, mqtt=mqtt), "--realtime") as agent:
            wait_for(lambda: seen[0] >= 12, 40, "a dozen attempts")
            assert agent.end() == 0
            told = [line for line in agent.log.splitlines() if "the outbox keeps what comes" in line]
            assert told and len({line.partition("WARNING")[2] for line in told}) == len(told), told
            assert "Traceback" not in agent.log


def test_a_terminal_that_closes_is_a_clean_stop(root: Path, vtest_video: Path, tmp_path: Path) -> None:
    """The panel's last words find no terminal; the open episodes end all the same."""
    controller, terminal = pty.openpty()
    config = write_config(root, tmp_path)
    command = [*COMMAND, "run", "-c", str(config), "--no-mqtt", "--realtime"]
    environment = os.environ | {"TERM": "xterm"}
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True, env=environment
    ) as process:
        try:
            os.close(terminal)
            started = "SELECT count(*) FROM episode"
            wait_for(lambda: ask(tmp_path, started, controller) >= 1, 40, "an open episode")
            os.close(controller)
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGHUP)
            process.wait(15)
        finally:
            process.kill()
    with closing(sqlite3.connect(tmp_path / "state" / "outbox.db")) as database:
        assert database.execute("SELECT count(*) FROM episode").fetchone() == (0,)
        ended = [json.loads(row[0]) for row in database.execute("SELECT payload FROM message")]
    assert "shutdown" in {event.get("data", {}).get("reason") for event in ended}


def ask(folder: Path, query: str, terminal: int) -> int:
    """A number from the outbox, 0 while there is none; reads off what the terminal shows, or the agent would wait."""
    while select.select([terminal], [], [], 0)[0]:
        os.read(terminal, 65536)
    try:
        with closing(sqlite3.connect(f"file:{folder}/state/outbox.db?mode=ro", uri=True)) as database:
            return int(database.execute(query).fetchone()[0])
    except sqlite3.Error:
        return 0


def test_a_folder_of_bad_and_odd_pictures_does_not_fill_the_log(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    wide, narrow = np.zeros((96, 320, 3), np.uint8), np.zeros((96, 48, 3), np.uint8)
    for number in range(40):
        cv2.imwrite(str(folder / f"{number}.png"), narrow if number % 2 else wide)
        (folder / f"bad{number}.png").write_bytes(b"no picture")
    done = run_agent("run", "-c", write_config(root, tmp_path), "--no-mqtt", "--source", folder, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["frames"] == 40
    assert done.stderr.count("cannot decode") == 5 and "40 of 80 pictures passed over" in done.stderr
    assert done.stderr.count("another aspect") == 2
