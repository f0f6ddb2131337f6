"""Several sinks on one outbox: one that is dead, budgets, the order of dropping, what is told, how long anything is kept."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.config import OutboxConfig
from edge_agent.errors import OutboxError
from edge_agent.outbox import Outbox
from edge_agent.outbox.clock import AgeClock
from edge_agent.outbox.limits import Limits
from edge_agent.outbox.messages import Priority, Row, draft
from edge_agent.outbox.store import Store
from edge_agent.outbox.telling import LossLog, Teller
from edge_agent.outbox.verify import verify
from tests.mosquitto import wait_for
from tests.outbox_fixtures import (
    UTC,
    make_event,
    make_heartbeat,
    make_metric,
    make_outbox,
    make_telemetry,
    new_id,
    rows,
    running,
)

BOTH = ("mqtt", "influxdb")
DAY = 86400.0


def numbers(outbox: Outbox, sink: str, priority: int = 0) -> list[int]:
    found = [json.loads(row.payload)["data"] for row in rows(outbox, priority, sink)]
    return [data.get("n", data.get("people")) for data in found if "n" in data or "people" in data]


def told(outbox: Outbox, what: str, sink: str = "mqtt") -> list[dict[str, Any]]:
    found = [json.loads(r.payload) for r in rows(outbox, 0, sink) if r.topic == f"events/_device/{what}"]
    return [doc["data"] for doc in found]


def take_all(outbox: Outbox, sink: str) -> int:
    """As a sink that is well: everything, in order."""
    outlet, count = outbox.outlet(sink), 0
    for priority in (0, 1, 2):
        while page := outlet.read(priority, 0, 100):
            outlet.acknowledge([row.row for row in page])
            count += len(page)
    return count


def members(ranges: list[list[str]]) -> set[int]:
    return {n for first, last in ranges for n in range(int(first), int(last) + 1)}


def test_each_sink_has_its_own_place(tmp_path: Path) -> None:
    with running(tmp_path / "o.db", sinks=BOTH) as outbox:
        outbox.put([make_event(n) for n in range(20)])
        assert outbox.flush(10)
        mqtt, influx = outbox.outlet("mqtt"), outbox.outlet("influxdb")
        mqtt.acknowledge([row.row for row in mqtt.read(0, 0, 15)])
        assert numbers(outbox, "mqtt") == [15, 16, 17, 18, 19]
        assert numbers(outbox, "influxdb") == list(range(20))
        odd = [row.row for row in influx.read(0, 0, 20)][1::2]
        influx.acknowledge(odd)  # beyond holes
        wait_for(lambda: outbox.stat().sinks["influxdb"].depth["events"] == 10)
        wait_for(lambda: outbox.stat().depth["events"] == 13)  # 5 for mqtt, 10 for influxdb, 2 of them the same
    for _ in range(2):  # and over restarts
        with running(tmp_path / "o.db", sinks=BOTH) as outbox:
            assert numbers(outbox, "mqtt") == [15, 16, 17, 18, 19]
            assert numbers(outbox, "influxdb") == list(range(0, 20, 2))
            assert outbox.stat().sinks["mqtt"].bytes > 0
    assert verify(tmp_path / "o.db").problems == []


def test_a_sink_that_is_no_longer_used_holds_nothing_back(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    with running(path, sinks=BOTH) as outbox:
        outbox.put([make_event(n) for n in range(10)])
        assert outbox.flush(10)
        outbox.outlet("mqtt").acknowledge([row.row for row in outbox.outlet("mqtt").read(0, 0, 7)])
        wait_for(lambda: outbox.stat().sinks["mqtt"].depth["events"] == 3)
        with pytest.raises(ValueError, match="keeps nothing for 'webhook'"):
            outbox.outlet("webhook")
    with running(path) as outbox:
        assert outbox.stat().depth["events"] == 3
        assert numbers(outbox, "mqtt") == [7, 8, 9]
    with running(path, sinks=("mqtt", "webhook")) as outbox:  # a new one begins with what is there
        assert numbers(outbox, "webhook") == [7, 8, 9]
        assert take_all(outbox, "webhook") == take_all(outbox, "mqtt") == 3
        wait_for(lambda: outbox.stat().depth["events"] == 0)
    assert verify(path).problems == []


def test_a_refusal_is_one_sinks_own(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    with running(path, sinks=BOTH, report_every_s=0.0) as outbox:
        outbox.put([make_event(n) for n in range(3)])
        assert outbox.flush(10)
        outbox.outlet("influxdb").refuse(rows(outbox, 0, "influxdb")[1].row, 422, "bad line")
        wait_for(lambda: bool(told(outbox, "dead_letter")))
        (report,) = told(outbox, "dead_letter")
        assert report["sink"] == "influxdb"
        assert members(report["sequences"]) == {2}
        assert numbers(outbox, "mqtt") == [0, 1, 2]
        assert numbers(outbox, "influxdb") == [0, 2]
        assert take_all(outbox, "mqtt") == 4
        wait_for(lambda: outbox.stat().sinks["mqtt"].depth["events"] == 0)
    assert verify(path).problems == []


def test_what_a_sink_does_not_want_never_waits_for_it(tmp_path: Path) -> None:
    """Whether that is new, or there already when the sink is."""
    path = tmp_path / "o.db"

    def wants(row: Row) -> bool:
        return row.topic == "heartbeat" or json.loads(row.payload).get("data", {}).get("n", 0) % 2 == 1

    def depths(outbox: Outbox) -> dict[str, list[int]]:
        return {name: list(sink.depth.values()) for name, sink in outbox.stat().sinks.items()}

    not_heartbeats = {"mqtt": lambda row: row.topic != "heartbeat"}
    with running(path, wants=not_heartbeats) as outbox:
        outbox.put([*(make_event(n) for n in range(6)), make_metric(0), make_heartbeat()])
        assert outbox.flush(10)
        assert outbox.stat().depth == {"events": 6, "metrics": 1, "telemetry": 0}, "nobody wants the heartbeat"
    beat = make_heartbeat()
    both = {"sinks": BOTH, "wants": not_heartbeats | {"influxdb": wants}}
    with running(path, **both) as outbox:
        assert depths(outbox) == {"mqtt": [6, 1, 0], "influxdb": [3, 0, 0]}
        outbox.put([*(make_event(n) for n in range(6, 10)), beat])
        assert outbox.flush(10)
        assert depths(outbox) == {"mqtt": [10, 1, 0], "influxdb": [5, 0, 1]}
        assert rows(outbox, 2, "mqtt") == []
        (copy,) = rows(outbox, 2, "influxdb")
        assert (copy.topic, json.loads(copy.payload)) == ("heartbeat", beat.data)
        assert numbers(outbox, "influxdb") == [1, 3, 5, 7, 9]
        assert outbox.stat().dropped == {"events": 0, "metrics": 0, "telemetry": 0}
        assert take_all(outbox, "mqtt") == 11
        wait_for(lambda: outbox.stat().depth == {"events": 5, "metrics": 0, "telemetry": 1})
    assert verify(path).problems == []


def test_what_is_read_back_from_a_damaged_file_waits_for_those_who_want_it(tmp_path: Path) -> None:
    path, wants = tmp_path / "o.db", {"mqtt": lambda row: row.topic != "heartbeat"}
    with running(path, sinks=BOTH, wants=wants) as outbox:
        outbox.put([*(make_event(n, text="x" * 100) for n in range(200)), *[make_heartbeat()] * 200])
        assert outbox.flush(10)
    middle = path.stat().st_size // 2 // 4096 * 4096
    with path.open("r+b") as file:
        file.seek(middle)
        file.write(b"\xa5" * 4096)
    with running(path, sinks=BOTH, wants=wants) as outbox:
        for priority in (0, 2):
            with contextlib.suppress(OutboxError):
                rows(outbox, priority, "influxdb")
        wait_for(lambda: bool(told(outbox, "outbox_recreated")))
        depth = {name: sink.depth for name, sink in outbox.stat().sinks.items()}
        assert depth["mqtt"] == {**depth["influxdb"], "telemetry": 0}
        assert depth["influxdb"]["telemetry"] > 50
        assert rows(outbox, 2, "mqtt") == []
    assert verify(path).problems == []


@pytest.mark.parametrize("kind", ["metrics", "heartbeats"])
def test_what_a_dead_sink_holds_back_moves_the_mark_of_those_that_do_not_want_it(tmp_path: Path, kind: str) -> None:
    """Nothing piles up for a sink that never looks at such messages."""
    path, none = tmp_path / "o.db", {"mqtt": lambda row: row.topic.startswith("events/")}
    item = make_metric(0) if kind == "metrics" else make_heartbeat()
    with running(path, sinks=BOTH, wants=none) as outbox:
        for _ in range(5):
            outbox.put([item] * 10)
            assert outbox.flush(10)
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM message").fetchone() == (50,)
        assert database.execute("SELECT count(*) FROM beyond").fetchone() == (0,)


def test_a_reason_for_each_message_does_not_swell_the_report(tmp_path: Path) -> None:
    with running(tmp_path / "o.db", sinks=BOTH, report_every_s=0.0) as outbox:
        outbox.put([make_event(n) for n in range(100)])
        assert outbox.flush(10)
        for number, row in enumerate(rows(outbox, 0, "influxdb")):
            outbox.outlet("influxdb").refuse(row.row, 400, f"reason {number}")
        wait_for(lambda: outbox.stat().refused["events"] == 100)
        reports = told(outbox, "dead_letter")
        assert sum(report["events"] for report in reports) == 100
        assert all(len(report["reasons"]) <= 21 for report in reports)


@pytest.mark.slow
def test_a_dead_sink_neither_holds_the_other_back_nor_fills_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    with running(path, sinks=BOTH, max_mb=1.0, report_every_s=0.0) as outbox:
        for start in range(0, 6000, 500):
            outbox.put([make_event(n, text="x" * 200) for n in range(start, start + 500)])
            assert outbox.flush(30)
            assert take_all(outbox, "mqtt") >= 500
            assert outbox.stat().bytes <= 2**20
        wait_for(lambda: outbox.stat().sinks["mqtt"].depth["events"] == 0 or not take_all(outbox, "mqtt"))
        stat = outbox.stat()
        assert stat.sinks["influxdb"].depth["events"] > 300, "all of the budget that nobody else needs"
        assert stat.sinks["influxdb"].dropping and not stat.sinks["mqtt"].dropping
        assert stat.dropped["events"] > 3000
        assert {report["sink"] for report in told(outbox, "outbox_drops", "influxdb")} == {"influxdb"}
        # Now the other one is away too: what the dead one hoards makes room, until each has its half.
        kept = 300
        outbox.put([make_event(n, text="x" * 200) for n in range(6000, 6000 + kept)])
        assert outbox.flush(30)
        assert [n for n in numbers(outbox, "mqtt") if n >= 6000] == list(range(6000, 6000 + kept))
    assert verify(path).problems == []


@pytest.mark.slow
def test_a_sinks_own_budget(tmp_path: Path) -> None:
    with running(tmp_path / "o.db", sinks=BOTH, sink_max_mb={"influxdb": 0.1}) as outbox:
        for start in range(0, 1000, 100):
            outbox.put([make_event(n, text="x" * 500) for n in range(start, start + 100)] + [make_metric(start)])
            assert outbox.flush(20)
        stat = outbox.stat()
        assert stat.sinks["influxdb"].bytes <= 0.1 * 2**20
        assert stat.sinks["influxdb"].depth["metrics"] == 0, "the least important first"
        assert numbers(outbox, "influxdb")[-1] == 999
        assert (stat.sinks["mqtt"].depth["events"], stat.sinks["mqtt"].depth["metrics"]) == (1001, 10)
        assert all(set(report["reasons"]) == {"sink_max_mb"} for report in told(outbox, "outbox_drops"))


def test_each_priority_has_bounds_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    limits = {"events": {"max_rows": 40}, "metrics": {"max_mb": 0.002}}
    with running(path, report_every_s=0.0, **limits) as outbox:
        for start in range(0, 100, 10):
            outbox.put([make_event(n) for n in range(start, start + 10)])
            outbox.put([make_metric(n) for n in range(start, start + 10)])
            assert outbox.flush(20)
        stat = outbox.stat()
        assert 30 <= stat.depth["events"] <= 41
        assert 0 < stat.sinks["mqtt"].depth["metrics"] < 15
        assert numbers(outbox, "mqtt")[-1] == 99, "the oldest go"
        assert numbers(outbox, "mqtt", 1)[-1] == 99
        reasons = {reason for report in told(outbox, "outbox_drops") for reason in report["reasons"]}
        assert reasons == {"max_rows", "max_mb"}
    assert verify(path).problems == []


def test_telemetry_goes_before_metrics_and_these_before_events(tmp_path: Path) -> None:
    config = OutboxConfig(max_mb=0.6, telemetry={"max_mb": None}, metrics={"max_mb": None})
    limits = Limits.of(config, ("mqtt",), 30.0)
    teller = Teller({"site": "s", "device": "d", "boot_id": "b"}, new_id, lambda: UTC)
    store = Store(tmp_path / "o.db", AgeClock(lambda: True), teller.report, limits)
    store.open()

    def put(priority: Priority, count: int) -> None:
        large = draft(make_metric(text="x" * 800), site="s", device="d", boot_id="b")
        store.commit([replace(large, priority=priority)] * count, clock_ok=True, utc=UTC)

    def depth() -> list[int]:
        return [held.rows for held in store.books.sinks["mqtt"].held.values()]

    try:
        for priority in (Priority.METRIC, Priority.TELEMETRY):
            put(priority, 150)
        assert depth() == [0, 150, 150]
        events = 0
        while (now := depth())[2] > 0:
            assert now[:2] == [events, 150], "as long as there is telemetry, nothing else goes"
            put(Priority.EVENT, 10)
            events += 10
        while (now := depth())[1] > 0:
            assert now[0] == events, "then metrics"
            put(Priority.EVENT, 10)
            events += 10
        put(Priority.EVENT, 50)
        assert depth()[0] < events + 50, "events last"
        assert store.books.totals("outbox_drops") == {
            "events": events + 50 - depth()[0],
            "metrics": 150,
            "telemetry": 150,
        }
    finally:
        store.close()


def test_a_disk_full_of_telemetry_has_room_for_events(tmp_path: Path) -> None:
    with running(tmp_path / "o.db", max_mb=1.0, telemetry={"max_mb": None}) as outbox:
        for start in range(0, 6000, 300):
            outbox.put([make_telemetry(n) for n in range(start, start + 300)])
            assert outbox.flush(20)
        assert outbox.stat().dropped["telemetry"] > 0
        for start in range(0, 600, 100):
            outbox.put([make_event(n, text="x" * 300) for n in range(start, start + 100)])
            assert outbox.flush(20)
        assert numbers(outbox, "mqtt") == list(range(600))
        stat = outbox.stat()
        assert (stat.dropped["events"], stat.depth["telemetry"] > 0) == (0, True)
        assert {
            name for report in told(outbox, "outbox_drops") for name in report if report[name] and name in stat.depth
        } == {"telemetry"}


def test_a_queue_of_priorities_can_be_older_or_younger(tmp_path: Path) -> None:
    path, wall = tmp_path / "o.db", [UTC]
    limits = {"max_age_days": 20, "telemetry": {"max_age_days": 7}, "metrics": {"max_age_days": 2}}
    with running(path, wall=lambda: wall[0], **limits) as outbox:
        outbox.put([make_event(0), make_metric(0)])
        assert outbox.flush(10)
    wall[0] += 3 * DAY
    with running(path, wall=lambda: wall[0], **limits) as outbox:
        wait_for(lambda: bool(told(outbox, "outbox_drops")))
        assert outbox.stat().depth == {"events": 2, "metrics": 0, "telemetry": 0}


def test_nothing_is_kept_beyond_the_retention(tmp_path: Path) -> None:
    """What waits, what was refused, what was moved aside damaged, what is remembered for REST."""
    path, wall = tmp_path / "o.db", [time.time()]
    with running(path, wall=lambda: wall[0], retention_days=5, report_every_s=0.0) as outbox:
        outbox.put([make_event(n) for n in range(3)])
        assert outbox.flush(10)
        outbox.outlet("mqtt").refuse(rows(outbox)[0].row, 135, "Not authorized")
        wait_for(lambda: bool(told(outbox, "dead_letter")))
    (tmp_path / "o.db.corrupt").write_bytes(b"positions of people")
    os.utime(tmp_path / "o.db.corrupt", (wall[0], wall[0]))
    with running(path, wall=lambda: wall[0], retention_days=5) as outbox:
        assert outbox.stat().depth["events"] == 3
        assert (tmp_path / "o.db.corrupt").exists()
    wall[0] += 6 * DAY
    with running(path, wall=lambda: wall[0], retention_days=5) as outbox:
        wait_for(lambda: bool(told(outbox, "outbox_drops")))
        assert numbers(outbox, "mqtt") == []
        # The report of the refusal went unheard too, so it is made again.
        remembered = {doc["type"] for doc in outbox.recent(0.0, 100)}
        assert remembered == {"edge_agent.device.outbox_drops", "edge_agent.device.dead_letter"}
        (report,) = told(outbox, "outbox_drops")
        assert report["reasons"] == {"retention_days": 3}
        assert not (tmp_path / "o.db.corrupt").exists()
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert content.count(b"synthetic.thing") == 0, "not in what is left of deleted rows either"


@pytest.mark.parametrize("jump", [400 * DAY, -400 * DAY, 50 * 365 * DAY])
def test_a_clock_that_jumps_while_the_agent_runs_drops_nothing_and_expires_nothing(tmp_path: Path, jump: float) -> None:
    wall = [UTC]
    with running(tmp_path / "o.db", sinks=BOTH, wall=lambda: wall[0], retention_days=5, max_age_days=5) as outbox:
        outbox.put([make_event(0), make_metric(0)])
        assert outbox.flush(10)
        wall[0] += jump
        outbox.put([make_event(1)])
        assert outbox.flush(10)
        assert numbers(outbox, "influxdb") == [0, 1]
        assert sum(outbox.stat().dropped.values()) == 0
        assert take_all(outbox, "mqtt") == 3
    # A clock that is not known to be right says nothing about the time the box was off.
    options: dict[str, Any] = {"clock_ok": False, "retention_days": 5, "max_age_days": 5}
    with running(tmp_path / "o.db", sinks=BOTH, wall=lambda: wall[0] - jump, **options) as outbox:
        assert numbers(outbox, "influxdb") == [0, 1], "and jumped back while it was off"
        assert numbers(outbox, "mqtt") == []


def test_losses_are_logged_at_their_begin_and_end_only(caplog: pytest.LogCaptureFixture) -> None:
    from edge_agent.outbox.books import Books

    books, loss_log = Books(), LossLog()
    with caplog.at_level(logging.WARNING):
        for second in range(300):
            books.lost("outbox_drops", "influxdb").add(Priority.EVENT, "max_mb", 10)
            loss_log.look(books.losses, float(second))
        assert loss_log.losing("outbox_drops") == {"influxdb"}
        assert len(caplog.records) == 1 and "dropping messages for influxdb (max_mb)" in caplog.text
        for second in range(300, 400):
            loss_log.look(books.losses, float(second))
        assert loss_log.losing("outbox_drops") == set()
        assert [record.getMessage() for record in caplog.records][1:] == [
            "outbox: no longer dropping messages for influxdb: 3000 in all"
        ]


@pytest.mark.slow
def test_a_drop_report_that_is_itself_dropped_for_one_sink_is_told_again_to_it(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    with running(path, sinks=BOTH, max_mb=0.5, report_every_s=0.0) as outbox:
        for start in range(0, 4000, 400):
            outbox.put([make_event(n, text="x" * 200) for n in range(start, start + 400)])
            assert outbox.flush(30)
            take_all(outbox, "mqtt")
        wait_for(lambda: outbox.stat().queued == 0)
        last = outbox.stat().sequence
        kept = {int(json.loads(row.payload)["sequence"]) for row in rows(outbox, 0, "influxdb")}
        gaps = [members(report["sequences"]) for report in told(outbox, "outbox_drops", "influxdb")]
        assert set(range(1, last + 1)) <= kept | set().union(*gaps), "a gap of this sink is explained to this sink"
    assert verify(path).problems == []


def test_a_reused_outlet_hears_of_new_messages(tmp_path: Path) -> None:
    outbox = make_outbox(tmp_path / "o.db", sinks=BOTH)
    heard: list[str] = []
    for sink in BOTH:
        outbox.outlet(sink).subscribe(lambda sink=sink: heard.append(sink))  # type: ignore[misc]
    outbox.start()
    try:
        outbox.put([make_event(0)])
        assert outbox.flush(10)
        assert set(heard) == set(BOTH)
        assert outbox.outlet("mqtt").version == outbox.outlet("influxdb").version > 0
    finally:
        outbox.stop(5)
