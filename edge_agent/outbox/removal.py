"""How rows leave the store: delivered, refused, too old, or too many. All of it inside the caller's transaction."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from itertools import islice, takewhile

from edge_agent.outbox import positions
from edge_agent.outbox.books import Books
from edge_agent.outbox.ledger import EVERY_SINK
from edge_agent.outbox.limits import SHRINK_TO, Bound, Limits
from edge_agent.outbox.messages import ROW_BITS, Priority, Row
from edge_agent.outbox.positions import Waiting
from edge_agent.outbox.ranges import Range
from edge_agent.outbox.records import DEAD, DROPS, Refusal
from edge_agent.outbox.schema import PAGE, pragma
from edge_agent.types import DEVICE, rfc3339

MAX_DEAD_LETTERS = 1000
_CHUNK = 64
_PIECE = 16
"""Pages."""
_WORST_FIRST = tuple(reversed(Priority))
_REPORTS = tuple(f"events/{DEVICE}/{kind}" for kind in (DROPS, DEAD))


class Removal:
    """One transaction's removals; ``books`` are brought up to what was done."""

    def __init__(self, cx: sqlite3.Connection, books: Books, limits: Limits) -> None:
        self._cx, self._books, self._limits = cx, books, limits

    def pass_over(self, rows: Iterable[Row], sinks: Collection[str] | None = None) -> None:
        """Those of ``rows`` that a sink (of ``sinks``; None: of all) does not want do not wait for it."""
        wants = {name: ask for name, ask in self._limits.wants.items() if sinks is None or name in sinks}
        unwanted: dict[str, list[int]] = {name: [] for name in wants}
        for row in rows if wants else ():
            for name, ask in wants.items():
                if not ask(row):
                    unwanted[name].append(row.row)
        for name, ids in unwanted.items():
            self.forget(name, ids)

    def forget(self, sink: str, rows: Collection[int]) -> None:
        """Delivered to a sink."""
        settled = self.settle(sink, rows)
        self._books.sinks[sink].account.deliver(_ranges(settled))

    def bury(self, refused: Sequence[Refusal], utc: float) -> None:
        """Move to the dead letters, of which the last thousand are kept. ``utc`` in POSIX seconds."""
        for refusal in refused:
            found = self._cx.execute("SELECT topic, payload FROM message WHERE row=?", (refusal.row,)).fetchone()
            settled = self.settle(refusal.sink, [refusal.row])
            if found is None or not settled:  # a bound was faster
                continue
            topic, payload = found
            why = (refusal.sink, refusal.row, rfc3339(utc), refusal.code, refusal.reason)
            self._cx.execute(
                "INSERT INTO dead_letter (sink, row, refused, code, reason, sequence, born, topic, payload)"
                " VALUES (?,?,?,?,?,?,?,?,?)",
                (*why, settled[0].sequence, settled[0].born, topic, payload),
            )
            self._books.sinks[refusal.sink].account.lose(_ranges(settled))
            if not topic.startswith(_REPORTS):  # the report of a refused report would be refused too, for ever
                losses = self._books.lost(DEAD, refusal.sink)
                losses.add(settled[0].priority, refusal.reason, sequences=_known(settled))
        if refused:
            self._cx.execute(
                "DELETE FROM dead_letter WHERE number <= (SELECT max(number) FROM dead_letter) - ?", (MAX_DEAD_LETTERS,)
            )

    def drop_old(self, now: float) -> None:
        """What is older than it may be, ``now`` on the age clock. Rows lie in the order of their birth: usually one is looked at."""
        for sink, priority, bound in self._each():
            while self._books.sinks[sink].held[priority].rows and (
                old := self._born_before(sink, priority, now - bound.age_s)
            ):
                self.drop(sink, old, bound.age_reason)

    def _born_before(self, sink: str, priority: Priority, before: float) -> list[Waiting]:
        waiting = positions.head(self._cx, sink, priority)
        return list(islice(takewhile(lambda row: row.born < before, waiting), _CHUNK))

    def retire_dead(self, now: float) -> None:
        """Dead letters of messages born too long ago, ``now`` on the age clock; looks at each."""
        self._cx.execute("DELETE FROM dead_letter WHERE born < ?", (now - self._limits.retention_s,))

    def drop_surplus(self) -> None:
        """What is more than a sink may leave waiting, then what is more than the file may hold."""
        for sink, priority, bound in self._each():
            held = self._books.sinks[sink].held[priority]
            if bound.rows is not None and held.rows > bound.rows:
                self._drop_down(sink, (priority,), "max_rows", rows=held.rows - int(bound.rows * SHRINK_TO))
            if bound.bytes is not None and held.bytes > bound.bytes:
                self._drop_down(sink, (priority,), "max_mb", size=held.bytes - int(bound.bytes * SHRINK_TO))
        for sink, most in self._limits.sink_bytes.items():
            book = self._books.sinks.get(sink)
            if book is not None and book.bytes > most:
                self._drop_down(sink, _WORST_FIRST, "sink_max_mb", size=book.bytes - int(most * SHRINK_TO))
        self._fit_file()

    def _fit_file(self) -> None:
        """Whoever has most waiting gives way: with n sinks, one with less than an n-th of the budget never loses a message."""
        if self._used_pages() <= self._limits.max_pages:
            return
        self._cx.execute("DELETE FROM dead_letter")
        while (surplus := self._used_pages() - int(self._limits.max_pages * SHRINK_TO)) > 0:
            hungriest = max(self._limits.sinks, key=lambda name: self._books.sinks[name].bytes)
            # A piece at a time: which pages come free shows afterwards only.
            if not self._drop_down(hungriest, _WORST_FIRST, "max_mb", size=min(surplus, _PIECE) * PAGE):
                return

    def _each(self) -> Iterable[tuple[str, Priority, Bound]]:
        return [(sink, p, self._limits.bounds[p]) for sink in self._limits.sinks for p in Priority]

    def _drop_down(
        self, sink: str, priorities: Iterable[Priority], reason: str, *, rows: int = 0, size: int = 0
    ) -> bool:
        """Drop at least so many rows or bytes, the oldest of the first priority first; whether there was anything to drop."""
        dropped = False
        for priority in priorities:
            while rows > 0 or size > 0:
                oldest: list[Waiting] = []
                for row in islice(positions.head(self._cx, sink, priority), _CHUNK):
                    if rows <= 0 and size <= 0:
                        break
                    oldest.append(row)
                    rows, size = rows - 1, size - row.cost
                if not oldest:
                    break
                self.drop(sink, oldest, reason)
                dropped = True
        return dropped

    def drop(self, sink: str, rows: Sequence[Waiting], reason: str) -> None:
        """Give up rows that wait for a sink; counted, and to be told."""
        if not rows:
            return
        self._keep_told(sink, rows)
        settled = self.settle(sink, [row.row for row in rows])
        self._books.sinks[sink].account.lose(_ranges(settled))
        losses = self._books.lost(DROPS, sink)
        losses.add(rows[0].priority, reason, len(settled), _known(settled))

    def _keep_told(self, sink: str, rows: Sequence[Waiting]) -> None:
        """A report that goes before this sink had it: what it explained to the sink must still be explained."""
        for row in rows if rows[0].priority is Priority.EVENT else ():
            topic, payload = self._cx.execute("SELECT topic, payload FROM message WHERE row=?", (row.row,)).fetchone()
            if topic.startswith(_REPORTS):
                with contextlib.suppress(ValueError, KeyError, TypeError):  # recovered from a damaged file
                    data = json.loads(payload)["data"]
                    if data.get("sink", sink) in {sink, EVERY_SINK}:
                        self._books.lost(topic.rpartition("/")[2], sink).restore(data)

    def settle(self, sink: str, rows: Collection[int]) -> list[Waiting]:
        """A sink is done with rows, for whatever reason. Those of them that had waited for it."""
        settled, gone = positions.settle(self._cx, sink, rows, self._limits.sinks)
        held = self._books.sinks[sink].held
        for row in settled:
            held[row.priority].rows -= 1
            held[row.priority].bytes -= row.cost
        for row_id in gone:
            self._books.depth[Priority(row_id >> ROW_BITS)] -= 1
        return settled

    def _used_pages(self) -> int:
        return pragma(self._cx, "page_count") - pragma(self._cx, "freelist_count")


def _known(rows: Iterable[Waiting]) -> list[int]:
    return [row.sequence for row in rows if row.sequence is not None]


def _ranges(rows: Iterable[Waiting]) -> list[Range]:
    return [(n, n) for n in _known(rows)]
