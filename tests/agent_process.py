"""The agent as its user runs it: the installed command, a process of its own, a state folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from edge_agent.config import Config
from tests import contract
from tests.mosquitto import wait_for

COMMAND = [sys.executable, "-m", "edge_agent.cli"]


def write_config(root: Path, folder: Path, **change: Any) -> Path:
    """The repository's configuration with its own state folder and a free HTTP port; ``change`` replaces whole sections."""
    config = yaml.safe_load((root / "config.yaml").read_text(encoding="utf-8"))
    assert Config.model_validate(config)
    contract.OUTBOXES.append(folder / "state" / "outbox.db")
    config |= {"state_dir": str(folder / "state"), "models_dir": str(root / "models"), "http": {"port": 0}}
    config["cameras"][0]["source"] = str(root / ".cache" / "vtest.avi")
    config |= {"device": "box1", "site": "lab", "model": "auto"} | change
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def run_agent(*arguments: str | Path, timeout_s: float = 100.0) -> subprocess.CompletedProcess[str]:
    """One verb to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=timeout_s, check=False, env=_clean()
    )


def result_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What ``--json`` printed."""
    assert done.returncode == 0, done.stderr[-3000:]
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def _clean() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("EDGE_AGENT_")}


class RunningAgent:
    """``edge-agent run`` in the background; its log grows in ``log``. ``program``: in place of the installed command."""

    def __init__(self, folder: Path, *arguments: str | Path, program: Sequence[str] = COMMAND) -> None:
        self.log_path = folder / "agent.log"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*program, "run", *map(str, arguments)], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=_clean()
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_for_log(self, text: str, timeout_s: float = 40.0) -> None:
        """Until ``text`` is in the log, while the process lives."""

        def there() -> bool:
            if text in self.log:
                return True
            assert self.process.poll() is None, self.log[-3000:]
            return False

        wait_for(there, timeout_s, f"{text!r} in the log")

    def end(self, how: signal.Signals = signal.SIGTERM, timeout_s: float = 15.0) -> int:
        """Send a signal and wait; the exit code."""
        self.process.send_signal(how)
        return self.process.wait(timeout_s)

    def __enter__(self) -> RunningAgent:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
