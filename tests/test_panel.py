from __future__ import annotations

import io
import logging
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from edge_agent.health.status import CameraStatus, MqttStatus
from edge_agent.panel import RESTORE_TERMINAL, LivePanel, screen
from edge_agent.report import PlainReporter, Summary, Tally, state_line, summary
from edge_agent.sentences import camera_of, printable, seconds, sentence
from edge_agent.types import SensorValue
from tests.health_fixtures import agent_status


def event(kind: str, source: str = "/mill/box-7/gate", **data: Any) -> dict[str, Any]:
    return {"type": f"edge_agent.{kind}", "source": source, "data": data}


VIOLATION = "social_distancing.violation"
NEAR = [{"a": 3, "b": 9, "distance_m": 1.42}, {"a": 3, "b": 11, "distance_m": 1.9}]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            event(f"{VIOLATION}.started", people=2, min_distance_m=0.8, duration_s=1.5, zone="till", pairs=NEAR),
            "2 people 1.4 m apart for 1.5 s in till",
        ),
        (
            event(f"{VIOLATION}.updated", people=3, reason="growth", duration_s=4.0, pairs=NEAR),
            "now 3 people 1.4 m apart for 4.0 s",
        ),
        (
            event(f"{VIOLATION}.updated", people=2, reason="duration", duration_s=10.0, pairs=[], min_distance_m=0.8),
            "still 2 people 0.8 m apart for 10 s",
        ),
        (
            event(
                f"{VIOLATION}.ended",
                people=0,
                people_max=4,
                min_distance_m=1.2,
                duration_s=134.0,
                zone="till",
                reason="agent_restart",
            ),
            "over after 2 min 14 s in till: 4 people, closest 1.2 m (agent restart)",
        ),
        (
            event(
                f"{VIOLATION}.ended",
                people=2,
                min_distance_m=0.0,
                min_distance_sigma_m=0.42,
                duration_s=5.0,
                calibrated=False,
                reason="left",
            ),
            "over after 5.0 s: 2 people, closest 0.0 ± 0.4 m (estimate)",
        ),
        (event(f"{VIOLATION}.started", people=2, pairs=NEAR, calibrated=False), "2 people 1.4 m apart (estimate)"),
        (
            event("device.camera_state", "/m/b/_device", camera="gate", value="stalled", reason="no frame"),
            "stalled: no frame",
        ),
        (event("device.camera_view", "/m/b/_device", camera="gate", value="black"), "view black"),
        (
            event("device.sensor_state", "/m/b/_device", sensor="hall", state="stale", reason="nothing came for 30 s"),
            "sensor hall stale: nothing came for 30 s",
        ),
        (event("device.outbox_drops", "/m/b/_device", count=3, ranges=[[1, 3]]), "outbox drops: count=3"),
        ({}, "event"),
    ],
)
def test_sentences(given: dict[str, Any], said: str) -> None:
    assert sentence(given) == said


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(["people", "pairs", "min_distance_m", "duration_s", "zone", "reason", "camera", "value", "x"])


@given(
    kind=st.sampled_from(
        [f"edge_agent.{VIOLATION}.started", f"edge_agent.{VIOLATION}.ended", "edge_agent.device.camera_state"]
    )
    | st.text(),
    source=JSON,
    data=st.dictionaries(KEYS, JSON) | JSON,
)
def test_any_event_is_one_printable_line(kind: str, source: object, data: object) -> None:
    given_event = {"type": kind, "source": source, "data": data}
    for text in (sentence(given_event), camera_of(given_event)):
        assert text.isprintable()
        assert len(text) <= 200


def test_the_camera_of_a_device_event() -> None:
    assert camera_of(event("device.camera_state", "/mill/box-7/_device", camera="gate")) == "gate"
    assert camera_of(event("device.model", "/mill/box-7/_device")) == ""
    assert camera_of(event(VIOLATION)) == "gate"


