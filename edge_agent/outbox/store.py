"""The transactions of the outbox. One thread owns a ``Store``; everything about threads is in ``writer.py``."""

from __future__ import annotations

import contextlib
import copy
import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edge_agent.errors import OutboxCorrupt, OutboxError
from edge_agent.outbox import removal
from edge_agent.outbox.clock import AgeClock
from edge_agent.outbox.ledger import Losses
from edge_agent.outbox.messages import ROW_BITS, Draft, Priority, Row, sequence_text
from edge_agent.outbox.records import DEAD, DROPS, Committed, Counters, Episode, Refusal, span
from edge_agent.outbox.schema import PAGE, connect, pragma, size_on_disk, translated
from edge_agent.outbox.sequence import BLOCK, SequenceRecord
from edge_agent.types import Event

_FREE_PAGES = 256  # a free megabyte is kept for the next backlog; rewriting the file for less wears flash out


class Store:
    """SQLite behind the writer thread. Every method may raise OutboxError (later, again) or OutboxCorrupt.

    ``make_report`` turns a kind (``outbox_drops``, ``dead_letter``) and its data into the event that tells it.
    """

    def __init__(
        self,
        path: Path,
        age: AgeClock,
        make_report: Callable[[str, dict[str, Any]], Draft],
        *,
        max_bytes: int,
        max_age_s: float,
    ) -> None:
        self._path, self._age, self._make_report, self._max_age_s = path, age, make_report, max_age_s
        self._wal_pages = max(16, min(1000, max_bytes // 8 // PAGE))
        self._max_pages = max(24, max_bytes // PAGE - 2 * self._wal_pages)
        self.max_transaction = max(PAGE, max_bytes // 32)
        """Bytes of messages in one commit; SQLite's log holds all of them a second time."""
        self._record = SequenceRecord(path.with_name(path.name + ".sequence"))
        self._cx: sqlite3.Connection | None = None
        self.counters = Counters()
        self.losses = {DROPS: Losses(), DEAD: Losses()}
        self.skipped: tuple[int, int] | None = None
        """Sequence numbers jumped over at ``open`` because the database had been lost or was an old copy."""

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
        """Connect and take up the counters; after a loss of the database go on above every number ever used."""
        cx = connect(self._path, self._wal_pages)
        try:
            with translated("read the counters"):
                meta: dict[str, Any] = dict(cx.execute("SELECT key, value FROM meta"))
            self.counters = self._take_up(meta)
        except BaseException:
            cx.close()
            raise
        self._cx = cx
        if "sequence" not in meta:  # before the record is written: a record without counters means a lost database
            with self._transaction():
                self._save(cx, self.counters)

    def _take_up(self, meta: dict[str, Any]) -> Counters:
        try:
            counters = Counters(
                number=max(self.counters.number, int(meta.get("number", 0))),
                sequence=max(self.counters.sequence, int(meta.get("sequence", 0))),
                depth={p: int(meta.get(f"depth.{p.plural}", 0)) for p in Priority},
            )
            if not self.counters.number:  # the first time in this process
                for kind, data in json.loads(meta.get("losses", "{}")).items():
                    self.losses[kind].restore(data)
                self._age.resume(float(meta.get("age", 0.0)), meta.get("wall"))
                self._check_sequence(counters, new="sequence" not in meta)
        except (ValueError, TypeError, KeyError) as error:
            raise OutboxCorrupt(f"read the counters: {error!r}") from error
        return counters

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        cx = self._open_cx
        with translated("commit"):
            try:
                cx.execute("BEGIN IMMEDIATE")
                yield cx
                cx.execute("COMMIT")
            except BaseException:
                if cx.in_transaction:
                    cx.execute("ROLLBACK")
                raise

    def _check_sequence(self, counters: Counters, *, new: bool) -> None:
        """A database that lags the record by more than it can is new, or an old copy: its numbers may have been used."""
        reserved = self._record.reserved
        if reserved > counters.sequence + 2 * BLOCK or (reserved and new):
            self.skipped = (counters.sequence + 1, reserved)
            counters.sequence = reserved

    def close(self) -> None:
        """Let go of the file; SQLite folds the log into the database."""
        cx, self._cx = self._cx, None
        if cx is not None:
            with translated("close"):
                cx.close()

    def commit(
        self,
        drafts: Sequence[Draft],
        done: Collection[int] = (),
        refused: Sequence[Refusal] = (),
        *,
        clock_ok: bool,
        utc: float,
        tell: Collection[str] = (),
    ) -> list[Committed]:
        """One transaction: store ``drafts``, forget ``done``, bury ``refused``, keep the bounds, report losses.

        Those of the kinds ``tell``, and of any kind where they would not fit in one report. All of it, or an exception.
        """
        self._age.settle()
        counters, losses = self.counters.copy(), copy.deepcopy(self.losses)
        self._record.reserve(counters.sequence + len(drafts))
        try:
            with self._transaction() as cx:
                stored = [self._insert(cx, draft, counters, clock_ok) for draft in drafts]
                removal.forget(cx, done, counters)
                removal.bury(cx, refused, counters, self.losses, utc)
                removal.drop_old(cx, counters, self.losses, self._age.now() - self._max_age_s)
                removal.drop_surplus(cx, counters, self.losses, self._max_pages)
                reports = list(self._reports(tell))
                self._record.reserve(counters.sequence + len(reports))
                stored += [self._insert(cx, draft, counters, clock_ok) for draft in reports]
                self._save(cx, counters)
        except BaseException:
            self.losses = losses
            raise
        self.counters = counters
        return stored

    def _reports(self, tell: Collection[str]) -> Iterator[Draft]:
        for kind, losses in self.losses.items():
            due = kind in tell
            while losses.crowded or (due and losses):
                yield self._make_report(kind, losses.report())
                due = False

    def adopt(self, rows: Iterable[Row], episodes: Iterable[Episode]) -> None:
        """Take in what was recovered from a damaged database, under the same row ids; what is there already is left as it is."""
        counters = self.counters.copy()
        with self._transaction() as cx:
            for row in rows:
                values = (row.row, row.sequence, self._age.now(), row.topic, row.payload)
                new = cx.execute("INSERT OR IGNORE INTO message VALUES (?,?,?,?,?)", values).rowcount
                counters.depth[row.priority] += new
                counters.number = max(counters.number, row.row & (1 << ROW_BITS) - 1)
                counters.sequence = max(counters.sequence, row.sequence or 0)
            cx.executemany("INSERT OR IGNORE INTO episode VALUES (?,?,?,?,?,?,?)", episodes)
            self._save(cx, counters)
        self.counters = counters

    def _insert(self, cx: sqlite3.Connection, draft: Draft, counters: Counters, clock_ok: bool) -> Committed:
        counters.number += 1
        counters.depth[draft.priority] += 1
        row_id, sequence = (draft.priority << ROW_BITS) + counters.number, None
        if draft.event is not None:
            counters.sequence = sequence = counters.sequence + 1
            self._note_episode(cx, draft.event, draft.doc)
        row = Row(row_id, sequence, draft.topic, draft.payload(sequence, clock_ok))
        cx.execute(
            "INSERT INTO message VALUES (?,?,?,?,?)", (row_id, sequence, self._age.now(), row.topic, row.payload)
        )
        if sequence is None:
            return Committed(row, None)
        return Committed(row, {**draft.doc, "sequence": sequence_text(sequence), "clockok": clock_ok})

    @staticmethod
    def _note_episode(cx: sqlite3.Connection, event: Event, doc: dict[str, Any]) -> None:
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

    def _save(self, cx: sqlite3.Connection, counters: Counters) -> None:
        age, wall = self._age.mark()
        losses = {kind: losses.data() for kind, losses in self.losses.items() if losses}
        values: dict[str, Any] = {"number": counters.number, "sequence": counters.sequence, "age": age, "wall": wall}
        values |= {f"depth.{p.plural}": n for p, n in counters.depth.items()} | {"losses": json.dumps(losses)}
        cx.executemany("INSERT OR REPLACE INTO meta VALUES (?,?)", values.items())

    def shrink(self) -> None:
        """Give free space back to the file system, a piece at each call."""
        cx = self._open_cx
        with translated("shrink"):
            if pragma(cx, "freelist_count") <= _FREE_PAGES:
                return
            # One page comes free with each step of this statement, and ``execute`` makes only the first.
            cx.executescript(f"PRAGMA incremental_vacuum({8 * _FREE_PAGES})")
            if pragma(cx, "freelist_count") <= _FREE_PAGES:
                cx.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def oldest(self) -> float | None:
        """The age clock at the birth of the oldest message; None when empty."""
        with translated("read the oldest"):
            born = [
                self._open_cx.execute(
                    "SELECT born FROM message WHERE row>=? AND row<? ORDER BY row LIMIT 1", span(p)
                ).fetchone()
                for p in Priority
                if self.counters.depth[p] > 0
            ]
        return min((b[0] for b in born if b), default=None)

    def size(self) -> int:
        """Bytes on disk."""
        return size_on_disk(self._path)

    def episodes(self) -> list[Episode]:
        """Every open episode."""
        with translated("read the open episodes"):
            return [Episode(*row) for row in self._open_cx.execute("SELECT * FROM episode ORDER BY started")]
