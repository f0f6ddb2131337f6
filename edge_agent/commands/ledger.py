"""Which commands were done: the id is on disk before anything is, so that each is done once, whatever is killed when.

A small SQLite file beside the outbox. Bounded by rows and age, counted from when an id was last seen: a retained command
comes again with every connection, and so is never forgotten.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_agent.commands.envelope import Request
from edge_agent.errors import CommandError
from edge_agent.sqlite_file import SqliteFile

log = logging.getLogger(__name__)

MAX_ROWS = 1000
MAX_AGE_S = 90 * 86400.0
_SCHEMA = """CREATE TABLE IF NOT EXISTS command (
    seen INTEGER PRIMARY KEY, seen_utc REAL NOT NULL, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, digest TEXT NOT NULL,
    boot_id TEXT NOT NULL, topic TEXT, correlation BLOB, note TEXT NOT NULL, answer BLOB, told INTEGER NOT NULL DEFAULT 0)"""


@dataclass(frozen=True, slots=True)
class Address:
    """Where an answer over MQTT goes: a whole topic, the asker's correlation data, and why it goes there (may be "")."""

    topic: str
    correlation: bytes | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A command that was written down; ``answer`` None while it is under way, ``address`` None where nobody waits at MQTT."""

    id: str
    name: str
    boot_id: str
    answer: bytes | None
    address: Address | None


class Ledger:
    """Thread-safe. ``clock_ok`` says whether the wall clock can be believed: age counts only then."""

    def __init__(self, path: Path, boot_id: str, clock_ok: Callable[[], bool]) -> None:
        self._boot_id, self._clock_ok = boot_id, clock_ok
        self._file = SqliteFile(path, _SCHEMA, self._damaged)

    def again(self, request: Request, address: Address | None) -> Entry | None:
        """What is known of a command that was begun before, None of a new one.

        An answer that is still to come goes to the latest who asked. Raises CommandError: id_used (for something else), not_recorded.
        """
        with self._writing() as cx:
            row = cx.execute("SELECT digest FROM command WHERE id=?", (request.id,)).fetchone()
            if row is None:
                return None
            if row[0] != request.digest:
                raise CommandError("id_used", f"{request.id} was the id of another command; take one that is new")
            cx.execute("UPDATE command SET seen=?, seen_utc=? WHERE id=?", (self._next(cx), time.time(), request.id))
            self._address(cx, request, address)
            return self._entries(cx, "id=?", request.id)[0]

    def begin(self, request: Request, address: Address | None) -> None:
        """Write a new command down; it is on disk when this returns. Raises CommandError (not_recorded)."""
        with self._writing() as cx:
            self._prune(cx)
            now = self._next(cx), time.time()
            cx.execute(
                "INSERT INTO command (seen, seen_utc, id, name, digest, boot_id, note) VALUES (?, ?, ?, ?, ?, ?, '')",
                (*now, request.id, request.command.name, request.digest, self._boot_id),
            )
            self._address(cx, request, address)

    @staticmethod
    def _next(cx: sqlite3.Connection) -> int:
        return int(cx.execute("SELECT coalesce(max(seen), 0) + 1 FROM command").fetchone()[0])

    @staticmethod
    def _address(cx: sqlite3.Connection, request: Request, address: Address | None) -> None:
        if address is not None:
            cx.execute(
                "UPDATE command SET topic=?, correlation=?, note=? WHERE id=?",
                (address.topic, address.correlation, address.note, request.id),
            )

    def _prune(self, cx: sqlite3.Connection) -> None:
        """Make room for one more; what is under way stays."""
        oldest = time.time() - MAX_AGE_S if self._clock_ok() else 0.0
        cx.execute(
            """DELETE FROM command WHERE answer IS NOT NULL AND (seen_utc < ? OR seen NOT IN
               (SELECT seen FROM command ORDER BY seen DESC LIMIT ?))""",
            (oldest, MAX_ROWS - 1),
        )

    def finish(self, ident: str, answer: bytes) -> None:
        """Its answer is known. Raises CommandError (not_recorded)."""
        with self._writing() as cx:
            cx.execute("UPDATE command SET answer=? WHERE id=?", (answer, ident))

    def told(self, ident: str) -> None:
        """Its answer was handed to the broker's connection. Raises CommandError (not_recorded)."""
        with self._writing() as cx:
            cx.execute("UPDATE command SET told=1 WHERE id=?", (ident,))

    def untold(self) -> list[Entry]:
        """Answers that nobody could be given, oldest first. Raises CommandError (not_recorded)."""
        with self._writing() as cx:
            return self._entries(cx, "answer IS NOT NULL AND topic IS NOT NULL AND NOT told")

    def interrupted(self) -> list[Entry]:
        """What an earlier run of the agent left under way. Raises CommandError (not_recorded)."""
        with self._writing() as cx:
            return self._entries(cx, "answer IS NULL AND boot_id<>?", self._boot_id)

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def _entries(self, cx: sqlite3.Connection, where: str, *values: object) -> list[Entry]:
        rows = cx.execute(
            f"SELECT id, name, boot_id, answer, topic, correlation, note FROM command WHERE {where} ORDER BY seen",  # noqa: S608
            values,
        ).fetchall()
        return [
            Entry(ident, name, boot_id, answer, None if topic is None else Address(topic, correlation, note))
            for ident, name, boot_id, answer, topic, correlation, note in rows
        ]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction, on disk at the end. A damaged file is moved aside, and the next call begins a new one."""
        try:
            with self._file.writing() as cx:
                yield cx
        except (sqlite3.Error, OSError) as error:
            raise CommandError(
                "not_recorded", f"the command cannot be written down, so it is not done: {error}"
            ) from error

    def _damaged(self, error: Exception, aside: Path) -> None:
        log.error(
            "%s is damaged (%s) and moved to %s: which commands were done is forgotten",
            self._file.path,
            error,
            aside.name,
        )
