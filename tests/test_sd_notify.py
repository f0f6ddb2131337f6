from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.health.sd_notify import Notifier


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A service manager's end of the socket, by path and in the abstract namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = str(tmp_path / "notify") if request.param == "path" else f"@edge-agent-test-{os.getpid()}"
        sock.bind(name.replace("@", "\0", 1))
        sock.settimeout(5)
        for variable in ("WATCHDOG_USEC", "WATCHDOG_PID"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield sock


def received(manager: socket.socket) -> list[str]:
    """All that has come (a datagram socket holds what was sent before it is read)."""
    manager.setblocking(False)
    found = []
    try:
        while True:
            found.append(manager.recv(4096).decode())
    except BlockingIOError:
        return found


def test_ready_status_and_stopping(manager: socket.socket) -> None:
    notifier = Notifier()
    assert notifier.enabled
    notifier.ready("1 camera")
    notifier.status("ok")
    notifier.status("ok")  # unchanged: not sent again
    notifier.status("two\nlines")
    notifier.stopping()
    assert received(manager) == ["READY=1\nSTATUS=1 camera", "STATUS=ok", "STATUS=two lines", "STOPPING=1"]


def test_watchdog_at_half_the_interval_and_only_while_healthy(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    clock = Clock()
    notifier = Notifier(clock)
    assert notifier.watchdog_interval_s == 5.0
    sent = []
    for now, healthy in [(100.0, True), (104.9, True), (105.0, True), (110.0, False), (111.0, True)]:
        clock.now = now
        sent.append(notifier.watchdog(healthy))
    assert sent == [True, False, True, False, True]
    assert received(manager) == ["WATCHDOG=1"] * 3


def test_a_restart_in_place_stretches_the_watchdog_until_it_is_ready(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    Notifier().restarting("starting again")
    Notifier().ready()
    leaving, ready = received(manager)
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+\nWATCHDOG_USEC=120000000\nSTATUS=starting again", leaving)
    assert ready == "READY=1\nWATCHDOG_USEC=10000000"


@pytest.mark.parametrize(
    ("usec", "pid"), [(None, None), ("10000000", "1"), ("", None), ("soon", None), ("0", None), ("-5", None)]
)
def test_no_watchdog_unless_asked(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: str | None
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        if value is not None:
            monkeypatch.setenv(name, value)
    notifier = Notifier()
    assert notifier.watchdog_interval_s is None
    assert not notifier.watchdog(True)
    assert received(manager) == []


@pytest.mark.parametrize("name", [None, "", "relative/path"])
def test_silent_without_a_manager(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if name is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", name)
    notifier = Notifier()
    assert not notifier.enabled
    notifier.ready()
    notifier.status("ok")
    assert not notifier.watchdog(True)


def test_a_manager_that_went_away_is_logged_not_raised(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    Notifier().ready()
    assert "cannot reach the service manager" in caplog.text
