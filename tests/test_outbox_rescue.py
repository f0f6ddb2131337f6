"""Setting a damaged outbox aside while others read it, and on a disk that does not take the rescued rows at once."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import OutboxError
from edge_agent.outbox import Outbox, writer
from edge_agent.outbox.recover import move_aside
from edge_agent.outbox.store import Store
from tests.mosquitto import wait_for
from tests.outbox_fixtures import make_event, make_outbox, rows, running


def docs(outbox: Outbox) -> list[dict[str, Any]]:
    return [json.loads(row.payload) for row in rows(outbox)]


def damaged(path: Path) -> None:
    """A store of a thousand events with three pages of rubbish in its middle."""
    with running(path) as outbox:
        for start in (0, 500):
            outbox.put([make_event(n, text="x" * 100) for n in range(start, start + 500)])
            assert outbox.flush(10)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(b"\xa5" * (4096 * 3))


def read_all(outbox: Outbox) -> None:
    with contextlib.suppress(OutboxError):
        rows(outbox)


def test_a_reader_in_the_midst_of_it_neither_keeps_the_old_file_nor_condemns_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, moves = tmp_path / "o.db", list[Path]()
    damaged(path)
    outbox = make_outbox(path)

    def move_while_read(source: Path) -> Path:
        pump = threading.Thread(target=read_all, args=(outbox,), daemon=True)
        pump.start()
        pump.join(0.5)  # it finds the damage as well, or waits until the old file is out of the way
        moves.append(source)
        return move_aside(source)

    monkeypatch.setattr(writer, "move_aside", move_while_read)
    outbox.start()
    try:
        read_all(outbox)
        wait_for(lambda: bool(moves) and outbox.stat().state == "ok")
        outbox.put([make_event(2000)])
        assert outbox.flush(10)
        found = docs(outbox)
        assert found[-1]["data"].get("n") == 2000, "what is read is the new file"
        assert len([doc for doc in found if doc["type"].endswith("outbox_recreated")]) == 1
        assert len(moves) == 1
    finally:
        outbox.stop(5)


def test_rows_that_could_not_be_taken_over_at_once_are_taken_over_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tries = tmp_path / "o.db", list[int]()
    damaged(path)
    adopt = Store.adopt

    def full_at_first(self: Store, *args: Any) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise OutboxError("database or disk is full")
        adopt(self, *args)

    monkeypatch.setattr(Store, "adopt", full_at_first)
    with running(path) as outbox:
        read_all(outbox)
        wait_for(lambda: bool(tries))
        outbox.put([make_event(2000)])
        assert outbox.flush(10)
        found = docs(outbox)
        assert len([doc for doc in found if doc["data"].get("n", 2000) < 1000]) > 500
        (told,) = [doc for doc in found if doc["type"].endswith("outbox_recreated")]
        assert told["data"]["recovered"] > 500


@pytest.mark.parametrize(("key", "value"), [("number", "many"), ("losses", "{"), ("losses", '{"outbox_drops": 3}')])
def test_counters_that_are_rubbish_are_damage(tmp_path: Path, key: str, value: str) -> None:
    path = tmp_path / "o.db"
    with running(path) as outbox:
        outbox.put([make_event(0)])
        assert outbox.flush(30)
    with closing(sqlite3.connect(path)) as cx, cx:
        cx.execute("UPDATE meta SET value=? WHERE key=?", (value, key))
    with running(path) as outbox:
        outbox.put([make_event(1)])
        assert outbox.flush(10)
        found = docs(outbox)
        assert [doc["data"]["n"] for doc in found if "n" in doc["data"]] == [0, 1]
        assert [int(doc["sequence"]) for doc in found] == sorted({int(doc["sequence"]) for doc in found})
        assert [doc["type"] for doc in found].count("edge_agent.device.outbox_recreated") == 1


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_database_removed_while_in_use_is_begun_anew(tmp_path: Path, what: str) -> None:
    """Else all that comes is written to a file that nobody will ever find."""
    path = tmp_path / "state" / "o.db"
    with running(path) as outbox:
        outbox.put([make_event(0)])
        assert outbox.flush(30)
        if what == "folder":
            shutil.rmtree(path.parent)
        else:
            path.unlink()
        wait_for(lambda: path.exists() and outbox.stat().state == "ok")
        outbox.put([make_event(1)])
        assert outbox.flush(30)
    with running(path) as outbox:
        found = docs(outbox)
        assert [doc["data"].get("n") for doc in found] == [None, 1]
        assert found[0]["type"].endswith("outbox_recreated") and "removed" in found[0]["data"]["reason"]
        assert [int(doc["sequence"]) for doc in found] == [2, 3]
    assert path.with_name("o.db.sequence").exists()
    assert not path.with_name("o.db.corrupt").exists() or what == "file"
