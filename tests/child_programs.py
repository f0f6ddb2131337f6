"""What a child process may do to its parent, for real: ``python -m tests.child_programs``."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from edge_agent.detect.child import Say, serve
from edge_agent.errors import ModelError


def _perform(request: dict[str, Any], say: Say) -> dict[str, Any]:
    act = request["act"]
    say("preparing", 0.0)
    if act == "answer":
        print("noise of a library on stdout")
        os.write(1, b"and of its C part\n")
        say("halfway there", 0.5)
        oom = Path("/proc/self/oom_score_adj").read_text().strip()
        return {"got": request, "oom": oom, "nice": os.nice(0)}
    if act == "segfault":
        say("calling the vendor")
        sys.stderr.write("vendor: assertion failed\n")
        sys.stderr.flush()
        ctypes.string_at(0)
    if act == "refuse":
        raise ModelError("no good")
    if act == "bug":
        raise KeyError("surprise")
    if act == "exit":
        os._exit(7)
    if act == "memory":
        return {"size": len(bytearray(3 << 30))}
    if act == "hang":
        grandchild = subprocess.Popen(["/bin/sleep", "60"])
        sys.stderr.write(f"grandchild {grandchild.pid}\n")
        sys.stderr.flush()
        say(f"sleeping beside {grandchild.pid}")
        time.sleep(60)
    if act == "leave a grandchild":
        subprocess.Popen(["/bin/sleep", "60"])
        os._exit(3)
    if act == "shout":
        while True:
            os.write(2, b"x" * 65536)
            say("shouting")
    if act == "endless line":
        while True:
            say("x" * (1 << 20) * 5)
    if act == "nonsense":
        os.write(request_channel(), b"{not json\n")
        time.sleep(60)
    if act == "number":
        os.write(request_channel(), b"17\n")
        time.sleep(60)
    if act == "crash at exit":
        threading.Timer(0.05, lambda: ctypes.string_at(0)).start()
        return {"fine": True}
    raise AssertionError(act)


def request_channel() -> int:
    """The parent's end is the highest pipe that is not a standard stream."""
    return max(int(entry.name) for entry in Path("/proc/self/fd").iterdir() if _is_pipe(entry))


def _is_pipe(entry: Path) -> bool:
    try:
        return int(entry.name) > 2 and str(entry.readlink()).startswith("pipe:")
    except OSError:
        return False


if __name__ == "__main__":
    serve(_perform)
