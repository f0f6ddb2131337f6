"""The control socket: who may use it, what it bears, and the verb that asks a real agent at it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from edge_agent.commands.control_socket import MAX_CLIENTS, NAME, ControlSocket, ask
from edge_agent.commands.desk import Asked
from edge_agent.commands.envelope import MAX_REQUEST
from tests.agent_process import RunningAgent, result_of, run_agent, write_config
from tests.mosquitto import wait_for


class Echo:
    """In place of a desk: answers what it was asked, at once."""

    def ask(self, asked: Asked) -> None:
        assert not isinstance(asked.to, tuple) and callable(asked.to)
        asked.to(json.dumps({"ok": True, "length": len(asked.payload)}).encode())


@contextmanager
def listening(folder: Path) -> Iterator[ControlSocket]:
    made = ControlSocket(folder, Echo())  # type: ignore[arg-type]
    made.start()
    try:
        yield made
    finally:
        made.stop()


@contextmanager
def connected(folder: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(folder / NAME))
        yield sock


def test_it_answers_line_by_line_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / NAME).touch()  # left over
    with listening(tmp_path):
        assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
        assert ask(tmp_path, {"command": "ping"}, 10)["length"] == len('{"command": "ping"}')
        with connected(tmp_path) as sock, sock.makefile("rb") as lines:
            sock.sendall(b"a\nbcd\n")
            assert [json.loads(lines.readline())["length"] for _ in range(2)] == [1, 3]
    assert not (tmp_path / NAME).exists()


def test_a_line_without_an_end_is_cut_off(tmp_path: Path) -> None:
    with listening(tmp_path), connected(tmp_path) as sock, sock.makefile("rb") as lines:
        threading.Thread(target=lambda: send_all(sock, b"x" * 10 * MAX_REQUEST), daemon=True).start()
        assert json.loads(lines.readline())["length"] == MAX_REQUEST + 2  # which the desk refuses
        assert closed(lines)


def send_all(sock: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        sock.sendall(data)


def closed(lines: Any) -> bool:
    try:
        return bool(lines.readline() == b"")
    except ConnectionResetError:
        return True


def test_more_clients_than_there_is_room_for_are_turned_away_and_the_rest_served(tmp_path: Path) -> None:
    with listening(tmp_path):
        clients = [socket.socket(socket.AF_UNIX) for _ in range(MAX_CLIENTS + 2)]
        try:
            for client in clients:
                client.settimeout(10)
                client.connect(str(tmp_path / NAME))
            assert clients[-1].recv(10) == b""
            clients[0].sendall(b"a\n")
            assert clients[0].recv(100).startswith(b"{")
        finally:
            for client in clients:
                client.close()
        wait_for(lambda: answers(tmp_path), what="room again")


def answers(folder: Path) -> bool:
    try:
        return bool(ask(folder, {}, 5)["ok"])
    except OSError:
        return False


def test_a_runtime_folder_gets_the_socket_and_the_state_folder_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("state", "run"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    with listening(tmp_path / "state"):
        assert (tmp_path / "run" / NAME).is_socket() and (tmp_path / "state" / NAME).is_symlink()
        assert ask(tmp_path / "state", {}, 10)["ok"]
    assert not any((tmp_path / name / NAME).exists() for name in ("state", "run"))


def test_a_path_that_is_too_long_costs_the_socket_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    with listening(deep):
        assert "longer than 107 bytes" in caplog.text


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_another_user_is_refused_by_the_mode_and_by_the_kernel_word(caplog: pytest.LogCaptureFixture) -> None:
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
    client = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(999).decode())"
    command = ["/usr/bin/python3", "-c", client, str(folder / NAME)]

    def as_nobody() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, user=65534, capture_output=True, text=True, check=False, timeout=30)

    try:
        folder.chmod(0o755)
        with listening(folder):
            assert "PermissionError" in as_nobody().stderr
            (folder / NAME).chmod(0o666)
            assert json.loads(as_nobody().stdout)["error"]["code"] == "not_allowed"
            assert "user 65534 is refused" in caplog.text
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
def test_the_command_line_asks_a_running_agent(root: Path, vtest_video: Path, tmp_path: Path) -> None:
    config = write_config(root, tmp_path)
    assert run_agent("command", "ping", "-c", config, "--args", "{").returncode == 2
    nobody = run_agent("command", "ping", "-c", config)
    assert nobody.returncode == 1 and "no agent is running there" in nobody.stderr
    with RunningAgent(tmp_path, "-c", config, "--no-mqtt", "--realtime") as agent:
        agent.wait_for_log("delivering")
        before = result_of(run_agent("command", "ping", "-c", config, "--json"))["result"]["boot_id"]
        # Everything is allowed here, and the outcome is heard from the agent that comes back.
        back = result_of(run_agent("command", "restart", "-c", config, "--json", "--id", "r1"))
        assert back["result"]["boot_id"] != before
        assert result_of(run_agent("command", "restart", "-c", config, "--json", "--id", "r1")) == back
        level = run_agent("command", "log.level", "-c", config, "--args", '{"level": "debug"}')
        assert json.loads(level.stdout) == {"level": "debug"}
        wrong = run_agent("command", "log.level", "-c", config, "--args", '{"level": "loud"}')
        assert wrong.returncode == 1 and "log.level: invalid_args: args.level" in wrong.stderr
        assert agent.end() == 0
    assert not (tmp_path / "state" / NAME).exists()
