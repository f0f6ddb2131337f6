"""Reading beside the writer: pages for the pump, recent events for people."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_agent.errors import OutboxCorrupt, OutboxError
from edge_agent.outbox.messages import Priority, Row
from edge_agent.outbox.positions import ABOVE, UNNOTED
from edge_agent.outbox.records import span
from edge_agent.outbox.schema import connect_reader, translated
from edge_agent.types import rfc3339

RING = 1000


class Reader:
    """A read-only connection, opened when first needed and shared under a lock; thread-safe.

    ``on_damage`` is called with the lock held: whoever has the file ``shut`` has heard of all that was found in it.
    """

    def __init__(self, path: Path, on_damage: Callable[[OutboxCorrupt], None]) -> None:
        self._path, self._on_damage = path, on_damage
        self._lock = threading.Lock()
        self._cx: sqlite3.Connection | None = None
        self._ring_lock = threading.Lock()
        self._ring: deque[tuple[int, float, dict[str, Any]]] = deque(maxlen=RING)
        """Row, birth on the age clock, CloudEvent."""

    def close(self) -> None:
        """Let go of the file; the next read opens it again."""
        with self.shut():
            pass

    @contextlib.contextmanager
    def shut(self) -> Iterator[None]:
        """Let go of the file, and nobody reads until the block is left."""
        with self._lock:
            cx, self._cx = self._cx, None
            if cx is not None:
                cx.close()
            yield

    def read(self, sink: str, priority: Priority, after: int, limit: int, gone: Collection[int]) -> list[Row]:
        """Up to ``limit`` rows that wait for a sink, after ``after`` and without ``gone``; an empty list means that there is nothing.

        Raises OutboxError.
        """
        first, end = span(priority)
        values = {"sink": sink, "priority": int(priority), "after": max(after, first - 1), "end": end, "limit": limit}
        while found := self._query(
            f"SELECT row, sequence, topic, payload FROM message WHERE {ABOVE} AND row<:end AND {UNNOTED} ORDER BY row LIMIT :limit",
            values,
        ):
            rows = [Row(*row) for row in found if row[0] not in gone]
            if rows:
                return rows
            values["after"] = found[-1][0]
        return []

    def _query(self, query: str, values: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
        with self._lock:
            if self._cx is None:
                self._cx = connect_reader(self._path)
            try:
                with translated("read"):
                    return self._cx.execute(query, values).fetchall()
            except OutboxError as error:
                self._cx.close()
                self._cx = None
                if isinstance(error, OutboxCorrupt):
                    self._on_damage(error)
                raise

    def remember(self, row: Row, born: float, doc: dict[str, Any]) -> None:
        """Keep a committed event for ``recent``."""
        with self._ring_lock:
            self._ring.append((row.row, born, doc))

    def forget_older(self, before: float) -> None:
        """Let go of the remembered events that were born earlier, on the age clock."""
        with self._ring_lock:
            while self._ring and self._ring[0][1] < before:
                self._ring.popleft()

    def load(self) -> None:
        """At start: remember the last of the events that wait."""
        first, last = span(Priority.EVENT)
        found = self._query(
            "SELECT row, born, payload FROM message WHERE row>=? AND row<? ORDER BY row DESC LIMIT ?",
            (first, last, RING),
        )
        with self._ring_lock:
            self._ring.clear()
            self._ring.extendleft((row, born, json.loads(payload)) for row, born, payload in found)

    def recent(self, since: float, limit: int) -> list[dict[str, Any]]:
        """The newest ``limit`` events with ``time`` at or after ``since``, in the order they were committed."""
        try:
            bound = rfc3339(since)
        except (ValueError, OverflowError, OSError):
            bound = "" if since < 0 else "9"
        with self._ring_lock:
            ring = list(self._ring)
        found = [doc for *_, doc in ring if doc["time"] >= bound][-limit:] if limit > 0 else []
        if len(found) < limit and len(ring) == RING and ring[0][2]["time"] >= bound:
            with contextlib.suppress(OutboxError, ValueError):
                found = self._older(ring[0][0], bound, limit - len(found)) + found
        return found

    def _older(self, before: int, bound: str, limit: int) -> list[dict[str, Any]]:
        query = "SELECT payload FROM message WHERE row>=? AND row<? ORDER BY row DESC LIMIT ?"
        payloads = self._query(query, (span(Priority.EVENT)[0], before, limit))
        docs = [json.loads(payload) for (payload,) in reversed(payloads)]
        return [doc for doc in docs if doc["time"] >= bound]
