"""How far each sink is: a low-water mark for each priority, and the rows beyond it that the sink is done with.

A row waits for a sink while it lies above its mark and is not noted beyond it; when it waits for none, it is deleted. With
one sink a row is deleted as soon as that is done with it, so mark and notes stay as they are and cost no write.
Everything here happens inside the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from edge_agent.outbox.messages import ROW_BITS, Priority, Row
from edge_agent.outbox.records import span

OVERHEAD = 32
"""Bytes that SQLite needs to hold a row, about."""
COST = f"length(payload) + length(topic) + {OVERHEAD}"
"""Bytes of a row as the bounds count them."""
# One lower bound, so that SQLite begins to look there and not at the oldest row of all.
ABOVE = "row > max(:after, coalesce((SELECT low FROM mark WHERE sink=:sink AND priority=:priority), 0))"
UNNOTED = "NOT EXISTS (SELECT 1 FROM beyond WHERE beyond.sink=:sink AND beyond.row=message.row)"
_CHUNK = 500


class Waiting(NamedTuple):
    """A row in brief; ``born`` on the age clock, ``cost`` in bytes."""

    row: int
    sequence: int | None
    born: float
    cost: int

    @property
    def priority(self) -> Priority:
        """Its place in the order of importance."""
        return Priority(self.row >> ROW_BITS)


def cost(row: Row) -> int:
    """What ``COST`` says of it."""
    return len(row.payload) + len(row.topic) + OVERHEAD


def head(cx: sqlite3.Connection, sink: str, priority: Priority) -> Iterator[Waiting]:
    """The rows that wait for a sink, the oldest first; read as they are taken, so take them before anything is changed."""
    query = f"SELECT row, sequence, born, {COST} FROM message WHERE {ABOVE} AND row<:end AND {UNNOTED} ORDER BY row"
    for row in cx.execute(query, _values(sink, priority)):
        yield Waiting(*row)


def count(cx: sqlite3.Connection, sink: str, priority: Priority) -> tuple[int, int]:
    """Rows and bytes that wait for a sink, by looking at each."""
    query = f"SELECT count(*), coalesce(sum({COST}), 0) FROM message WHERE {ABOVE} AND row<:end AND {UNNOTED}"
    rows, size = cx.execute(query, _values(sink, priority)).fetchone()
    return rows, size


def settle(
    cx: sqlite3.Connection, sink: str, rows: Collection[int], sinks: Collection[str]
) -> tuple[list[Waiting], list[int]]:
    """The sink is done with ``rows``. Those of them that had waited for it, and the ids of those that went for good."""
    settled: list[Waiting] = []
    gone: list[int] = []
    others = [name for name in sinks if name != sink]
    for priority in Priority:
        found = among(cx, sink, priority, sorted({row for row in rows if row >> ROW_BITS == priority}))
        ids = [row.row for row in found]
        kept = {row.row for other in others for row in among(cx, other, priority, ids)}
        if kept:
            _note(cx, sink, priority, ids, kept)
        done = [row for row in ids if row not in kept]
        cx.executemany("DELETE FROM message WHERE row=?", [(row,) for row in done])
        cx.executemany("DELETE FROM beyond WHERE sink=? AND row=?", [(name, row) for name in others for row in done])
        settled += found
        gone += done
    return settled, gone


def _note(cx: sqlite3.Connection, sink: str, priority: Priority, ids: Sequence[int], kept: Collection[int]) -> None:
    """Move the mark over what is settled without a hole; what lies beyond a hole is noted row by row."""
    first, end = span(priority)
    through, hole = 0, None
    for row in head(cx, sink, priority):
        if through == len(ids) or row.row != ids[through]:
            hole = row.row
            break
        through += 1
    if through:
        newest = cx.execute("SELECT max(row) FROM message WHERE row<?", (end,)).fetchone()[0]
        low = newest if hole is None else hole - 1
        cx.execute("INSERT OR REPLACE INTO mark VALUES (?,?,?)", (sink, priority, low))
        cx.execute("DELETE FROM beyond WHERE sink=? AND row>=? AND row<=?", (sink, first, low))
    cx.executemany("INSERT INTO beyond VALUES (?,?)", [(sink, row) for row in ids[through:] if row in kept])


def remove_strangers(cx: sqlite3.Connection, sinks: Sequence[str]) -> None:
    """Forget every sink but ``sinks``, and delete what waits for none of these."""
    for table in ("mark", "beyond"):
        for (name,) in cx.execute(f"SELECT DISTINCT sink FROM {table}").fetchall():
            if name not in sinks:
                cx.execute(f"DELETE FROM {table} WHERE sink=?", (name,))
    waits = " OR ".join(f"({ABOVE} AND {UNNOTED})".replace(":sink", f":sink{n}") for n in range(len(sinks)))
    named = {f"sink{n}": sink for n, sink in enumerate(sinks)}
    for priority in Priority:
        values = _values("", priority) | named
        cx.execute(f"DELETE FROM message WHERE row>:after AND row<:end AND NOT ({waits})", values)
    cx.execute("DELETE FROM beyond WHERE row NOT IN (SELECT row FROM message)")


def among(cx: sqlite3.Connection, sink: str, priority: Priority, ids: Sequence[int]) -> list[Waiting]:
    """Those of ``ids`` (ascending, of this priority) that wait for a sink."""
    found: list[Waiting] = []
    for start in range(0, len(ids), _CHUNK):
        listed = ",".join(map(str, ids[start : start + _CHUNK]))  # numbers of our own: nothing to escape
        query = (
            f"SELECT row, sequence, born, {COST} FROM message"
            f" WHERE row IN ({listed}) AND +{ABOVE} AND {UNNOTED} ORDER BY row"  # +: looked up by the list, not by a range
        )
        found += [Waiting(*row) for row in cx.execute(query, _values(sink, priority))]
    return found


def _values(sink: str, priority: Priority) -> dict[str, str | int]:
    first, end = span(priority)
    return {"sink": sink, "priority": int(priority), "after": first - 1, "end": end}
