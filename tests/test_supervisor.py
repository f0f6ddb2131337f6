from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_agent.app import Agent
from edge_agent.config import Config
from edge_agent.detect.manifest import Model
from edge_agent.errors import ModelError, SourceLost
from edge_agent.health.status import WorkerState
from edge_agent.run_options import RunOptions
from edge_agent.supervisor import STOP_LIMIT_S, RestartBudget, StopStep, Supervisor, run_stop_steps
from edge_agent.types import Beat

QUICK = RestartBudget(restarts=2, window_s=60.0, pause_s=0.01, max_pause_s=0.02)


def until(condition: Callable[[], bool], deadline_s: float = 5.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.005)


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    """Set at the end, so that no worker outlives its test."""
    event = threading.Event()
    yield event
    event.set()


def state(supervisor: Supervisor, name: str) -> WorkerState:
    return next(worker.state for worker in supervisor.states() if worker.name == name)


def test_work_that_ends_is_done_and_no_failure(stop: threading.Event) -> None:
    supervisor = Supervisor(stop)
    supervisor.spawn("file", lambda beat: beat.begin(), essential=True, deadline_s=0.01, restart=True)
    assert supervisor.join("file", 5)
    assert state(supervisor, "file") == "done"
    assert supervisor.check()
    assert supervisor.states()[0].busy_s is None


def test_waiting_past_the_deadline_is_healthy(stop: threading.Event) -> None:
    supervisor = Supervisor(stop)
    worked = threading.Event()

    def run(beat: Beat) -> None:
        beat.begin()
        beat.end()
        worked.set()
        stop.wait()

    supervisor.spawn("idle", run, essential=True, deadline_s=0.0, restart=False)
    assert worked.wait(5)
    assert supervisor.check()
    assert state(supervisor, "idle") == "running"


@pytest.mark.parametrize("essential", [True, False])
def test_a_stuck_worker_ends_the_process_only_if_essential(
    stop: threading.Event, caplog: pytest.LogCaptureFixture, essential: bool
) -> None:
    supervisor = Supervisor(stop)

    def hang_in_the_driver(beat: Beat) -> None:
        beat.begin()
        stop.wait()
        beat.end()

    supervisor.spawn("detect-0", hang_in_the_driver, essential=essential, deadline_s=0.05, restart=True)
    until(lambda: state(supervisor, "detect-0") == "stuck")
    assert supervisor.check() is not essential
    assert supervisor.check() is not essential
    assert [r.message for r in caplog.records if "stuck" in r.message][1:] == []  # told once
    assert "hang_in_the_driver" in caplog.text  # and where
    assert supervisor.states()[0].last_error.startswith("stuck for")
    if essential:
        assert str(supervisor.failure).startswith("worker detect-0: stuck")
        supervisor.wait(lambda: pytest.fail("nothing to wait for"))
        assert stop.is_set()
    else:
        assert supervisor.failure is None
        stop.set()
        until(lambda: state(supervisor, "detect-0") == "done")


