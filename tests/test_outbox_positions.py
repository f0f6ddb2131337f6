"""Low-water marks, notes beyond them and accounts against models of sets: any order of rows, sinks and settlements."""

from __future__ import annotations

import itertools
import sqlite3

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge_agent.outbox import positions
from edge_agent.outbox.account import MAX_RANGES, Account
from edge_agent.outbox.messages import Priority
from edge_agent.outbox.ranges import Range, cover, joined, missing
from edge_agent.outbox.records import span
from edge_agent.outbox.schema import MIGRATIONS

SINKS = ("mqtt", "influxdb", "webhook")


class PositionsMachine(RuleBasedStateMachine):
    """The model: for each sink the set of rows that wait for it. A row lives while it is in one of the sets."""

    @initialize()
    def begin(self) -> None:
        self.cx = sqlite3.connect(":memory:", isolation_level=None)
        for step in MIGRATIONS:
            for statement in step:
                self.cx.execute(statement)
        self.sinks: list[str] = list(SINKS[:2])
        self.waits: dict[str, set[int]] = {name: set() for name in self.sinks}
        self.number = 0

    @rule(priorities=st.lists(st.sampled_from(list(Priority)), min_size=1, max_size=6))
    def add(self, priorities: list[Priority]) -> None:
        for priority in priorities:
            self.number += 1
            row = span(priority)[0] + self.number
            self.cx.execute("INSERT INTO message VALUES (?,?,?,?,?)", (row, None, 0.0, "t", b"{}"))
            for waits in self.waits.values():
                waits.add(row)

    @rule(sink=st.integers(0, 2), picks=st.sets(st.integers(0, 40), max_size=12), strangers=st.booleans())
    def settle(self, sink: int, picks: set[int], strangers: bool) -> None:
        """Any of the rows that live, also those the sink had before, and some that never were."""
        name = self.sinks[sink % len(self.sinks)]
        alive = sorted(set().union(*self.waits.values()))
        chosen = {alive[n] for n in picks if n < len(alive)} | ({span(Priority.METRIC)[1] - 1} if strangers else set())
        settled, gone = positions.settle(self.cx, name, chosen, self.sinks)
        assert {row.row for row in settled} == chosen & self.waits[name]
        self.waits[name] -= chosen
        assert set(gone) == chosen & set(alive) - set().union(*self.waits.values())

    @rule(sink=st.integers(0, 2), count=st.integers(1, 10))
    def settle_in_order(self, sink: int, count: int) -> None:
        """As a sink does that is well: leaves no notes."""
        name = self.sinks[sink % len(self.sinks)]
        oldest = sorted(self.waits[name])[:count]
        positions.settle(self.cx, name, oldest, self.sinks)
        self.waits[name] -= set(oldest)

    @rule()
    def a_sink_is_switched_off(self) -> None:
        if len(self.sinks) > 1:
            del self.waits[self.sinks.pop()]
            positions.remove_strangers(self.cx, self.sinks)

    @rule()
    def a_sink_is_switched_on(self) -> None:
        if len(self.sinks) < len(SINKS):
            new = SINKS[len(self.sinks)]
            self.waits[new] = set().union(*self.waits.values())  # it begins with what is there
            self.sinks.append(new)

    @invariant()
    def agrees_with_the_model(self) -> None:
        if not hasattr(self, "cx"):
            return
        for name, waits in self.waits.items():
            for priority in Priority:
                here = [row.row for row in positions.head(self.cx, name, priority)]
                assert here == sorted(row for row in waits if Priority(row >> 56) is priority)
                assert positions.count(self.cx, name, priority) == (len(here), 35 * len(here))
        stored = {row for (row,) in self.cx.execute("SELECT row FROM message")}
        assert stored == set().union(*self.waits.values())
        assert not self.cx.execute("SELECT 1 FROM beyond WHERE row NOT IN (SELECT row FROM message)").fetchone()

    def teardown(self) -> None:
        if hasattr(self, "cx"):
            self.cx.close()


PositionsMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestPositions = PositionsMachine.TestCase


def test_a_sink_in_order_moves_its_mark_and_leaves_no_notes() -> None:
    """One small row is written for a whole batch, whatever another sink has still before it."""
    machine = PositionsMachine()
    machine.begin()
    machine.add([Priority.EVENT] * 500)
    for _ in range(4):
        machine.settle_in_order(0, 100)
    first = span(Priority.EVENT)[0]
    assert machine.cx.execute("SELECT * FROM mark").fetchall() == [("mqtt", 0, first + 400)]
    assert machine.cx.execute("SELECT count(*) FROM beyond").fetchone() == (0,)
    positions.settle(machine.cx, "mqtt", [first + 403], machine.sinks)
    assert machine.cx.execute("SELECT * FROM beyond").fetchall() == [("mqtt", first + 403)]
    positions.settle(machine.cx, "mqtt", [first + 402, first + 401], machine.sinks)
    assert machine.cx.execute("SELECT low FROM mark").fetchall() == [(first + 403,)]
    assert machine.cx.execute("SELECT count(*) FROM beyond").fetchone() == (0,)
    machine.cx.close()


def test_reading_begins_at_the_mark_and_not_at_the_oldest_row() -> None:
    machine = PositionsMachine()
    machine.begin()
    plans = [
        f"SELECT row FROM message WHERE {positions.ABOVE} AND row<:end AND {positions.UNNOTED} ORDER BY row",
        f"SELECT row FROM message WHERE row IN (1,2) AND +{positions.ABOVE}",
    ]
    values = {"sink": "mqtt", "priority": 0, "after": 0, "end": 5}
    by_range, by_list = ([row[3] for row in machine.cx.execute(f"EXPLAIN QUERY PLAN {p}", values)] for p in plans)
    assert "SEARCH message USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)" in by_range
    assert "SEARCH message USING INTEGER PRIMARY KEY (rowid=?)" in by_list
    machine.cx.close()


ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 8)).map(lambda r: (r[0], r[0] + r[1])), max_size=12)


def members(found: list[Range]) -> set[int]:
    return {n for first, last in found for n in range(first, last + 1)}


@given(ranges, ranges)
def test_ranges_are_sets(some: list[Range], more: list[Range]) -> None:
    both = joined(some)
    cover(both, more)
    assert members(both) == members(some) | members(more)
    assert all(a[1] + 1 < b[0] for a, b in itertools.pairwise(both)), "joined, and in order"
    assert members(missing(0, 70, both)) == set(range(71)) - members(both)
    assert missing(5, 4, both) == []


@given(ranges, ranges, ranges)
def test_an_account_knows_what_is_nowhere(delivered: list[Range], lost: list[Range], waiting: list[Range]) -> None:
    account = Account(start=3)
    account.deliver(delivered)
    account.lose(lost)
    again = Account.taken_up(account.data())
    assert again == account
    known = members(delivered) | members(lost) | members(waiting)
    assert members(again.unexplained(70, waiting)) == set(range(3, 71)) - known


def test_an_account_stays_small_and_never_cries_wolf() -> None:
    account = Account()
    for n in range(1, 5000):
        (account.deliver if n % 2 else account.lose)([(n, n)])
    assert len(account.delivered) + len(account.lost) <= 2 * MAX_RANGES
    assert account.unexplained(4999, []) == []
    assert account.unexplained(5001, []) == [(5000, 5001)]
