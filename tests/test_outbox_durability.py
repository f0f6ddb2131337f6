"""On disk before on the wire: a power cut at the moment an event is sent must not lose it, whatever was not synced."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from edge_agent.outbox.schema import files
from edge_agent.outbox.verify import verify
from tests.mosquitto import broker
from tests.outbox_fixtures import running
from tests.syscalls import Disk, calls, traced

pytestmark = pytest.mark.slow


def can_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_trace(), reason="strace is not here or may not trace (apt install strace)")
def test_a_power_cut_at_the_moment_of_sending_loses_no_event_that_was_sent(tmp_path: Path) -> None:
    path, log = tmp_path / "state" / "o.db", tmp_path / "strace.log"
    path.parent.mkdir()
    with broker(tmp_path) as mosquitto:
        command = [sys.executable, "-m", "tests.outbox_processes", "send", str(path), str(mosquitto.port)]
        done = traced(command, log, 170)
    assert done.returncode == 0, done.stderr
    unsent = done.stdout.split()
    assert len(unsent) == 30
    disk, cuts = Disk(), 0
    for call in calls(log):
        if call.name.startswith("send"):
            sent = [ident for ident in unsent if ident.encode() in call.data]
            if sent:
                cuts += 1
                left = tmp_path / f"cut-{cuts}"
                disk.leave(left, *files(path)[:2])
                with closing(sqlite3.connect(left / path.name)) as cx:  # recovers from the log, as after a power cut
                    stored = b"".join(payload for (payload,) in cx.execute("SELECT payload FROM message"))
                assert all(ident.encode() in stored for ident in sent), f"sent before it was synced: {sent}"
                unsent = [ident for ident in unsent if ident not in sent]
        disk.take(call)
    assert unsent == [] and cuts >= 10
    # And the agent goes on with what the last cut left: nothing is said to be missing.
    with running(tmp_path / f"cut-{cuts}" / path.name) as outbox:
        assert outbox.stat().state == "ok"
    problems = verify(tmp_path / f"cut-{cuts}" / path.name).problems
    assert [problem for problem in problems if "sequence numbers" in problem] == []


def test_the_disk_of_the_test_forgets_what_was_not_synced(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        '7 pwrite64(3</f>, "\\x61\\x62", 2, 0) = 2\n'
        "7 fdatasync(3</f> <unfinished ...>\n"
        '8 pwrite64(4</g>, "\\x63", 1, 1) = 1\n'
        "7 <... fdatasync resumed>) = 0\n"
        '7 pwrite64(3</f>, "\\x7a", 1, 0) = 1\n'
        "8 fdatasync(4</g>) = -1 EIO (Input/output error)\n"
        '8 sendto(5<socket:[9]>, "\\x68\\x69", 2, 0, NULL, 0) = 2\n'
    )
    disk = Disk()
    found = list(calls(log))
    for call in found:
        disk.take(call)
    assert disk.synced == {"/f": b"ab"}
    assert disk.written == {"/f": b"zb", "/g": b"\0c"}
    assert found[-1].data == b"hi"