@pytest.mark.parametrize(
    ("value", "said"), [(0.0, "0.0 s"), (9.96, "10 s"), (119.4, "119 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations(value: float, said: str) -> None:
    assert seconds(value) == said


def test_escape_sequences_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[2Jb\nc") == "a [2Jb c"
    assert printable("x" * 300, 10) == "x" * 9 + "…"


def drawn(status: Any, feed: list[Text], width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    console.print(screen(status, feed, (width, height)))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip("\n").split("\n")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (40, 12)])
@pytest.mark.parametrize("cameras", [1, 3, 64])
def test_it_fits_any_terminal(width: int, height: int, cameras: int) -> None:
    many = tuple(CameraStatus(f"camera-{n}-{'x' * 50}", "reconnecting", length=10) for n in range(cameras))
    status = agent_status(cameras=many, mqtt=MqttStatus(True, False, None, "e" * 300, "h" * 200))
    status = replace(status, sensors={f"s{n}": SensorValue(1.0, "x" * 16, 1.0) for n in range(64)})
    lines = drawn(status, [Text("word " * 60)] * 300, width, height)
    assert len(lines) == height
    assert {len(line) for line in lines} == {width}


def test_everything_is_on_a_small_screen() -> None:
    camera = CameraStatus(
        "gate", "delivering", fps=6.98, latency_ms=34.2, people=7, open_episodes=2, frames=345, length=795
    )
    status = agent_status(cameras=(camera,), http="http://127.0.0.1:8080/docs")
    feed = [Text(f"line {n}") for n in range(50)]
    text = "\n".join(drawn(status, feed, 80, 24))
    assert re.search(r"gate +delivering +7\.0 +34 ms +7 +2 +0", text)
    for words in ("345/795 frames", "person-n 1.0.0", "connected localhost:1883", "3 waiting, oldest", "● ok"):
        assert words in text
    assert "http://127.0.0.1:8080/docs" in text
    assert "line 49" in text  # the newest
    assert "line 10" not in text


def test_sensors_have_a_row_where_there_are_any() -> None:
    sensors = {
        "door": SensorValue(True, "", 1.0),
        "hall": SensorValue(21.54, "°C", 1.0),
        "pump": SensorValue(7.0, "bar", 99.0, "stale", "nothing came"),
    }
    text = "\n".join(drawn(agent_status(sensors=sensors), [Text("line 1")], 80, 24))
    assert "pump stale · door true · hall 21.54 °C" in text
    assert "● degraded: sensors" in text and "line 1" in text
    assert " sensors " not in "\n".join(drawn(agent_status(), [], 80, 24))


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_log_lines_join_the_panel_and_warnings_outlive_it() -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    out = io.StringIO()
    try:
        with LivePanel(agent_status, Console(file=out, force_terminal=True, width=100, height=30)) as panel:
            logging.getLogger("x").info("just so")
            logging.getLogger("x").info("opening %s", "rtsp://admin:geheim@camera/1")
            logging.getLogger("x").info("%d", "a slip of a library is no reason to end its thread")
            logging.getLogger("x").warning("the disk is %d %% full", 93)
            panel.on_event(event(f"{VIOLATION}.updated", people=2, min_distance_m=1.4, duration_s=10.0))
            until(lambda: "93 % full" in out.getvalue() and "still 2 people 1.4 m apart for 10 s" in out.getvalue())
            assert "opening rtsp://" in out.getvalue() and "geheim" not in out.getvalue()
            assert written.getvalue() == ""
        assert root.handlers == [handler]
        assert written.getvalue() == "the disk is 93 % full\n"
        assert not any(thread.name == "panel" for thread in threading.enumerate())
    finally:
        root.handlers[:] = before
        root.setLevel(level)


PROGRAM = """
import os, sys, threading
from rich.console import Console
from edge_agent.panel import LivePanel, RESTORE_TERMINAL
from edge_agent.supervisor import Supervisor
from tests.health_fixtures import agent_status
stop = threading.Event()
supervisor = Supervisor(stop)
supervisor.install_signals(RESTORE_TERMINAL)
with LivePanel(agent_status, Console()):
    supervisor.wait(lambda: None)
    if sys.argv[1] == "hang":
        os.write(2, b"hanging")
        threading.Event().wait()
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["clean", "hang"])
def test_the_terminal_is_restored(mode: str) -> None:
    master, slave = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    seen = b""

    def read_until(mark: bytes) -> None:
        nonlocal seen
        end = time.monotonic() + 20
        while mark not in seen:
            assert time.monotonic() < end, seen[-2000:]
            if select.select([master], [], [], 0.1)[0]:
                seen += os.read(master, 65536)

    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, mode], stdin=slave, stdout=slave, stderr=slave, env=env
    ) as process:
        read_until(b"person-n")
        assert b"\x1b[?1049h" in seen and b"\x1b[?25l" in seen
        process.send_signal(signal.SIGINT)
        if mode == "hang":
            read_until(b"hanging")  # signals of one kind merge while one is pending
            process.send_signal(signal.SIGINT)
        read_until(b"\x1b[?25h")
        read_until(b"\x1b[?1049l")
        assert process.wait(10) == (0 if mode == "clean" else 130)
    os.close(slave)
    os.close(master)
    assert seen.rindex(b"\x1b[?1049l") > seen.rindex(b"\x1b[?1049h")
    assert set(re.findall(rb"\x1b\[\?\d+[hl]", RESTORE_TERMINAL)) == {b"\x1b[?1049l", b"\x1b[?25h"}


def test_plain_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    reporter = PlainReporter(agent_status, every_s=0.0)
    reporter.on_event(event(f"{VIOLATION}.started", people=2, min_distance_m=1.4, duration_s=1.5))
    reporter.tick()
    PlainReporter(agent_status, every_s=1000.0).tick()  # not yet
    assert [record.getMessage() for record in caplog.records] == [
        "event gate: 2 people 1.4 m apart for 1.5 s",
        "ok · gate delivering 7.0 fps 34 ms 3 people 0 open · outbox 3 waiting · broker connected",
    ]


def test_the_state_line_of_many_cameras_stays_short() -> None:
    many = tuple(CameraStatus(f"c{n}", "delivering") for n in range(64))
    assert "60 more cameras" in state_line(agent_status(cameras=many))


def test_tally_and_summary() -> None:
    tally = Tally()
    for phase in ("started", "updated", "started"):
        tally.on_event(event(f"{VIOLATION}.{phase}"))
    run = Summary(795, 113.6, 9, tally.events(), 4, 18, 2, 1, "person-n 1.0.0")
    console = Console(file=io.StringIO(), width=100)
    console.print(summary(run))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for words in (
        "795 in 114 s (7.0 fps), 2 dropped",
        "at most 9",
        "2  social_distancing.violation.started",
        "18 waiting",
    ):
        assert words in text
    assert "1 messages dropped" in text
    assert len(text.splitlines()) < 24
    assert Summary(0, 0.0).fps == 0.0


def test_a_panel_that_fails_gives_the_terminal_and_the_log_back() -> None:
    root = logging.getLogger()
    before = root.handlers[:]
    written = io.StringIO()
    root.handlers[:] = [logging.StreamHandler(written)]
    out = io.StringIO()

    def broken() -> Any:
        raise ZeroDivisionError

    try:
        with LivePanel(broken, Console(file=out, force_terminal=True, width=80, height=24)):
            until(lambda: "the live panel failed" in written.getvalue())
            assert "\x1b[?1049l" in out.getvalue()
    finally:
        root.handlers[:] = before
