"""``edge-agent outbox``: on an outbox that nobody has open, beside a running one, on a damaged one, on one of an older version."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge_agent.cli import main
from edge_agent.outbox.inspection import export_dead, export_waiting, stat
from edge_agent.outbox.verify import verify
from edge_agent.state_dir import state_lock
from tests.mosquitto import wait_for
from tests.outbox_fixtures import make_event, make_metric, rows, running

BOTH = ("mqtt", "influxdb")

# As edge-agent 0.1 made and filled it when it knew one sink only.
SCHEMA_1 = """
PRAGMA auto_vacuum=INCREMENTAL;
PRAGMA journal_mode=WAL;
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE message (row INTEGER PRIMARY KEY, sequence INTEGER, born REAL NOT NULL, topic TEXT NOT NULL, payload BLOB NOT NULL);
CREATE TABLE episode (episode TEXT PRIMARY KEY, camera TEXT NOT NULL, use_case TEXT NOT NULL, what TEXT NOT NULL,
  started REAL NOT NULL, updated REAL NOT NULL, data TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE dead_letter (row INTEGER PRIMARY KEY, sequence INTEGER, refused TEXT NOT NULL, code INTEGER NOT NULL,
  reason TEXT NOT NULL, topic TEXT NOT NULL, payload BLOB NOT NULL);
PRAGMA user_version=1;
"""


def schema_1(path: Path) -> None:
    """Seven events given, two delivered, one refused and not told yet, four waiting, and a metric; an open episode."""
    losses = {
        "dead_letter": {
            "events": 1,
            "metrics": 0,
            "telemetry": 0,
            "reasons": {"Not authorized": 1},
            "sequences": [["0000000000000003", "0000000000000003"]],
        }
    }
    meta = {"number": 8, "sequence": 7, "age": 100.0, "wall": None, "losses": json.dumps(losses)}
    meta |= {"depth.events": 4, "depth.metrics": 1, "depth.telemetry": 0}
    with closing(sqlite3.connect(path)) as cx, cx:
        cx.executescript(SCHEMA_1)
        cx.executemany("INSERT INTO meta VALUES (?,?)", meta.items())
        for n in range(4, 8):
            payload = json.dumps(
                {"data": {"n": n}, "sequence": f"{n:016d}", "time": "2023-11-14T22:13:20.000Z"}
            ).encode()
            cx.execute("INSERT INTO message VALUES (?,?,?,?,?)", (n, n, 50.0, "events/door/synthetic", payload))
        metric = ((1 << 56) + 8, None, 60.0, "metrics/door/synthetic", b'{"data":{"people":1}}')
        cx.execute("INSERT INTO message VALUES (?,?,?,?,?)", metric)
        letter = (
            3,
            3,
            "2023-11-14T22:13:20.000Z",
            135,
            "Not authorized",
            "events/door/x",
            b'{"sequence":"0000000000000003"}',
        )
        cx.execute("INSERT INTO dead_letter VALUES (?,?,?,?,?,?,?)", letter)
        cx.execute("INSERT INTO episode VALUES ('ep','door','synthetic','thing',1.0,2.0,'{}')")
    path.with_name(path.name + ".sequence").write_text("1004")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["outbox", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def fill(folder: Path, **options: Any) -> None:
    """Ten events and a metric; mqtt had the first four and refused the fifth."""
    with running(folder / "outbox.db", **{"sinks": BOTH, "report_every_s": 0.0, **options}) as outbox:
        outbox.put([make_event(n) for n in range(10)] + [make_metric(0)])
        assert outbox.flush(10)
        mqtt = outbox.outlet("mqtt")
        found = rows(outbox)
        mqtt.acknowledge([row.row for row in found[:4]])
        mqtt.refuse(found[4].row, 135, "Not authorized")
        wait_for(lambda: outbox.stat().sinks["mqtt"].depth["events"] == 6)  # five, and the report of the refusal


def test_stat_tells_what_waits_for_whom_and_what_was_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path)
    code, said, _ = run(capsys, "stat", "--state-dir", str(tmp_path), "--json")
    found = json.loads(said)
    assert code == 0 and found["ok"] and found["agent"] is False
    assert found["sinks"]["mqtt"]["depth"] == {"events": 6, "metrics": 1, "telemetry": 0}
    assert found["sinks"]["influxdb"]["depth"] == {"events": 11, "metrics": 1, "telemetry": 0}
    assert found["sinks"]["mqtt"]["bytes"] < found["sinks"]["influxdb"]["bytes"]
    assert 0 <= found["sinks"]["mqtt"]["oldest_age_s"] < 600
    (dead,) = found["dead"]
    assert (dead["sink"], dead["reason"], dead["count"], dead["first_sequence"]) == ("mqtt", "Not authorized", 1, 5)
    code, said, _ = run(capsys, "stat", "--state-dir", str(tmp_path))
    assert code == 0
    for words in ("mqtt", "influxdb", "Not authorized (135)", "no agent is running", "sequence 11"):
        assert words in " ".join(said.split())  # a long path breaks the title


def test_export_gives_every_message_that_waits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path)
    code, said, _ = run(capsys, "export", "--state-dir", str(tmp_path))
    lines = [json.loads(line) for line in said.splitlines()]
    assert code == 0
    assert [line["payload"]["data"].get("n") for line in lines if line["priority"] == "events"] == [*range(10), None]
    assert [line["sinks"] for line in lines[:6]] == [["influxdb"]] * 5 + [["influxdb", "mqtt"]]
    assert lines[5]["sequence"] == lines[5]["payload"]["sequence"] == "0000000000000006"
    assert (lines[-1]["priority"], lines[-1]["sequence"], lines[-1]["topic"][:8]) == ("metrics", None, "metrics/")
    _, said, _ = run(capsys, "export", "--state-dir", str(tmp_path), "--sink", "mqtt")
    assert len(said.splitlines()) == 7
    _, said, _ = run(capsys, "export", "--state-dir", str(tmp_path), "--dead")
    (letter,) = map(json.loads, said.splitlines())
    assert (letter["state"], letter["sink"], letter["code"], letter["payload"]["data"]["n"]) == ("dead", "mqtt", 135, 4)
    code, _, error = run(capsys, "export", "--state-dir", str(tmp_path), "--sink", "nobody")
    assert code == 1 and "there is influxdb, mqtt" in error


def test_verify_explains_every_number_and_finds_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path)
    code, said, _ = run(capsys, "verify", "--state-dir", str(tmp_path), "--json")
    found = json.loads(said)
    assert (code, found["ok"], found["sequence"]) == (0, True, 11)
    mqtt = found["sinks"]["mqtt"]
    assert mqtt["delivered"] == [["0000000000000001", "0000000000000004"]]
    assert mqtt["lost"] == [["0000000000000005", "0000000000000005"]]
    assert mqtt["waiting"] == [["0000000000000006", "0000000000000011"]]
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as cx, cx:
        cx.execute("DELETE FROM message WHERE sequence=8")
    code, said, _ = run(capsys, "verify", "--state-dir", str(tmp_path))
    assert code == 1
    assert "mqtt: the sequence numbers 8 to 8 are nowhere" in said
    assert "10 events are stored, counted were 11" in said
    assert "1 unexplained" in said


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE message SET payload=x'ff' WHERE sequence=7", "its content is no JSON"),
        ("UPDATE message SET sequence=99 WHERE sequence=7", "sequence number 99, given were 11"),
        ("INSERT INTO beyond VALUES ('mqtt', 12345)", "notes of sinks belong to no row"),
        ("UPDATE meta SET value='?' WHERE key='number'", "the counters cannot be read"),
        ("UPDATE mark SET low=0 WHERE sink='mqtt'", "wait, and were delivered already"),
    ],
)
def test_verify_finds_rows_and_books_that_do_not_agree(tmp_path: Path, statement: str, complaint: str) -> None:
    fill(tmp_path)
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as cx, cx:
        cx.execute(statement)
    assert any(complaint in problem for problem in verify(tmp_path / "outbox.db").problems)


def test_verify_finds_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path / "outbox.db") as outbox:
        outbox.put([make_event(n, text="x" * 500) for n in range(500)])
        assert outbox.flush(20)
    with (tmp_path / "outbox.db").open("r+b") as file:
        file.seek(40 * 4096)
        file.write(random.Random(1).randbytes(8 * 4096))
    code, said, _ = run(capsys, "verify", "--state-dir", str(tmp_path))
    assert code == 1 and "damaged" in said
    (tmp_path / "outbox.db").write_bytes(b"no database" * 1000)
    code, _, error = run(capsys, "verify", "--state-dir", str(tmp_path))
    assert code == 1 and "not a database" in error


def test_a_purge_is_announced_by_the_next_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path)
    code, said, _ = run(capsys, "purge", "--state-dir", str(tmp_path), "--sink", "mqtt", "--yes")
    assert (code, said) == (0, "7 deleted; the next start of the agent announces it\n")
    assert verify(tmp_path / "outbox.db").problems == []
    assert "purged" in json.dumps(stat(tmp_path / "outbox.db")["not_told"])
    assert len(list(export_waiting(tmp_path / "outbox.db", "influxdb"))) == 12, "the other one keeps its own"
    with running(tmp_path / "outbox.db", sinks=BOTH) as outbox:
        wait_for(lambda: any("outbox_drops" in row.topic for row in rows(outbox)))
        told = [json.loads(row.payload) for row in rows(outbox) if "outbox_drops" in row.topic]
        assert told[0]["data"]["reasons"] == {"purged": 7}
        # The report of the refusal went with it, so that is announced once more as well.
        assert told[0]["data"]["sequences"] == [["0000000000000006", "0000000000000011"]]
        wait_for(lambda: any("dead_letter" in row.topic for row in rows(outbox)))
    assert verify(tmp_path / "outbox.db").problems == []


def test_purge_of_one_kind_and_of_the_dead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path)
    folder = ("--state-dir", str(tmp_path), "--yes", "--json")
    code, said, _ = run(capsys, "purge", *folder, "--only", "metrics")
    assert (code, json.loads(said)) == (0, {"ok": True, "purged": 2})  # of two sinks
    assert stat(tmp_path / "outbox.db")["depth"] == {"events": 11, "metrics": 0, "telemetry": 0}
    code, said, _ = run(capsys, "purge", *folder, "--dead")
    assert json.loads(said)["purged"] == 1
    assert list(export_dead(tmp_path / "outbox.db")) == []
    code, _, _ = run(capsys, "purge", *folder, "--dead", "--only", "events")
    assert code == 2


def test_purge_gives_space_back(tmp_path: Path) -> None:
    with running(tmp_path / "outbox.db") as outbox:
        for start in range(0, 6000, 500):
            outbox.put([make_event(n, text="x" * 500) for n in range(start, start + 500)])
            assert outbox.flush(20)
    before = (tmp_path / "outbox.db").stat().st_size
    assert main(["outbox", "purge", "--state-dir", str(tmp_path), "--yes"]) == 0
    assert before > 4e6 and (tmp_path / "outbox.db").stat().st_size < 2e6


def test_retry_sends_what_was_refused_to_the_sink_that_refused_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path)
    code, said, _ = run(capsys, "retry", "--state-dir", str(tmp_path))
    assert (code, said) == (0, "1 will be sent again\n")
    assert verify(tmp_path / "outbox.db").problems == []
    with running(tmp_path / "outbox.db", sinks=BOTH) as outbox:
        again = [json.loads(row.payload)["data"].get("n") for row in rows(outbox)]
        assert again == [5, 6, 7, 8, 9, None, 4]
        assert len(rows(outbox, 0, "influxdb")) == 11
        outbox.outlet("mqtt").acknowledge([row.row for row in rows(outbox)])
        wait_for(lambda: outbox.stat().sinks["mqtt"].depth["events"] == 0)
    assert verify(tmp_path / "outbox.db").problems == []


def test_writing_verbs_refuse_while_an_agent_has_the_folder_and_reading_ones_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with state_lock(tmp_path), running(tmp_path / "outbox.db") as outbox:
        outbox.put([make_event(0)])
        assert outbox.flush(10)
        for verb in (["purge", "--yes"], ["purge", "--dead", "--yes"], ["retry"]):
            code, _, error = run(capsys, *verb, "--state-dir", str(tmp_path))
            assert code == 2 and "in use by another agent; stop it" in error
        code, said, _ = run(capsys, "stat", "--state-dir", str(tmp_path), "--json")
        assert json.loads(said)["agent"] is True
        for n in range(1, 30):  # between a reader's and the next writer's transaction
            outbox.put([make_event(n)])
            assert run(capsys, "verify", "--state-dir", str(tmp_path))[0] == 0
            assert outbox.flush(10)
        assert len(list(export_waiting(tmp_path / "outbox.db"))) == 30
        assert outbox.stat().state == "ok"


def test_what_a_user_gets_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("stat", "export", "verify"):
        code, _, error = run(capsys, verb, "--state-dir", str(tmp_path / "none"))
        assert code == 1 and "there is no outbox" in error
    for words in (["purge", "--yes"], ["retry"]):
        code, _, error = run(capsys, *words, "--state-dir", str(tmp_path / "none"))
        assert code == 2 and "there is no outbox" in error
        assert not (tmp_path / "none").exists()
    fill(tmp_path)
    command = [sys.executable, "-m", "edge_agent.cli", "outbox", "purge", "--state-dir", str(tmp_path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (2, "edge-agent: nobody can be asked here; give --yes\n")


def test_an_outbox_of_schema_1_is_upgraded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "outbox.db"
    schema_1(path)
    code, _, error = run(capsys, "stat", "--state-dir", str(tmp_path))
    assert code == 1 and "an older version: start the agent once" in error
    with running(path, sinks=BOTH, report_every_s=0.0) as outbox:
        wait_for(lambda: any("dead_letter" in row.topic for row in rows(outbox)))
        for sink in BOTH:
            docs = [json.loads(row.payload) for row in rows(outbox, 0, sink)]
            assert [doc["data"].get("n") for doc in docs] == [4, 5, 6, 7, None, None]
            assert docs[4]["data"]["reason"] == "agent_restart"
            assert docs[5]["data"]["sequences"] == [["0000000000000003", "0000000000000003"]]
            assert (docs[5]["data"]["sink"], docs[5]["sequence"]) == ("mqtt", "0000000000000009")
        assert outbox.stat().depth == {"events": 6, "metrics": 1, "telemetry": 0}
        assert outbox.stat().sinks["mqtt"].depth == outbox.stat().sinks["influxdb"].depth == outbox.stat().depth
    assert verify(path).problems == []
    (letter,) = export_dead(path)
    assert (letter["sink"], letter["sequence"], letter["reason"]) == ("mqtt", "0000000000000003", "Not authorized")
    with closing(sqlite3.connect(path)) as cx:
        assert cx.execute("SELECT born FROM dead_letter").fetchone()[0] == pytest.approx(100.0)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become another user")
def test_a_user_who_may_only_read_can_look(tmp_path: Path) -> None:
    fill(tmp_path)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and str(folder).startswith("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    code = (
        "import os,sys; os.setgid(65534); os.setuid(65534);"
        "from pathlib import Path; from edge_agent.outbox.inspection import stat;"
        f"print(stat(Path({str(tmp_path / 'outbox.db')!r}))['sequence'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("11\n", 0), done.stderr
