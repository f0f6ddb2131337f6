"""``edge-agent update`` as root runs it: real archives, environments and processes, from a real repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge_agent.commands.control_socket import ask
from edge_agent.ota.release import CURRENT, UPDATER, Home
from tests import power_cut
from tests.agent_process import COMMAND, run_agent, write_config
from tests.agent_releases import SERVICE, pip_wheel, restart_command, swap_wheel, write_release
from tests.file_server import serve
from tests.mosquitto import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
ROOT = Path(__file__).parent.parent


@dataclass
class Box:
    """A box on which 1.0 is installed and running."""

    folder: Path
    config: Path

    @property
    def home(self) -> Home:
        return Home(self.folder / "opt")

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def words(self, *more: str) -> list[str]:
        restart = restart_command(self.home.folder, self.state)
        usual = ["--home", str(self.home.folder), "--restart", restart, "--hold", "1", "--deadline", "20"]
        return ["update", "-c", str(self.config), *usual, "--json", *more]

    def update(self, *more: str) -> tuple[int, dict[str, Any]]:
        done = run_agent(*self.words(*more), timeout_s=300)
        return done.returncode, json.loads(done.stdout)

    def running(self) -> str:
        """What the agent that answers says it is."""
        try:
            return str(ask(self.state, {"command": "ping", "args": {}}, 10.0)["result"]["version"])
        except OSError:
            return "none"

    def service(self, *more: str) -> None:
        subprocess.run([sys.executable, SERVICE, self.home.folder, self.state, *more], check=True, timeout=60)

    def is_whole(self, version: str) -> None:
        """Everything says that it is this one, and it runs."""
        assert (self.running(), self.home.linked(CURRENT), self.home.linked(UPDATER)) == (version,) * 3
        agent = self.home.folder / "current" / "bin" / "edge-agent"
        assert subprocess.check_output([agent, "--version"], text=True, timeout=60) == f"edge-agent {version}\n"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    (tmp_path / "state").mkdir()
    made = Box(tmp_path, write_config(ROOT, tmp_path))
    write_release(tmp_path, "1.0", pip=pip_wheel())
    # As a bare box does it: its own Python, and nothing but what is in the package.
    first = [sys.executable, "-S", "-m", "edge_agent.ota.release", str(tmp_path / "1.0.tar"), str(made.home.folder)]
    subprocess.run(first, check=True, timeout=300, cwd="/", env={**os.environ, "PYTHONPATH": str(ROOT)})
    made.service()
    wait_for(lambda: made.running() == "1.0", 30, "the first agent")
    yield made
    made.service("stop")


def test_from_a_repository_there_and_back(box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text("correct horse battery staple\n")

    def repo(*words: str) -> None:
        done = run_agent("repo", *words, "--passphrase-file", "secret")
        assert done.returncode == 0, done.stderr

    repo("init", "r")
    repo("add-key", "r", "--role", "agent")
    write_release(tmp_path, "2.0", pip=pip_wheel())
    write_release(tmp_path, "3.0", pip=pip_wheel(), readiness="failing")
    repo("publish", "r", "2.0.tar", "--channel", "stable")
    with serve({}, folder=tmp_path / "r" / "public") as server:
        root = tmp_path / "r" / "public" / "metadata" / "1.root.json"
        write_config(ROOT, tmp_path, ota={"repository": server.url, "root_file": str(root), "clock": "battery"})
        code, told = box.update()
        assert code == 0 and told["job"]["state"] == "confirmed" and told["current"] == "2.0", told
        box.is_whole("2.0")
        assert box.update()[1]["job"]["state"] == "confirmed"  # there is nothing to do
        repo("publish", "r", "3.0.tar", "--channel", "stable")
        code, told = box.update()
        assert code == 1 and "rolled back (unhealthy): after 20 s its readiness is failing, it was ok" in str(told)
        box.is_whole("2.0")
        code, told = box.update()
        assert (code, told["error"]) == (1, "Rejected")
    code, told = box.update("--rollback")
    assert code == 0 and told["previous"] is None
    box.is_whole("1.0")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"more": {"inner": "import this_is_not_there"}}, "No module named 'this_is_not_there'"),
        ({"says": "2.0.1"}, "says that it is 'edge-agent 2.0.1'"),
        ({"dies": True}, "after 20 s the agent does not answer"),
        ({"swapped": True}, "Expected sha256"),
    ],
)
def test_a_bad_release_is_not_kept(box: Box, change: dict[str, Any], text: str) -> None:
    swapped = change.pop("swapped", False)
    write_release(box.folder, "2.0", pip=pip_wheel(), **change)
    if swapped:
        swap_wheel(box.folder / "2.0.tar", "2.0")
    code, told = box.update("--from", str(box.folder / "2.0.tar"))
    assert code == 1 and text in "\n".join(map(str, told["problems"]))
    box.is_whole("1.0")
    assert [path.name for path in box.home.releases.iterdir()] == ["1.0"]


POINTS = (11, 19, 20)
"""Renames of the updater: a release is built and not yet marked as whole; the state is switched and the link is not; both are,
the new agent runs, and it is not yet written down that it is good. The first run has one more, by which it adopts what is there."""


@pytest.mark.fleet
def test_kill_9_leaves_a_release_that_runs_and_the_update_goes_on(box: Box) -> None:
    seen = set()
    for number, which in enumerate(POINTS):
        before, version = box.running(), f"{number + 2}.0"
        archive = write_release(box.folder, version, pip=pip_wheel()).path
        command = [*COMMAND, *box.words("--from", str(archive))]
        assert power_cut.killed_at("rename", which, command, 300), f"it had ended before {which}"
        current = box.home.linked(CURRENT)
        assert current in {before, version} and box.home.linked(UPDATER) == before
        seen.add((current == version, box.running() == version))
        code, told = box.update("--resume")
        assert code == 0, told
        code, told = box.update("--from", str(archive))
        assert code == 0, told
        box.is_whole(version)
        assert {path.name for path in box.home.releases.iterdir()} == {before, version}
    assert seen == {(False, False), (True, True)}
