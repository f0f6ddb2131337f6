"""What an operator may do to an outbox that no agent has open: purge, and send dead letters again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

from edge_agent.errors import OutboxError
from edge_agent.outbox import positions
from edge_agent.outbox.clock import AgeClock
from edge_agent.outbox.inspection import opened, taken_up
from edge_agent.outbox.ledger import SinkLosses
from edge_agent.outbox.limits import Bound, Limits
from edge_agent.outbox.messages import ROW_BITS, Draft, Priority, Row
from edge_agent.outbox.removal import Removal
from edge_agent.outbox.store import Store

_WITHOUT_BOUND = 2**50
_CHUNK = 1000
"""Rows in one transaction: bounds what SQLite's log grows to."""


def purge(path: Path, priorities: Collection[Priority], sink: str | None) -> int:
    """Give up what waits, for one sink or for all; how many rows were given up. The next start of the agent announces it.

    The caller holds the state folder. Raises OutboxError.
    """
    given_up = 0
    with _store(path) as store:
        for name in _chosen(store, sink):
            for priority in sorted(priorities, reverse=True):
                while count := _purge_some(store, name, priority):
                    given_up += count
        _give_back(store)
    return given_up


def _purge_some(store: Store, sink: str, priority: Priority) -> int:
    with store.edit() as (cx, books):
        rows = list(islice(positions.head(cx, sink, priority), _CHUNK))
        Removal(cx, books, store.limits).drop(sink, rows, "purged")
    return len(rows)


def purge_dead(path: Path, sink: str | None) -> int:
    """Delete dead letters, of one sink or all; how many. They were announced when they died. Else as ``purge``."""
    with _store(path) as store:
        with store.edit() as (cx, _):
            names = [(name,) for name in _chosen(store, sink)]
            deleted = cx.executemany("DELETE FROM dead_letter WHERE sink=?", names).rowcount
        _give_back(store)
    return deleted


def retry_dead(path: Path, sink: str | None) -> int:
    """Put dead letters back to wait for the sink that refused them, behind what waits; how many. Else as ``purge``."""
    with _store(path) as store, store.edit() as (cx, books):
        removal, count = Removal(cx, books, store.limits), 0
        query = "SELECT number, row, sequence, born, topic, payload FROM dead_letter WHERE sink=? ORDER BY number"
        for name in _chosen(store, sink):
            for number, old_row, sequence, born, topic, payload in cx.execute(query, (name,)).fetchall():
                books.number += 1
                row = Row((old_row >> ROW_BITS << ROW_BITS) + books.number, sequence, topic, payload)
                cx.execute("INSERT INTO message VALUES (?,?,?,?,?)", (row.row, sequence, born, topic, payload))
                books.take_in(row.priority, positions.cost(row))
                for other in set(store.limits.sinks) - {name}:
                    removal.settle(other, [row.row])
                cx.execute("DELETE FROM dead_letter WHERE number=?", (number,))
                count += 1
    return count


def _give_back(store: Store) -> None:
    while store.shrink():
        pass


def _chosen(store: Store, sink: str | None) -> list[str]:
    if sink is not None and sink not in store.books.sinks:
        known = ", ".join(sorted(store.books.sinks))
        raise OutboxError(f"nothing is kept for a sink {sink!r}; there is {known or 'none'}")
    return sorted(store.books.sinks) if sink is None else [sink]


@contextlib.contextmanager
def _store(path: Path) -> Iterator[Store]:
    with opened(path) as cx:
        sinks = tuple(sorted(taken_up(cx).sinks))
    bounds = {priority: Bound(None, None, _WITHOUT_BOUND, "") for priority in Priority}
    limits = Limits(sinks, _WITHOUT_BOUND, bounds, {}, _WITHOUT_BOUND)
    # The time since the last mark is left to the agent, which knows whether the clock is right.
    store = Store(path, AgeClock(lambda: False, time.time), _no_report, limits)
    store.open()
    try:
        if store.skipped:
            raise OutboxError(f"{path}: is an older copy; start the agent once, so that it can say what is missing")
        yield store
    finally:
        store.close()


def _no_report(kind: str, data: SinkLosses) -> Draft:
    raise OutboxError(f"{kind} is for the agent to tell: {data}")
