"""The outbox in normal use: what is written, in what order, what bounds it keeps."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.outbox.inbox import BATCH, Inbox
from edge_agent.outbox.ledger import MAX_RANGES, Losses
from edge_agent.outbox.messages import Priority
from edge_agent.outbox.ranges import cover
from edge_agent.types import rfc3339
from tests.mosquitto import wait_for
from tests.outbox_fixtures import UTC, make_event, make_metric, make_outbox, make_telemetry, rows, running


def docs(found: list[Any]) -> list[dict[str, Any]]:
    return [json.loads(row.payload) for row in found]


def device_events(found: list[Any], what: str) -> list[dict[str, Any]]:
    return [json.loads(row.payload) for row in found if row.topic == f"events/_device/{what}"]


def test_event_is_a_cloud_event(tmp_path: Path) -> None:
    event = make_event(
        1, "started", "ep-1", distance_m=np.float32(1.5), pairs=((1, 2),), sigma_m=float("nan"), xy=np.zeros(2)
    )
    with running(tmp_path / "o.db") as outbox:
        outbox.put([event])
        assert outbox.flush(30)
        (row,) = rows(outbox)
    assert (row.topic, row.content_type) == ("events/door/synthetic", "application/cloudevents+json")
    assert json.loads(row.payload) == {
        "specversion": "1.0",
        "id": event.id,
        "source": "/site/box/door",
        "subject": "ep-1",
        "type": "edge_agent.synthetic.thing.started",
        "time": rfc3339(UTC + 1),
        "datacontenttype": "application/json",
        "dataschema": "urn:edge-agent:event:synthetic.thing:1",
        "data": {"n": 1, "distance_m": 1.5, "pairs": [[1, 2]], "sigma_m": None, "xy": [0.0, 0.0]},
        "bootid": "boot-1",
        "sequence": "0000000000000001",
        "clockok": True,
    }


def test_metric_has_its_own_shape_and_no_sequence(tmp_path: Path) -> None:
    with running(tmp_path / "o.db", clock_ok=False) as outbox:
        outbox.put([make_metric(2), make_event(0)])
        assert outbox.flush(30)
        (metric,), (event,) = rows(outbox, 1), rows(outbox, 0)
    assert (metric.topic, metric.content_type) == ("metrics/door/synthetic", "application/json")
    assert json.loads(metric.payload) == {
        "time": rfc3339(UTC + 120),
        "interval_s": 60.0,
        "observed_s": 58.5,
        "data": {"people": 2},
    }
    assert json.loads(event.payload)["sequence"] == "0000000000000001"
    assert json.loads(event.payload)["clockok"] is False


def test_order_and_sequence_hold_over_restarts(tmp_path: Path) -> None:
    for start in (0, 700, 1400):
        with running(tmp_path / "o.db") as outbox:
            for n in range(start, start + 700):
                outbox.put([make_event(n)])
            assert outbox.flush(10)
    with running(tmp_path / "o.db") as outbox:
        found = docs(rows(outbox))
    assert [doc["data"]["n"] for doc in found] == list(range(2100))
    assert [int(doc["sequence"]) for doc in found] == list(range(1, 2101))


def test_acknowledged_rows_are_never_read_again(tmp_path: Path) -> None:
    with running(tmp_path / "o.db") as outbox:
        outbox.put([make_event(n) for n in range(30)])
        assert outbox.flush(30)
        first = outbox.outlet("mqtt").read(0, 0, 20)
        outbox.outlet("mqtt").acknowledge([row.row for row in first[:15]])
        assert [json.loads(row.payload)["data"]["n"] for row in outbox.outlet("mqtt").read(0, 0, 5)] == [
            15,
            16,
            17,
            18,
            19,
        ]
        wait_for(lambda: outbox.stat().depth["events"] == 15)
        outbox.outlet("mqtt").acknowledge([row.row for row in first])  # some for the second time
        wait_for(lambda: outbox.stat().depth["events"] == 10)
    with running(tmp_path / "o.db") as outbox:
        assert [doc["data"]["n"] for doc in docs(rows(outbox))] == list(range(20, 30))


def test_queue_overflow_drops_metrics_first_then_the_oldest(tmp_path: Path) -> None:
    outbox = make_outbox(tmp_path / "o.db", queue=100)
    outbox.put([make_metric(n) for n in range(60)])
    outbox.put([make_event(n) for n in range(110)])
    assert outbox.stat().queued == 100
    outbox.start()
    assert outbox.flush(30)
    try:
        assert rows(outbox, 1) == []
        wait_for(lambda: bool(device_events(rows(outbox), "outbox_drops")))
        found = docs(rows(outbox))
        assert [doc["data"]["n"] for doc in found if "n" in doc["data"]] == list(range(10, 110))
        (told,) = device_events(rows(outbox), "outbox_drops")
        assert told["data"] == {
            "sink": "all",
            "events": 10,
            "metrics": 60,
            "telemetry": 0,
            "reasons": {"queue": 70},
            "sequences": [],
        }
        assert outbox.stat().dropped == {"events": 10, "metrics": 60, "telemetry": 0}
    finally:
        outbox.stop(5)


def test_what_the_queue_cannot_hold_is_telemetry_first(tmp_path: Path) -> None:
    outbox = make_outbox(tmp_path / "o.db", queue=100)
    outbox.put([make_telemetry(n) for n in range(90)])
    outbox.put([make_event(n) for n in range(30)])
    outbox.put([make_metric(n) for n in range(40)])
    outbox.start()
    assert outbox.flush(30)
    try:
        assert [len(rows(outbox, priority)) for priority in (1, 2)] == [40, 30]
        assert [doc["data"]["n"] for doc in docs(rows(outbox)) if "n" in doc["data"]] == list(range(30))
        assert [doc["value"] for doc in docs(rows(outbox, 2))] == list(range(60, 90)), "the oldest go"
        assert outbox.stat().dropped == {"events": 0, "metrics": 0, "telemetry": 60}
    finally:
        outbox.stop(5)


@pytest.mark.slow
def test_put_does_not_block_while_the_disk_does(tmp_path: Path) -> None:
    with running(tmp_path / "o.db", queue=1000) as outbox:
        outbox.put([make_event(0)])
        assert outbox.flush(30)
        with closing(sqlite3.connect(tmp_path / "o.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            longest = 0.0
            for n in range(1, 3001):
                began = time.perf_counter()
                outbox.put([make_event(n)])
                longest = max(longest, time.perf_counter() - began)
            assert longest < 0.5  # the writer is inside SQLite's busy wait of a second
            wait_for(lambda: outbox.stat().state == "degraded")
            assert "locked" in outbox.stat().reason
            other.execute("ROLLBACK")
        assert outbox.flush(20)
        wait_for(lambda: outbox.stat().state == "ok")
        found = docs(rows(outbox))
        assert [int(doc["sequence"]) for doc in found] == list(range(1, len(found) + 1))
        assert found[-2]["data"]["n"] == 3000 or found[-1]["data"]["n"] == 3000


@pytest.mark.slow
def test_cap_drops_metrics_then_oldest_events_and_explains_every_gap(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    with running(path, max_mb=1.0, report_every_s=0.0) as outbox:
        outbox.put([make_metric(n) for n in range(500)])
        for start in range(0, 6000, 500):
            outbox.put([make_event(n, text="x" * 200) for n in range(start, start + 500)])
            assert outbox.flush(20)
            assert outbox.stat().bytes <= 1.0 * 2**20
        stat = outbox.stat()
        found = docs(rows(outbox))
        assert stat.depth["metrics"] == 0
        assert stat.dropped["metrics"] == 500
        assert stat.dropped["events"] > 3000
        kept = {int(doc["sequence"]) for doc in found}
        told: set[int] = set()
        for doc in device_events(rows(outbox), "outbox_drops"):
            for first, last in doc["data"]["sequences"]:
                told |= set(range(int(first), int(last) + 1))
        assert set(range(1, stat.sequence + 1)) <= kept | told
        assert max(kept) == stat.sequence
        assert 5999 in {doc["data"].get("n") for doc in found}


@pytest.mark.slow
def test_drop_reports_are_rate_limited_and_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    with running(path, max_mb=0.5) as outbox:
        for start in range(0, 5000, 500):
            outbox.put([make_event(n, text="x" * 200) for n in range(start, start + 500)])
            assert outbox.flush(20)
        first_run = outbox.stat().sequence
        assert first_run <= 5000 + 1  # one report in a minute, not one for each commit
    with running(path, max_mb=0.5, report_every_s=0.0) as outbox:
        outbox.put([make_event(-1)])
        assert outbox.flush(30)
        wait_for(lambda: bool(device_events(rows(outbox), "outbox_drops")))
        kept = {int(doc["sequence"]) for doc in docs(rows(outbox))}
        told: set[int] = set()
        for doc in device_events(rows(outbox), "outbox_drops"):
            for first, last in doc["data"]["sequences"]:
                told |= set(range(int(first), int(last) + 1))
        assert set(range(1, outbox.stat().sequence + 1)) <= kept | told


@pytest.mark.slow
def test_space_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    with running(path) as outbox:
        for start in range(0, 8000, BATCH):
            outbox.put([make_event(n, text="x" * 500) for n in range(start, start + BATCH)])
            assert outbox.flush(20)
        full = path.stat().st_size
        assert full > 4e6
        outbox.outlet("mqtt").acknowledge([row.row for row in rows(outbox)])
        wait_for(lambda: outbox.stat().depth["events"] == 0)
        wait_for(lambda: outbox.stat().bytes < 2e6, what="a small file")


@pytest.mark.slow
def test_space_is_given_back_on_a_box_that_is_never_idle(tmp_path: Path) -> None:
    with running(tmp_path / "o.db", queue=20_000) as outbox:
        outlet = outbox.outlet("mqtt")

        def take_all() -> None:
            outlet.acknowledge([row.row for row in rows(outbox)])

        def small_though_busy() -> bool:
            outbox.put([make_event(0)])
            take_all()
            return outbox.stat().bytes < 2e6

        for start in range(0, 10_000, 500):
            outbox.put([make_event(n, text="x" * 200) for n in range(start, start + 500)])
            assert outbox.flush(20)
        assert outbox.stat().bytes > 4e6
        take_all()
        wait_for(small_though_busy, what="a small file")


def test_age_is_not_fooled_by_the_clock(tmp_path: Path) -> None:
    class Wall:
        now = UTC

        def __call__(self) -> float:
            return self.now

    path, wall = tmp_path / "o.db", Wall()
    with running(path, wall=wall, max_age_days=1) as outbox:
        outbox.put([make_event(0)])
        assert outbox.flush(30)
        for jump in (50 * 365 * 86400, -3 * 365 * 86400):
            wall.now = UTC + jump
            outbox.put([make_event(1)])
            assert outbox.flush(30)
            assert (outbox.stat().oldest_age_s or 0) < 60
        assert outbox.stat().depth["events"] == 3
    wall.now = 0.0  # no battery behind the clock: 1970 after a power cut
    with running(path, wall=wall, clock_ok=False, max_age_days=1) as outbox:
        outbox.put([make_event(2)])
        assert outbox.flush(30)
        assert outbox.stat().depth["events"] == 4


def test_old_rows_go_after_a_long_time_off(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    with running(path, wall=lambda: UTC, max_age_days=2) as outbox:
        outbox.put([make_event(0), make_metric(0)])
        assert outbox.flush(30)
    with running(path, wall=lambda: UTC + 3 * 86400, max_age_days=2) as outbox:
        wait_for(lambda: bool(device_events(rows(outbox), "outbox_drops")))
        (told,) = device_events(rows(outbox), "outbox_drops")
        assert told["data"]["reasons"] == {"max_age_days": 2}
        assert told["data"]["sequences"] == [["0000000000000001", "0000000000000001"]]
        assert outbox.stat().depth == {"events": 1, "metrics": 0, "telemetry": 0}


def test_refused_row_becomes_a_dead_letter_with_an_alarm(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    with running(path) as outbox:
        outbox.put([make_event(0), make_event(1)])
        assert outbox.flush(30)
        outbox.outlet("mqtt").refuse(rows(outbox)[0].row, 135, "Not authorized")
        wait_for(lambda: bool(device_events(rows(outbox), "dead_letter")))
        (told,) = device_events(rows(outbox), "dead_letter")
        assert told["data"]["reasons"] == {"Not authorized": 1}
        assert told["data"]["sequences"] == [["0000000000000001", "0000000000000001"]]
        assert docs(rows(outbox))[0]["data"]["n"] == 1
        assert outbox.stat().refused["events"] == 1
    with closing(sqlite3.connect(path)) as cx:
        ((sequence, code, reason, topic, payload),) = cx.execute(
            "SELECT sequence, code, reason, topic, payload FROM dead_letter"
        )
    assert (sequence, code, reason, topic) == (1, 135, "Not authorized", "events/door/synthetic")
    assert json.loads(payload)["data"]["n"] == 0


def test_many_scattered_losses_are_told_without_delay(tmp_path: Path) -> None:
    """What waits to be told is kept in memory and written with every commit, so it must stay small."""
    with running(tmp_path / "o.db") as outbox:
        for start in range(0, 2000, 500):
            outbox.put([make_event(n) for n in range(start, start + 500)])
            assert outbox.flush(10)
        for row in rows(outbox)[::2]:
            outbox.outlet("mqtt").refuse(row.row, 135, "Not authorized")

        def told() -> list[list[list[str]]]:
            return [doc["data"]["sequences"] for doc in device_events(rows(outbox), "dead_letter")]

        wait_for(lambda: sum(map(len, told())) >= 1000 - MAX_RANGES)
        assert max(map(len, told())) <= MAX_RANGES
        numbers = [int(first) for ranges in told() for first, _ in ranges]
        assert numbers == list(range(1, 2 * len(numbers), 2))


def test_recent_reads_memory_then_disk(tmp_path: Path) -> None:
    path, followed = tmp_path / "o.db", list[dict[str, Any]]()
    outbox = make_outbox(path)
    outbox.on_event(followed.append)
    outbox.start()
    for start in range(0, 1500, 500):
        outbox.put([make_event(n) for n in range(start, start + 500)])
        assert outbox.flush(10)
    try:
        assert [doc["data"]["n"] for doc in followed] == list(range(1500))
        assert [doc["data"]["n"] for doc in outbox.recent(UTC, 3)] == [1497, 1498, 1499]
        assert [doc["data"]["n"] for doc in outbox.recent(UTC + 1490, 100)] == list(range(1490, 1500))
        assert [doc["data"]["n"] for doc in outbox.recent(0.0, 1400)] == list(range(100, 1500))
        assert outbox.recent(UTC, 0) == []
        assert outbox.recent(1e15, 10) == []
    finally:
        outbox.stop(5)
    with running(path) as outbox:
        assert [doc["data"]["n"] for doc in outbox.recent(0.0, 1200)] == list(range(300, 1500))


def test_value_that_is_no_json_is_counted_and_harms_nothing_else(tmp_path: Path) -> None:
    bottomless: dict[str, Any] = {}
    bottomless["again"] = bottomless
    with running(tmp_path / "o.db") as outbox:
        outbox.put([make_event(0), make_event(1, utc=1e300), make_event(2, loop=bottomless), make_event(3)])
        assert outbox.flush(30)
        assert [doc["data"]["n"] for doc in docs(rows(outbox)) if "n" in doc["data"]] == [0, 3]
        assert outbox.stat().dropped["events"] == 2


def test_text_that_is_no_unicode_does_not_block_what_comes_after(tmp_path: Path) -> None:
    odd: dict[str, Any] = {"\ud800": "é"}
    with running(tmp_path / "o.db") as outbox:
        outbox.put([make_event(0, reason="no such file: caf\udce9", **odd), make_event(1)])
        assert outbox.flush(30)
        first, second = docs(rows(outbox))
    assert first["data"] == {"n": 0, "reason": "no such file: caf?", "?": "é"}
    assert second["data"] == {"n": 1}


def test_a_failing_listener_does_not_stop_the_writer(tmp_path: Path) -> None:
    def broken(_: object = None) -> None:
        raise RuntimeError("listener")

    outbox = make_outbox(tmp_path / "o.db")
    outbox.on_event(broken)
    outbox.outlet("mqtt").subscribe(broken)
    outbox.start()
    try:
        outbox.put([make_event(0)])
        assert outbox.flush(30)
        outbox.put([make_event(1)])
        assert outbox.flush(30)
        assert [int(doc["sequence"]) for doc in docs(rows(outbox))] == [1, 2]
    finally:
        outbox.stop(5)


def test_an_older_schema_is_upgraded_and_a_newer_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "o.db"
    with running(path) as outbox:
        outbox.put([make_event(0)])
        assert outbox.flush(30)
    from edge_agent.outbox import schema

    with monkeypatch.context() as patch:
        patch.setattr(
            schema,
            "MIGRATIONS",
            (*schema.MIGRATIONS, ("CREATE TABLE of_later (x TEXT)",)),
        )
        with running(path) as outbox:
            outbox.put([make_event(1)])
            assert outbox.flush(30)
            assert [doc["data"]["n"] for doc in docs(rows(outbox))] == [0, 1]
        with closing(sqlite3.connect(path)) as cx:
            assert cx.execute("PRAGMA user_version").fetchone() == (len(schema.MIGRATIONS),)
            assert cx.execute("SELECT count(*) FROM of_later").fetchone() == (0,)
    with running(path) as outbox:
        assert outbox.stat().state == "degraded"
        assert "newer version" in outbox.stat().reason


def test_commit_waits_for_others_but_not_longer_than_its_bound() -> None:
    inbox = Inbox(1000, commit_s=0.2)
    inbox.put([make_event(0)])
    began = time.monotonic()
    inbox.gather(5.0)
    assert 0.15 <= time.monotonic() - began < 2.0
    assert len(inbox.take()) == 1
    inbox.put([make_event(n) for n in range(BATCH)])
    slow = Inbox(1000, commit_s=60.0)
    slow.put([make_event(n) for n in range(BATCH + 3)])
    slow.gather(5.0)  # full: at once
    assert len(slow.take()) == BATCH
    assert len(slow) == 3


def test_losses_keep_what_does_not_fit_in_one_report() -> None:
    losses = Losses()
    losses.add(Priority.EVENT, "max_mb", MAX_RANGES + 5, range(0, 2 * (MAX_RANGES + 5), 2))
    told = losses.report()["sequences"]
    assert losses
    told += losses.report()["sequences"]
    assert not losses
    assert told == [[f"{n:016d}", f"{n:016d}"] for n in range(0, 2 * (MAX_RANGES + 5), 2)]
    cover(losses.ranges, [(5, 9), (1, 2), (3, 4), (20, 30), (8, 21)])
    assert losses.ranges == [(1, 30)]
