"""The transactions of the outbox. One thread owns a ``Store``; everything about threads is in ``writer.py``."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_agent.errors import OutboxCorrupt, OutboxError
from edge_agent.outbox import positions
from edge_agent.outbox.account import Account
from edge_agent.outbox.books import Books, Held, SinkBook
from edge_agent.outbox.clock import AgeClock
from edge_agent.outbox.ledger import SinkLosses
from edge_agent.outbox.limits import Limits
from edge_agent.outbox.messages import ROW_BITS, Draft, Priority, Row, sequence_text
from edge_agent.outbox.ranges import Range, joined
from edge_agent.outbox.records import Committed, Episode, Refusal, span
from edge_agent.outbox.removal import Removal
from edge_agent.outbox.schema import connect, pragma, size_on_disk, translated
from edge_agent.outbox.sequence import BLOCK, SequenceRecord
from edge_agent.types import Event

log = logging.getLogger(__name__)

_FREE_PAGES = 256  # a free megabyte is kept for the next backlog; rewriting the file for less wears flash out
_RETIRE_S = 60.0


class Store:
    """SQLite behind the writer thread. Every method may raise OutboxError (later, again) or OutboxCorrupt.

    ``make_report`` turns a kind (``outbox_drops``, ``dead_letter``) and its data into the event that tells it.
    """

    def __init__(
        self, path: Path, age: AgeClock, make_report: Callable[[str, SinkLosses], Draft], limits: Limits
    ) -> None:
        self._path, self._age, self._make_report, self.limits = path, age, make_report, limits
        self._record = SequenceRecord(path.with_name(path.name + ".sequence"))
        self._cx: sqlite3.Connection | None = None
        self._met = False
        self._next_retire = 0.0
        self.books = Books()
        self.skipped = False
        """Whether ``open`` jumped over sequence numbers because the database had been lost or was an old copy."""

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._cx is not None

    @property
    def _open_cx(self) -> sqlite3.Connection:
        if self._cx is None:
            raise OutboxError("the database is not open")
        return self._cx

    def open(self) -> None:
        """Connect and take up the books; after a loss of the database go on above every number ever used."""
        cx = connect(self._path, self.limits.wal_pages)
        try:
            with translated("read the counters"):
                meta: dict[str, Any] = dict(cx.execute("SELECT key, value FROM meta"))
            books = self._take_up(meta)
            with self._transaction(cx):
                if self._enter(cx, books, new="sequence" not in meta):
                    # Before the record is written: a record without counters means a lost database.
                    self._save(cx, books)
        except BaseException:
            cx.close()
            raise
        self.books, self._cx, self._met = books, cx, True

    def _take_up(self, meta: Mapping[str, Any]) -> Books:
        try:
            books = Books.taken_up(meta)
            if self._met:  # what was lost is in memory, and what the disk says may be of an earlier commit
                books.number = max(books.number, self.books.number)
                books.sequence = max(books.sequence, self.books.sequence)
                books.losses = self.books.losses
            else:
                self._age.resume(float(meta.get("age", 0.0)), meta.get("wall"))
                self._check_sequence(books, new="sequence" not in meta)
                for (kind, sink), lost in self.books.losses.items():  # before the first open
                    books.lost(kind, sink).restore(lost.data())
                    books.lost(kind, sink).total = dict(lost.total)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise OutboxCorrupt(f"read the counters: {error!r}") from error
        return books

    def _enter(self, cx: sqlite3.Connection, books: Books, *, new: bool) -> bool:
        """Make the books those of the sinks that count now; whether that changed them."""
        known, wanted = set(books.sinks), set(self.limits.sinks)
        if known - wanted:
            log.warning("outbox: no longer kept for %s, which is not in use", ", ".join(sorted(known - wanted)))
            positions.remove_strangers(cx, self.limits.sinks)
            books.sinks = {name: book for name, book in books.sinks.items() if name in wanted}
            for priority in Priority:
                query = "SELECT count(*) FROM message WHERE row>=? AND row<?"
                books.depth[priority] = cx.execute(query, span(priority)).fetchone()[0]
        for name in sorted(wanted - known):
            held = {p: Held(*positions.count(cx, name, p)) for p in Priority}
            books.sinks[name] = SinkBook(held, self._account(cx, name, books, new=new))
        Removal(cx, books, self.limits).pass_over(_rows(cx), wanted - known)
        return new or known != wanted

    def _account(self, cx: sqlite3.Connection, sink: str, books: Books, *, new: bool) -> Account:
        if sink in self.books.sinks:  # of this process, whose database was lost
            return self.books.sinks[sink].account
        if new:
            return Account()
        oldest = next(positions.head(cx, sink, Priority.EVENT), None)
        return Account(books.sequence + 1 if oldest is None else oldest.sequence or 1)

    @contextlib.contextmanager
    def _transaction(self, cx: sqlite3.Connection | None = None) -> Iterator[sqlite3.Connection]:
        cx = cx or self._open_cx
        with translated("commit"):
            try:
                cx.execute("BEGIN IMMEDIATE")
                yield cx
                cx.execute("COMMIT")
            except BaseException:
                if cx.in_transaction:
                    cx.execute("ROLLBACK")
                raise

    def _check_sequence(self, books: Books, *, new: bool) -> None:
        """A database that lags the record by more than it can is new, or an old copy: its numbers may have been used."""
        reserved = self._record.reserved
        if reserved > books.sequence + 2 * BLOCK or (reserved and new):
            self.skipped = True
            books.sequence = reserved

    def close(self) -> None:
        """Let go of the file; SQLite folds the log into the database."""
        cx, self._cx = self._cx, None
        if cx is not None:
            with translated("close"):
                cx.close()

    def commit(
        self,
        drafts: Sequence[Draft],
        done: Mapping[str, Collection[int]] | None = None,
        refused: Sequence[Refusal] = (),
        *,
        clock_ok: bool,
        utc: float,
        tell: Collection[str] = (),
        explained: Sequence[Range] = (),
    ) -> list[Committed]:
        """One transaction: store ``drafts``, forget ``done`` (by sink), bury ``refused``, keep the bounds, report losses.

        Those of the kinds ``tell``, and of any kind where they would not fit in one report. One of the drafts tells what
        became of the sequence numbers ``explained``. All of it, or an exception.
        """
        self._age.settle()
        books, now = self.books.copy(), self._age.now()
        self._record.reserve(books.sequence + len(drafts))
        with self._transaction() as cx:
            removal = Removal(cx, books, self.limits)
            stored = [self._insert(cx, draft, books, clock_ok) for draft in drafts]
            removal.pass_over(made.row for made in stored)
            for sink, rows in (done or {}).items():
                removal.forget(sink, rows)
            removal.bury(refused, utc)
            removal.drop_old(now)
            if now >= self._next_retire:
                removal.retire_dead(now)
            removal.drop_surplus()
            for book in books.sinks.values():
                book.account.lose(explained)
            reports = list(self._reports(books, tell))
            self._record.reserve(books.sequence + len(reports))
            told = [self._insert(cx, draft, books, clock_ok) for draft in reports]
            removal.pass_over(made.row for made in told)
            self._save(cx, books)
        self.books = books
        if now >= self._next_retire:
            self._next_retire = now + _RETIRE_S
        return stored + told

    def _reports(self, books: Books, tell: Collection[str]) -> Iterator[Draft]:
        for (kind, sink), losses in books.losses.items():
            due = kind in tell
            while losses.crowded or (due and losses):
                yield self._make_report(kind, {"sink": sink, **losses.report()})
                due = False

    def adopt(self, rows: Iterable[Row], episodes: Iterable[Episode]) -> None:
        """Take in what was recovered from a damaged database, under the same row ids; what is there already is left as it is.

        All of it waits for every sink: what some had already is delivered to them again rather than lost to the others.
        """
        with self.edit() as (cx, books):
            for row in rows:
                values = (row.row, row.sequence, self._age.now(), row.topic, row.payload)
                if cx.execute("INSERT OR IGNORE INTO message VALUES (?,?,?,?,?)", values).rowcount:
                    books.take_in(row.priority, positions.cost(row))
                books.number = max(books.number, row.row & (1 << ROW_BITS) - 1)
                books.sequence = max(books.sequence, row.sequence or 0)
            cx.executemany("INSERT OR IGNORE INTO episode VALUES (?,?,?,?,?,?,?)", episodes)
            Removal(cx, books, self.limits).pass_over(_rows(cx))

    @contextlib.contextmanager
    def edit(self) -> Iterator[tuple[sqlite3.Connection, Books]]:
        """One transaction that changes rows and the books together."""
        books = self.books.copy()
        with self._transaction() as cx:
            yield cx, books
            self._save(cx, books)
        self.books = books

    def unexplained(self) -> list[Range]:
        """Sequence numbers that neither wait nor came to an end that a sink's account knows."""
        with translated("read the sequence numbers"):
            query = "SELECT sequence FROM message WHERE row>=? AND row<? AND sequence IS NOT NULL ORDER BY row"
            here = joined((n, n) for (n,) in self._open_cx.execute(query, span(Priority.EVENT)))
        books = self.books
        return joined(r for book in books.sinks.values() for r in book.account.unexplained(books.sequence, here))

    def _insert(self, cx: sqlite3.Connection, draft: Draft, books: Books, clock_ok: bool) -> Committed:
        books.number += 1
        row_id, sequence = (draft.priority << ROW_BITS) + books.number, None
        if draft.event is not None:
            books.sequence = sequence = books.sequence + 1
            self._note_episode(cx, draft.event, draft.doc)
        row = Row(row_id, sequence, draft.topic, draft.payload(sequence, clock_ok))
        cx.execute(
            "INSERT INTO message VALUES (?,?,?,?,?)", (row_id, sequence, self._age.now(), row.topic, row.payload)
        )
        books.take_in(row.priority, positions.cost(row))
        if sequence is None:
            return Committed(row, None)
        return Committed(row, {**draft.doc, "sequence": sequence_text(sequence), "clockok": clock_ok})

    @staticmethod
    def _note_episode(cx: sqlite3.Connection, event: Event, doc: Mapping[str, Any]) -> None:
        if event.phase == "ended":
            cx.execute("DELETE FROM episode WHERE episode=?", (event.episode,))
        elif event.phase is not None:
            cx.execute(
                "INSERT INTO episode VALUES (?,?,?,?,?,?,?)"
                " ON CONFLICT (episode) DO UPDATE SET updated=max(updated, excluded.updated), data=excluded.data",
                (
                    event.episode,
                    event.camera,
                    event.use_case,
                    event.what,
                    event.utc,
                    event.utc,
                    json.dumps(doc["data"]),
                ),
            )

    def _save(self, cx: sqlite3.Connection, books: Books) -> None:
        age, wall = self._age.mark()
        values = {**books.rows(), "age": age, "wall": wall}
        cx.executemany("INSERT OR REPLACE INTO meta VALUES (?,?)", values.items())

    def shrink(self) -> bool:
        """Give free space back to the file system, a piece at each call; whether there is more."""
        cx = self._open_cx
        with translated("shrink"):
            if pragma(cx, "freelist_count") <= _FREE_PAGES:
                return False
            # One page comes free with each step of this statement, and ``execute`` makes only the first.
            cx.executescript(f"PRAGMA incremental_vacuum({8 * _FREE_PAGES})")
            if pragma(cx, "freelist_count") <= _FREE_PAGES:
                cx.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                return False
            return True

    def oldest(self) -> dict[str, float]:
        """For each sink that something waits for: the age clock at the birth of the oldest."""
        with translated("read the oldest"):
            heads = {
                sink: [next(positions.head(self._open_cx, sink, p), None) for p in Priority if book.held[p].rows > 0]
                for sink, book in self.books.sinks.items()
            }
        return {sink: min(row.born for row in rows if row) for sink, rows in heads.items() if any(rows)}

    def size(self) -> int:
        """Bytes on disk."""
        return size_on_disk(self._path)

    def episodes(self) -> list[Episode]:
        """Every open episode."""
        with translated("read the open episodes"):
            return [Episode(*row) for row in self._open_cx.execute("SELECT * FROM episode ORDER BY started")]


def _rows(cx: sqlite3.Connection) -> Iterator[Row]:
    for found in cx.execute("SELECT row, sequence, topic, payload FROM message"):
        yield Row(*found)
