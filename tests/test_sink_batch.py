"""A sink that sends batches, on a real outbox: what it takes, refuses and keeps."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from edge_agent.errors import SinkUnavailable
from edge_agent.outbox.verify import verify
from edge_agent.sinks.store import ACCEPT, KEEP, Row, Verdict
from tests.mosquitto import wait_for
from tests.outbox_fixtures import depth, make_event, make_metric, pumping, running

BOTH = ("mqtt", "influxdb")


class FileSink:
    """Appends the number of each message to a file; ``judge`` may say something else of one."""

    size, address = 7, "a file"

    def __init__(self, path: Path, judge: Callable[[int], Verdict] = lambda _: ACCEPT) -> None:
        self.path, self.judge, self.away = path, judge, threading.Event()
        self.asked, self.retry_after_s, self.closed = list[float](), 0.0, False
        path.touch()

    def wants(self, row: Row) -> bool:
        return True

    def deliver(self, batch: Sequence[Row]) -> list[Verdict]:
        self.asked.append(time.monotonic())
        if self.away.is_set():
            raise SinkUnavailable("connection refused", self.retry_after_s)
        verdicts = []
        with self.path.open("a") as file:
            for row in batch:
                data = json.loads(row.payload)["data"]
                number = int(data.get("n", data.get("people", -1)))
                verdicts.append(self.judge(number))
                if verdicts[-1] is ACCEPT:
                    file.write(f"{number}\n")
        return verdicts

    def close(self) -> None:
        self.closed = True

    def taken(self) -> list[int]:
        return [number for number in map(int, self.path.read_text().split()) if number >= 0]


def test_all_of_it_in_order_and_the_important_first(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "taken")
    with running(tmp_path / "o.db", sinks=BOTH) as outbox:
        outbox.put([make_metric(1000 + n) for n in range(10)] + [make_event(n) for n in range(100)])
        assert outbox.flush(10)
        with pumping(outbox, "influxdb", sink) as pump:
            wait_for(lambda: depth(outbox, "influxdb") == 0)
            assert sink.taken() == [*range(100), *range(1000, 1010)]
            assert (pump.state.delivered, pump.state.last_error) == (110, "")
            outbox.put([make_event(100)])
            wait_for(lambda: sink.taken()[-1] == 100)
        assert outbox.stat().sinks["mqtt"].depth["events"] == 101


def test_while_the_other_side_is_away_everything_is_kept_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = FileSink(tmp_path / "taken")
    sink.away.set()
    with running(tmp_path / "o.db", sinks=BOTH) as outbox, pumping(outbox, "influxdb", sink) as pump:
        outbox.put([make_event(n) for n in range(20)])
        wait_for(lambda: pump.state.failures > 3)
        assert pump.state.last_error == "connection refused"
        assert depth(outbox, "influxdb") == 20
        sink.away.clear()
        wait_for(lambda: depth(outbox, "influxdb") == 0)
        assert sink.taken() == list(range(20))
    assert caplog.text.count("connection refused") == 1
    assert verify(tmp_path / "o.db").problems == []


def test_the_pause_that_the_other_side_asks_for_is_kept(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "taken")
    sink.away.set()
    sink.retry_after_s = 0.3
    with running(tmp_path / "o.db", sinks=BOTH) as outbox, pumping(outbox, "influxdb", sink):
        outbox.put([make_event(0)])
        wait_for(lambda: len(sink.asked) >= 4)
        assert all(later - earlier >= 0.3 for earlier, later in pairwise(sink.asked))
        sink.retry_after_s = 10**9  # a wish that cannot be meant; a stop does not wait for it


def test_each_message_is_judged_on_its_own(tmp_path: Path) -> None:
    busy = {4, 5}

    def judge(number: int) -> Verdict:
        if number in busy:
            return KEEP
        return Verdict("reject", 422, "bad line") if number % 10 == 3 else ACCEPT

    sink = FileSink(tmp_path / "taken", judge)
    with (
        running(tmp_path / "o.db", sinks=BOTH, report_every_s=0.0) as outbox,
        pumping(outbox, "influxdb", sink) as pump,
    ):
        outbox.put([make_event(n) for n in range(30)])
        wait_for(lambda: pump.state.failures > 2 and depth(outbox, "influxdb") == 2, what="only what is kept is left")
        busy.clear()
        wait_for(lambda: depth(outbox, "influxdb") == 0)
        assert sorted(sink.taken()) == [n for n in range(30) if n % 10 != 3], "each once"
        assert outbox.stat().refused["events"] == pump.state.refused == 3
    assert verify(tmp_path / "o.db").problems == []


def test_a_sink_with_a_fault_keeps_its_messages(tmp_path: Path) -> None:
    faulty = [True]

    def judge(_: int) -> Verdict:
        if faulty[0]:
            raise ZeroDivisionError("ours")
        return ACCEPT

    sink = FileSink(tmp_path / "taken", judge)
    with running(tmp_path / "o.db", sinks=BOTH) as outbox, pumping(outbox, "influxdb", sink) as pump:
        outbox.put([make_event(0)])
        wait_for(lambda: pump.state.last_error == "ZeroDivisionError: ours")
        faulty[0] = False
        wait_for(lambda: depth(outbox, "influxdb") == 0)


def test_stop_delivers_what_there_is(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "taken")
    with running(tmp_path / "o.db", sinks=BOTH) as outbox:
        with pumping(outbox, "influxdb", sink):
            outbox.put([make_event(n) for n in range(50)])
            assert outbox.flush(10)
        assert sink.taken() == list(range(50)) and sink.closed
