"""Is an outbox whole, do its books agree with its rows, and is every sequence number accounted for?"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_agent.errors import OutboxCorrupt
from edge_agent.outbox import positions
from edge_agent.outbox.books import Books
from edge_agent.outbox.inspection import opened, taken_up
from edge_agent.outbox.ledger import sequences_data
from edge_agent.outbox.messages import ROW_BITS, Priority
from edge_agent.outbox.ranges import Range, joined, missing
from edge_agent.outbox.records import span
from edge_agent.outbox.schema import translated
from edge_agent.outbox.sequence import SequenceRecord


@dataclass(slots=True)
class Verdict:
    """``problems`` is empty when all is well. ``sinks`` tells for each what became of the sequence numbers."""

    problems: list[str] = field(default_factory=list)
    sequence: int = 0
    sinks: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.problems


def verify(path: Path) -> Verdict:
    """Look at everything, in one reading transaction: beside a running agent its log grows meanwhile. Raises OutboxError."""
    verdict = Verdict()
    with opened(path) as cx:
        try:
            with translated("verify"):
                cx.execute("BEGIN")
                verdict.problems += [f"damaged: {text}" for text in _damage(cx)]
                books = taken_up(cx)
                verdict.sequence = books.sequence
                verdict.problems += _disagreements(cx, books)
                verdict.problems += _bad_rows(cx, books)
                verdict.problems += _gaps(cx, books, verdict)
        except OutboxCorrupt as error:
            verdict.problems.append(f"damaged: {error}")
    reserved = SequenceRecord(path.with_name(path.name + ".sequence")).reserved
    if reserved < verdict.sequence:
        verdict.problems.append(
            f"{path.name}.sequence allows numbers up to {reserved}, given were {verdict.sequence}: it is old or unreadable"
        )
    return verdict


def _damage(cx: sqlite3.Connection) -> list[str]:
    found = [row[0] for row in cx.execute("PRAGMA integrity_check(20)")]
    return [] if found == ["ok"] else found


def _disagreements(cx: sqlite3.Connection, books: Books) -> Iterator[str]:
    for priority in Priority:
        query = "SELECT count(*), max(row) FROM message WHERE row>=? AND row<?"
        rows, newest = cx.execute(query, span(priority)).fetchone()
        if rows != books.depth[priority]:
            yield f"{rows} {priority.plural} are stored, counted were {books.depth[priority]}"
        if newest is not None and newest & (1 << ROW_BITS) - 1 > books.number:
            yield f"a row of the {priority.plural} has a number that was not given yet: {newest}"
        for name, book in books.sinks.items():
            found, held = positions.count(cx, name, priority), book.held[priority]
            if found != (held.rows, held.bytes):
                yield (
                    f"{found[0]} {priority.plural} of {found[1]} bytes wait for {name},"
                    f" counted were {held.rows} of {held.bytes}"
                )
    (stray,) = cx.execute("SELECT count(*) FROM beyond WHERE row NOT IN (SELECT row FROM message)").fetchone()
    if stray:
        yield f"{stray} notes of sinks belong to no row"


def _bad_rows(cx: sqlite3.Connection, books: Books) -> Iterator[str]:
    last = span(Priority.EVENT)[1]
    for row, sequence, payload in cx.execute("SELECT row, sequence, payload FROM message ORDER BY row"):
        if (row < last) != (sequence is not None) or (sequence or 0) > books.sequence:
            yield f"row {row} has the sequence number {sequence}, given were {books.sequence}"
        try:
            doc = json.loads(payload)
        except ValueError:
            yield f"row {row}: its content is no JSON"
            continue
        if sequence is not None and int(doc.get("sequence", -1)) != sequence:
            yield f"row {row}: its content has the sequence number {doc.get('sequence')}, the row {sequence}"


def _gaps(cx: sqlite3.Connection, books: Books, verdict: Verdict) -> Iterator[str]:
    for name, book in books.sinks.items():
        numbers = [row.sequence for row in positions.head(cx, name, Priority.EVENT) if row.sequence is not None]
        waiting = joined((n, n) for n in numbers)
        account = book.account
        unexplained = account.unexplained(books.sequence, waiting)
        verdict.sinks[name] = {
            "from": account.start,
            "to": books.sequence,
            "delivered": sequences_data(account.delivered),
            "waiting": sequences_data(waiting),
            "lost": sequences_data(account.lost),
            "unexplained": sequences_data(unexplained),
        }
        for first, last in unexplained:
            yield f"{name}: the sequence numbers {first} to {last} are nowhere: not waiting, delivered, dropped or refused"
        for first, last in _twice(account.delivered, waiting):
            yield f"{name}: the sequence numbers {first} to {last} wait, and were delivered already"


def _twice(delivered: list[Range], waiting: list[Range]) -> list[Range]:
    """The numbers that are in both."""
    if not delivered or not waiting:
        return []
    top = max(delivered[-1][1], waiting[-1][1])
    return missing(0, top, joined([*missing(0, top, delivered), *missing(0, top, waiting)]))
