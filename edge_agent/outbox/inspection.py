"""Looking into an outbox from outside, also beside a running agent: read-only, and never for long in one go."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_agent.errors import OutboxCorrupt, OutboxError
from edge_agent.outbox import positions
from edge_agent.outbox.books import Books
from edge_agent.outbox.messages import ROW_BITS, Priority, sequence_text
from edge_agent.outbox.records import span
from edge_agent.outbox.recover import aside
from edge_agent.outbox.schema import BUSY_S, MIGRATIONS, connect_reader, files, pragma, size_on_disk, translated

_PAGE = 200


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that can only read. Raises OutboxError where there is none, or another version wrote it."""
    if not path.is_file():
        raise OutboxError(f"{path}: there is no outbox; the agent makes it at its first start")
    cx = _connect(path)
    try:
        if (schema := pragma(cx, "user_version")) != len(MIGRATIONS):
            who = "an older version: start the agent once" if schema < len(MIGRATIONS) else "a newer version"
            raise OutboxError(f"{path}: written by {who} (schema {schema}, this is {len(MIGRATIONS)})")
        yield cx
    finally:
        cx.close()


def _connect(path: Path) -> sqlite3.Connection:
    try:
        return connect_reader(path)
    except OutboxCorrupt as error:
        raise OutboxCorrupt(f"{error}; the next start of the agent saves what can be read") from error
    except OutboxError as error:
        # In a folder that we may not write, SQLite cannot keep its shared memory; without a log none is needed.
        if files(path)[1].exists():
            raise OutboxError(f"{error}; run as the agent's user or as root") from error
        with translated(f"open {path.name} to read"):
            uri = f"{path.absolute().as_uri()}?immutable=1"
            return sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)


@contextlib.contextmanager
def _snapshot(cx: sqlite3.Connection) -> Iterator[Books]:
    """All that is read inside is of one moment."""
    with translated("read"):
        cx.execute("BEGIN")
        try:
            yield taken_up(cx)
        finally:
            cx.execute("ROLLBACK")


def taken_up(cx: sqlite3.Connection) -> Books:
    """The books as the last commit left them. Raises OutboxCorrupt."""
    try:
        return Books.taken_up(dict(cx.execute("SELECT key, value FROM meta")))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OutboxCorrupt(f"the counters cannot be read: {error!r}") from error


def stat(path: Path) -> dict[str, Any]:
    """What waits for whom, what is dead and why, what has not been told yet. Raises OutboxError."""
    with opened(path) as cx, _snapshot(cx) as books:
        now = _now(cx)
        dead = cx.execute(
            "SELECT sink, reason, code, count(*), min(sequence), max(sequence), min(refused), max(refused) FROM dead_letter"
            " GROUP BY sink, reason, code ORDER BY count(*) DESC"
        ).fetchall()
        names = ("sink", "reason", "code", "count", "first_sequence", "last_sequence", "first_refused", "last_refused")
        return {
            "path": str(path),
            "bytes": size_on_disk(path),
            "sequence": books.sequence,
            "depth": {p.plural: n for p, n in books.depth.items()},
            "sinks": {name: _sink(cx, name, books, now) for name in books.sinks},
            "dead": [dict(zip(names, row, strict=True)) for row in dead],
            "not_told": {f"{kind}/{sink}": lost.data() for (kind, sink), lost in books.losses.items() if lost},
            "set_aside": aside(path).name if aside(path).exists() else None,
        }


def _sink(cx: sqlite3.Connection, name: str, books: Books, now: float) -> dict[str, Any]:
    book = books.sinks[name]
    oldest = [row.born for p in Priority if (row := next(positions.head(cx, name, p), None)) is not None]
    return {
        "depth": {p.plural: held.rows for p, held in book.held.items()},
        "bytes": book.bytes,
        "oldest_age_s": round(max(0.0, now - min(oldest)), 1) if oldest else None,
    }


def _now(cx: sqlite3.Connection) -> float:
    """The age clock: its last mark, and the time since then where the wall clock was known to be right."""
    meta = dict(cx.execute("SELECT key, value FROM meta WHERE key IN ('age', 'wall')"))
    age, wall = meta.get("age"), meta.get("wall")
    return float(age or 0.0) + (max(0.0, time.time() - float(wall)) if wall is not None else 0.0)


def export_waiting(path: Path, sink: str | None = None) -> Iterator[dict[str, Any]]:
    """Every message that waits, or those that wait for one sink; in order within a priority. Raises OutboxError."""
    with opened(path) as cx:
        with _snapshot(cx) as books:
            names = _known(books, sink)
        for priority in Priority:
            after, end = span(priority)[0] - 1, span(priority)[1]
            while page := _rows(
                cx,
                "SELECT row, sequence, topic, payload FROM message WHERE row>? AND row<? ORDER BY row LIMIT ?",
                (after, end, _PAGE),
            ):
                ids = [row[0] for row in page]
                with translated("read"):
                    waits = {name: {row.row for row in positions.among(cx, name, priority, ids)} for name in names}
                for row, sequence, topic, payload in page:
                    for_whom = [name for name in names if row in waits[name]]
                    if for_whom:
                        yield {"state": "waiting", "sinks": for_whom, **_message(row, sequence, topic, payload)}
                after = ids[-1]


def export_dead(path: Path, sink: str | None = None) -> Iterator[dict[str, Any]]:
    """Every dead letter, or one sink's; in the order of refusal. Raises OutboxError."""
    with opened(path) as cx:
        after = 0
        query = (
            "SELECT number, sink, refused, code, reason, row, sequence, topic, payload FROM dead_letter"
            " WHERE number>? AND coalesce(?=sink, 1) ORDER BY number LIMIT ?"
        )
        while page := _rows(cx, query, (after, sink, _PAGE)):
            for _, name, refused, code, reason, *message in page:
                why = {"sink": name, "refused": refused, "code": code, "reason": reason}
                yield {"state": "dead", **why, **_message(*message)}
            after = page[-1][0]


def _rows(cx: sqlite3.Connection, query: str, values: tuple[Any, ...]) -> list[Any]:
    with translated("read"):
        return cx.execute(query, values).fetchall()


def _known(books: Books, sink: str | None) -> list[str]:
    if sink is not None and sink not in books.sinks:
        raise OutboxError(f"nothing is kept for a sink {sink!r}; there is {', '.join(sorted(books.sinks)) or 'none'}")
    return sorted(books.sinks) if sink is None else [sink]


def _message(row: int, sequence: int | None, topic: str, payload: bytes) -> dict[str, Any]:
    try:
        content = json.loads(payload)
    except ValueError:
        content = payload.decode("utf-8", "replace")
    number = None if sequence is None else sequence_text(sequence)
    return {
        "priority": Priority(row >> ROW_BITS).plural,
        "row": row,
        "sequence": number,
        "topic": topic,
        "payload": content,
    }
