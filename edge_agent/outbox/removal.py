"""How rows leave the store: delivered, refused, too old, or too many. All of it inside the caller's transaction.

``counters`` and ``losses`` (by kind) are brought up to what was done.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile

from edge_agent.outbox.ledger import Losses
from edge_agent.outbox.messages import ROW_BITS, Priority, Row
from edge_agent.outbox.records import DEAD, DROPS, Counters, Refusal, span
from edge_agent.outbox.schema import pragma
from edge_agent.types import DEVICE, rfc3339

MAX_DEAD_LETTERS = 1000
_CHUNK = 64
_REPORTS = (f"events/{DEVICE}/{DROPS}", f"events/{DEVICE}/{DEAD}")


def forget(cx: sqlite3.Connection, rows: Iterable[int], counters: Counters) -> None:
    """Delete; a row that a bound has already dropped is not counted twice."""
    by_priority: dict[Priority, list[tuple[int]]] = {}
    for row in rows:
        by_priority.setdefault(Priority(row >> ROW_BITS), []).append((row,))
    for priority, ids in by_priority.items():
        counters.depth[priority] -= cx.executemany("DELETE FROM message WHERE row=?", ids).rowcount


def bury(
    cx: sqlite3.Connection, refused: Sequence[Refusal], counters: Counters, losses: Mapping[str, Losses], utc: float
) -> None:
    """Move to the dead letters, of which the last thousand are kept."""
    for row_id, code, reason in refused:
        found = cx.execute("SELECT row, sequence, topic, payload FROM message WHERE row=?", (row_id,)).fetchone()
        if found is None:
            continue
        row = Row(*found)
        forget(cx, [row_id], counters)
        values = (row_id, row.sequence, rfc3339(utc), code, reason, row.topic, row.payload)
        cx.execute("INSERT OR REPLACE INTO dead_letter VALUES (?,?,?,?,?,?,?)", values)
        if not row.topic.startswith(_REPORTS):  # the report of a refused report would be refused too, for ever
            losses[DEAD].add(row.priority, reason, sequences=_known([row]))
    if refused:
        cx.execute(
            "DELETE FROM dead_letter WHERE row NOT IN (SELECT row FROM dead_letter ORDER BY refused DESC LIMIT ?)",
            (MAX_DEAD_LETTERS,),
        )


def drop_old(cx: sqlite3.Connection, counters: Counters, losses: Mapping[str, Losses], before: float) -> None:
    """Those born ``before``, in seconds of the age clock. Rows lie in the order of their birth: usually one is looked at."""
    for priority in Priority:
        while counters.depth[priority]:
            old = [row for row, _ in takewhile(lambda found: found[1] < before, _head(cx, priority))]
            if not old:
                break
            _drop(cx, priority, old, "max_age_days", counters=counters, losses=losses)


def drop_surplus(cx: sqlite3.Connection, counters: Counters, losses: Mapping[str, Losses], max_pages: int) -> None:
    """Down to 95 % of the budget, so that a full outbox does not drop at each commit."""
    if _used_pages(cx) <= max_pages:
        return
    cx.execute(
        "DELETE FROM dead_letter WHERE row IN (SELECT row FROM dead_letter ORDER BY refused LIMIT ?)",
        (MAX_DEAD_LETTERS,),
    )
    while _used_pages(cx) > max_pages * 0.95:
        worst = next((p for p in reversed(Priority) if counters.depth[p] > 0), None)
        if worst is None:
            return
        head = [row for row, _ in _head(cx, worst)]
        if not head:  # the counter and the rows disagree: believe the rows
            counters.depth[worst] = 0
        _drop(cx, worst, head, "max_mb", counters=counters, losses=losses)


def _head(cx: sqlite3.Connection, priority: Priority) -> Iterator[tuple[Row, float]]:
    """The oldest of a priority, with their births; read as they are taken."""
    for row, sequence, topic, payload, born in cx.execute(
        "SELECT row, sequence, topic, payload, born FROM message WHERE row>=? AND row<? ORDER BY row LIMIT ?",
        (*span(priority), _CHUNK),
    ):
        yield Row(row, sequence, topic, payload), born


def _drop(
    cx: sqlite3.Connection,
    priority: Priority,
    rows: Sequence[Row],
    reason: str,
    *,
    counters: Counters,
    losses: Mapping[str, Losses],
) -> None:
    forget(cx, [row.row for row in rows], counters)
    for row in rows:
        if row.topic.startswith(_REPORTS):  # what it explained must still be explained
            with contextlib.suppress(ValueError, KeyError):  # recovered from a damaged file
                losses[row.topic.rpartition("/")[2]].restore(json.loads(row.payload)["data"])
    if rows:
        losses[DROPS].add(priority, reason, len(rows), _known(rows))


def _used_pages(cx: sqlite3.Connection) -> int:
    return pragma(cx, "page_count") - pragma(cx, "freelist_count")


def _known(rows: Iterable[Row]) -> list[int]:
    return [row.sequence for row in rows if row.sequence is not None]
