"""``python release_service.py HOME STATE``: end the agent that runs, start ``HOME/current`` in the background. ``stop``: only end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main(home: Path, state: Path, *, start: bool) -> None:
    pid_file = state / "agent.pid"
    if pid_file.exists():
        pid = int(pid_file.read_text())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            until = time.monotonic() + 30
            while _alive(pid) and time.monotonic() < until:
                time.sleep(0.01)
        (state / "control.sock").unlink(missing_ok=True)
    if start:
        # Its own session and no pipe of ours: it lives on, whatever becomes of who restarted it.
        with (state / "agent.log").open("ab") as log:
            agent = subprocess.Popen(
                [str(home / "current" / "bin" / "edge-agent"), "run", str(state)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        pid_file.write_text(str(agent.pid))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), start=sys.argv[3:] != ["stop"])
