"""What the outbox does when it is killed, its file is damaged, lost or old, and the disk is full or read-only."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos_world import Lacking, SmallDisk
from edge_agent.errors import OutboxCorrupt
from edge_agent.outbox.verify import verify
from tests.mosquitto import wait_for
from tests.outbox_fixtures import UTC, make_event, make_metric, make_outbox, rows, running


def docs(found: list[Any]) -> list[dict[str, Any]]:
    return [json.loads(row.payload) for row in found]


def recreated(found: list[Any]) -> list[dict[str, Any]]:
    return [json.loads(row.payload) for row in found if row.topic == "events/_device/outbox_recreated"]


def crash_copy(path: Path, target: Path) -> Path:
    """The files as a power cut would leave them, taken while the writer is idle."""
    target.mkdir()
    for file in path.parent.glob(path.name + "*"):
        shutil.copy(file, target)
    return target / path.name


def test_episodes_left_open_are_ended_before_anything_new(tmp_path: Path) -> None:
    with running(tmp_path / "o.db") as outbox:
        outbox.put([make_event(0, "started", "a", duration_s=1.5), make_event(10, "updated", "a", people=3)])
        outbox.put(
            [make_event(0, "started", "b"), make_event(5, "ended", "b"), make_event(7, "started", "c", duration_s=2)]
        )
        outbox.put([make_event(8)])  # no episode
        assert outbox.flush(30)
        crashed = crash_copy(tmp_path / "o.db", tmp_path / "crash")
        before = outbox.stat().sequence
    outbox = make_outbox(crashed)
    outbox.put([make_event(99)])  # there before the writer is
    outbox.start()
    try:
        assert outbox.flush(30)
        new = [doc for doc in docs(rows(outbox)) if int(doc["sequence"]) > before]
    finally:
        outbox.stop(5)
    a, c, fresh = new
    assert [int(doc["sequence"]) for doc in new] == [before + 1, before + 2, before + 3]
    assert (a["subject"], a["type"]) == ("a", "edge_agent.synthetic.thing.ended")
    assert (a["source"], a["time"]) == ("/site/box/door", "2023-11-14T22:13:30.000Z")
    assert a["data"] == {"n": 10, "people": 3, "duration_s": 10.0, "ended": a["time"], "reason": "agent_restart"}
    assert (c["subject"], c["data"]) == (
        "c",
        {"n": 7, "duration_s": 2.0, "ended": c["time"], "reason": "agent_restart"},
    )
    assert fresh["data"]["n"] == 99
    with running(crashed) as outbox:  # once only
        assert outbox.stat().sequence == before + 3


@pytest.mark.slow
def test_killed_at_random_points_loses_nothing_accepted(tmp_path: Path) -> None:
    path, rng = tmp_path / "o.db", random.Random(7)
    accepted: set[str] = set()
    for _ in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-m", "tests.outbox_processes", "write", str(path)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
        assert writer.stdout is not None
        accepted.add(writer.stdout.readline().split()[1])
        time.sleep(rng.uniform(0.0, 0.15))  # the random point, not a wait for anything
        writer.send_signal(signal.SIGKILL)
        # The last line may be cut; a whole one was printed after its commit.
        accepted |= {line.split()[1] for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")}
        writer.stdout.close()
        writer.wait()
        # A sink that had some of them, out of order: each is either waiting for it or known to be delivered.
        assert verify(path).problems == []
    with running(path, sinks=("mqtt", "influxdb")) as outbox:
        found = docs(rows(outbox))
        assert len(rows(outbox, 0, "influxdb")) < len(found)
    assert verify(path).problems == []
    assert [int(doc["sequence"]) for doc in found] == list(range(1, len(found) + 1))
    assert accepted <= {doc["id"] for doc in found}
    assert len({doc["id"] for doc in found}) == len(found)
    phases: dict[str, list[str]] = {}
    for doc in found:
        phases.setdefault(doc["subject"], []).append(doc["type"].rpartition(".")[2])
    assert all(
        names[0] == "started" and names.count("ended") == 1 and names[-1] == "ended" for names in phases.values()
    )
    assert sum(doc["data"].get("reason") == "agent_restart" for doc in found) >= 8


def damage(path: Path, how: str) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        if how == "header":
            file.write(b"not a database at all")
        elif how == "middle":
            file.seek(size // 2 // 4096 * 4096)
            file.write(os.urandom(4096 * 3))
        else:
            file.truncate(size // 2)


@pytest.mark.parametrize("how", ["header", "middle", "truncated"])
def test_damaged_file_is_set_aside_and_the_rest_goes_on(tmp_path: Path, how: str) -> None:
    path = tmp_path / "o.db"
    with running(path) as outbox:
        for start in range(0, 3000, 500):
            outbox.put([make_event(n, text="x" * 100) for n in range(start, start + 500)])
            assert outbox.flush(10)
        outbox.put([make_event(1, "started", "open-one")])
        assert outbox.flush(10)
    damage(path, how)
    with running(path) as outbox:
        for _ in range(3):  # damage may show only when the page is read: a reader's finding is the writer's business
            with contextlib.suppress(OutboxCorrupt):
                rows(outbox)
            outbox.put([make_event(9000)])
            wait_for(lambda: outbox.stat().state == "ok")
            assert outbox.flush(10)
        (told,) = recreated(rows(outbox))
        assert (tmp_path / told["data"]["moved_to"]).exists()
        sequences = [int(doc["sequence"]) for doc in docs(rows(outbox))]
        old = [n for n in sequences if n <= 3001]
        new = [n for n in sequences if n > 3001]
        assert len(old) == told["data"]["recovered"] or how != "header"
        assert sequences == sorted(set(sequences))
        assert min(new) > 3001, "a number is never given twice"
        assert new == list(range(new[0], new[-1] + 1))
        if how == "middle":
            assert len(old) > 500, "what can be read is taken over"
        gone = {n for a, b in told["data"]["sequences"] for n in range(int(a), int(b) + 1)}
        assert set(range(1, new[0])) <= gone | set(old), "and what cannot is told"
        assert not gone & set(sequences)
    assert verify(path).problems == []


def test_lost_database_does_not_restart_the_sequence(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    with running(path) as outbox:
        outbox.put([make_event(n) for n in range(10)])
        assert outbox.flush(30)
    path.unlink()
    with running(path) as outbox:
        (told,) = recreated(rows(outbox))
        assert int(told["sequence"]) > 10
        assert told["data"]["before_sequence"] == told["sequence"]
        assert told["data"]["sequences"] == [["0000000000000001", f"{int(told['sequence']) - 1:016d}"]]
    assert verify(path).problems == []


def test_restart_before_the_first_event_is_no_loss(tmp_path: Path) -> None:
    for _ in range(3):
        with running(tmp_path / "o.db") as outbox:
            outbox.put([make_metric(0)])
            assert outbox.flush(30)
            assert rows(outbox) == []
            assert outbox.stat().sequence == 0


def test_old_copy_of_the_database_does_not_restart_the_sequence(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    with running(path) as outbox:
        outbox.put([make_event(0)])
        assert outbox.flush(30)
    shutil.copy(path, tmp_path / "copy")
    with running(path) as outbox:
        for start in range(0, 5000, 500):
            outbox.put([make_event(n) for n in range(500)])
            assert outbox.flush(10), start
        used = outbox.stat().sequence
    shutil.copy(tmp_path / "copy", path)
    with running(path) as outbox:
        (told,) = recreated(rows(outbox))
        assert int(told["sequence"]) > used
        assert told["data"]["sequences"] == [["0000000000000002", f"{int(told['sequence']) - 1:016d}"]]
    assert verify(path).problems == []


def test_unreadable_sequence_record_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    with running(path) as outbox:
        outbox.put([make_event(0)])
        assert outbox.flush(30)
    path.with_name("o.db.sequence").write_bytes(b"\xff\xff")
    with running(path) as outbox:
        outbox.put([make_event(1)])
        assert outbox.flush(30)
        assert [int(doc["sequence"]) for doc in docs(rows(outbox))] == [1, 2]
    assert int(path.with_name("o.db.sequence").read_text()) > 2


def test_folder_that_cannot_be_made_degrades_and_recovers(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    with running(tmp_path / "state" / "o.db") as outbox:
        assert outbox.stat().state == "degraded"
        outbox.put([make_event(0), make_metric(0)])
        assert not outbox.flush(0.05)
        assert outbox.recent(0.0, 10) == []
        (tmp_path / "state").unlink()
        assert outbox.flush(20)
        wait_for(lambda: outbox.stat().state == "ok")
        assert [doc["data"]["n"] for doc in docs(rows(outbox))] == [0]


@pytest.mark.slow
def test_stop_gives_up_at_its_deadline(tmp_path: Path) -> None:
    outbox = make_outbox(tmp_path / "o.db")
    outbox.start()
    with closing(sqlite3.connect(tmp_path / "o.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        outbox.put([make_event(0)])
        began = time.monotonic()
        outbox.stop(0.5)
        assert time.monotonic() - began < 4.0


@pytest.mark.slow
def test_full_and_read_only_disk(tmp_path: Path) -> None:
    user = [] if os.getuid() == 0 else ["-r"]
    command = ["unshare", *user, "-m", sys.executable, "-m", "tests.outbox_processes", "disk", str(tmp_path / "disk")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert "full" in said["full"]
    assert "open" in said["read-only at start"] or "readonly" in said["read-only at start"]
    assert (said["flush while full"], said["flush when freed"]) == (False, True)
    assert (said["flush while read-only"], said["flush when writable"]) == (False, True)
    assert said["numbers"] == list(range(1002))
    assert said["sequences"] == list(range(1, 1003))
    assert said["state"] == "ok"
    assert said["problems"] == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    try:
        disk = SmallDisk(tmp_path / "disk")
    except Lacking as error:
        pytest.skip(f"needs root and a loop device: {error}")
    try:
        yield disk
    finally:
        disk.close()


@pytest.mark.slow
def test_a_disk_that_becomes_read_only_delivers_what_it_holds(small_disk: SmallDisk) -> None:
    """As the kernel makes it after an error of the card."""
    path = small_disk.folder / "o.db"
    with running(path, max_mb=16) as outbox:
        outbox.put([make_event(n) for n in range(10)])
        assert outbox.flush(30)
        small_disk.fail()
        outbox.put([make_event(10)])
        wait_for(lambda: "readonly" in outbox.stat().reason)
        assert outbox.stat().state == "degraded"
        assert [doc["data"]["n"] for doc in docs(rows(outbox))] == list(range(10))
    small_disk.repair()
    with running(path, max_mb=16) as outbox:
        outbox.put([make_event(11)])
        assert outbox.flush(30)
        assert [doc["data"]["n"] for doc in docs(rows(outbox))] == [*range(10), 11]
        assert [int(doc["sequence"]) for doc in docs(rows(outbox))] == list(range(1, 12))
    assert verify(path).problems == []


def test_time_is_given_by_the_event_not_by_the_box(tmp_path: Path) -> None:
    with running(tmp_path / "o.db", wall=lambda: 0.0, clock_ok=False) as outbox:
        outbox.put([make_event(0, utc=UTC)])
        assert outbox.flush(30)
        (doc,) = docs(rows(outbox))
    assert doc["time"] == "2023-11-14T22:13:20.000Z"