@pytest.mark.slow
def test_time_in_which_the_whole_process_stood_still_makes_nobody_stuck(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after SIGSTOP and SIGCONT, a paused virtual machine, a frozen container."""
    monkeypatch.setattr("edge_agent.supervisor.FROZEN_S", 0.5)
    supervisor = Supervisor(stop)
    begun = threading.Event()

    def work(beat: Beat) -> None:
        beat.begin()
        begun.set()
        stop.wait()

    supervisor.spawn("detect", work, essential=True, deadline_s=0.4, restart=False)
    assert begun.wait(5)
    assert supervisor.check()
    time.sleep(0.8)  # nobody looks for longer than anybody may be busy
    assert supervisor.check() and state(supervisor, "detect") == "running"
    until(lambda: not supervisor.check())  # and then the time counts again


def test_a_crash_is_followed_by_a_new_start(stop: threading.Event) -> None:
    supervisor = Supervisor(stop, QUICK)
    calls = 0

    def run(beat: Beat) -> None:
        nonlocal calls
        calls += 1
        beat.begin()
        if calls < 3:
            raise SourceLost(f"gone {calls}")
        beat.end()
        stop.wait()

    supervisor.spawn("capture-gate", run, essential=True, deadline_s=5, restart=True)
    until(lambda: calls == 3)
    until(lambda: state(supervisor, "capture-gate") == "running")
    seen = supervisor.states()[0]
    assert (seen.restarts, seen.last_error, supervisor.failure) == (2, "SourceLost: gone 2", None)


def test_the_restart_budget_ends_the_process(stop: threading.Event) -> None:
    supervisor = Supervisor(stop, QUICK)
    calls = 0

    def run(beat: Beat) -> None:
        nonlocal calls
        calls += 1
        raise ValueError(calls)

    supervisor.spawn("outbox", run, essential=True, deadline_s=5, restart=True)
    supervisor.wait(lambda: None, 0.01)
    assert calls == 1 + QUICK.restarts
    assert str(supervisor.failure) == "worker outbox: ValueError: 3"
    assert isinstance(supervisor.failure.__cause__ if supervisor.failure else None, ValueError)
    assert state(supervisor, "outbox") == "failed"
    assert not supervisor.check()


def test_a_long_healthy_run_clears_the_budget(stop: threading.Event) -> None:
    supervisor = Supervisor(stop, RestartBudget(restarts=1, window_s=0.0, pause_s=0.001, max_pause_s=0.001))
    calls = 0

    def run(beat: Beat) -> None:
        nonlocal calls
        calls += 1
        time.sleep(0.002)  # longer than the window
        if calls < 6:
            raise ValueError

    supervisor.spawn("pump", run, essential=True, deadline_s=5, restart=True)
    assert supervisor.join("pump", 5)
    assert (calls, supervisor.failure) == (6, None)


def test_a_worker_that_is_not_essential_is_tried_for_ever(stop: threading.Event) -> None:
    supervisor = Supervisor(stop, QUICK)
    calls = 0

    def run(beat: Beat) -> None:
        nonlocal calls
        calls += 1
        raise OSError("no broker")

    supervisor.spawn("mqtt", run, essential=False, deadline_s=5, restart=True)
    until(lambda: calls > 3 * QUICK.restarts)
    assert supervisor.failure is None
    stop.set()
    assert supervisor.join("mqtt", 5)


@pytest.mark.parametrize(("error", "restart"), [(ModelError("damaged"), True), (OSError("x"), False)])
def test_what_cannot_help_is_not_tried_again(stop: threading.Event, error: Exception, restart: bool) -> None:
    supervisor = Supervisor(stop, QUICK)
    calls = 0

    def run(beat: Beat) -> None:
        nonlocal calls
        calls += 1
        raise error

    supervisor.spawn("detect-0", run, essential=True, deadline_s=5, restart=restart)
    assert supervisor.join("detect-0", 5)
    assert calls == 1
    assert supervisor.failure is not None
    assert supervisor.failure.__cause__ is error


def test_join_takes_a_prefix_and_a_deadline(stop: threading.Event) -> None:
    supervisor = Supervisor(stop)

    def wait_for_stop(_: Beat) -> None:
        stop.wait()

    supervisor.spawn("capture-a", lambda _: None, essential=False, deadline_s=1, restart=False)
    supervisor.spawn("detect-0", wait_for_stop, essential=False, deadline_s=1, restart=False)
    assert supervisor.join("capture", 5)
    assert not supervisor.join("detect", 0.01)


def test_wait_ticks_until_stop(stop: threading.Event) -> None:
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticks == 3:
            stop.set()

    Supervisor(stop).wait(tick, 0.001)
    assert ticks == 3


def test_stop_steps_run_in_order_and_a_slow_or_broken_one_is_left(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    release = threading.Event()

    def broken() -> None:
        raise OSError("disk")

    steps = [
        StopStep("capture", lambda: done.append("capture"), 1.0),
        StopStep("slow", release.wait, 0.05),
        StopStep("broken", broken, 1.0),
        StopStep("outbox", lambda: done.append("outbox"), 1.0),
    ]
    assert run_stop_steps(steps) == ["slow", "broken"]
    assert done == ["capture", "outbox"]
    assert "slow is not done after 0.05 s" in caplog.text
    release.set()


def test_stop_steps_that_may_take_too_long_together_are_told_and_run(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    run_stop_steps([StopStep(name, lambda name=name: done.append(name), 5.0) for name in "ab"])  # type: ignore[misc]
    assert done == ["a", "b"]
    assert "may take 10 s together, allowed are less than 10 s" in caplog.text


def test_an_agent_with_everything_switched_on_ends_in_less_than_ten_seconds(tmp_path: Path, bundled: Model) -> None:
    door = {
        "id": "door",
        "topic": "door/set",
        "actions": {"open": {"payload": "1"}, "close": {"payload": "0"}},
        "safe": "close",
    }
    tree = {
        "state_dir": str(tmp_path / "state"),
        "models_dir": str(bundled.folder.parents[1]),
        "cameras": [{"id": "a", "source": "rtsp://127.0.0.1:1/none"}],
        "http": {"enabled": True, "port": 0},
        "mqtt": {"enabled": True},
        "actuators": {"allow": ["door/"], "devices": [door]},
    }
    agent = Agent(Config.model_validate(tree), RunOptions())
    steps = agent.stop_steps()
    assert {step.name for step in steps} >= {"actuators", "sinks", "http", "commands", "models"}
    assert sum(step.deadline_s for step in steps) < STOP_LIMIT_S


PROGRAM = """
import sys, threading
from edge_agent.supervisor import Supervisor
stop = threading.Event()
supervisor = Supervisor(stop)
supervisor.install_signals()
told = []
def tick():
    if not told:
        told.append(1); print("up", flush=True)
supervisor.wait(tick)
print("stopping", supervisor.signal, stop.is_set(), flush=True)
if sys.argv[1] == "hang":
    threading.Event().wait()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "mode"),
    [
        (signal.SIGTERM, "clean"),
        (signal.SIGTERM, "hang"),
        (signal.SIGINT, "clean"),
        (signal.SIGINT, "hang"),
        (signal.SIGHUP, "clean"),
    ],
)
def test_signals_stop_and_a_second_one_ends_at_once(number: int, mode: str) -> None:
    command = [sys.executable, "-c", PROGRAM, mode]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        assert process.stdout.readline() == f"stopping {int(number)} True\n"
        if mode == "hang":
            process.send_signal(number)
        assert process.wait(10) == (0 if mode == "clean" else 128 + number)
