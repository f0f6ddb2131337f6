"""Opening the database: pragmas, schema, upgrades, and sqlite3's exceptions turned into ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_agent.errors import OutboxCorrupt, OutboxError

PAGE = 4096
BUSY_S = 1.0

# One entry for each user_version step; an older file is brought up by the entries it lacks, in one transaction.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
        "CREATE TABLE message (row INTEGER PRIMARY KEY, sequence INTEGER, born REAL NOT NULL, topic TEXT NOT NULL, payload BLOB NOT NULL)",
        """CREATE TABLE episode (episode TEXT PRIMARY KEY, camera TEXT NOT NULL, use_case TEXT NOT NULL, what TEXT NOT NULL,
           started REAL NOT NULL, updated REAL NOT NULL, data TEXT NOT NULL) WITHOUT ROWID""",
        """CREATE TABLE dead_letter (row INTEGER PRIMARY KEY, sequence INTEGER, refused TEXT NOT NULL, code INTEGER NOT NULL,
           reason TEXT NOT NULL, topic TEXT NOT NULL, payload BLOB NOT NULL)""",
    ),
    (  # several sinks: how far each is, and what it is done with beyond that; until then MQTT was the only one
        """CREATE TABLE mark (sink TEXT NOT NULL, priority INTEGER NOT NULL, low INTEGER NOT NULL,
           PRIMARY KEY (sink, priority)) WITHOUT ROWID""",
        "CREATE TABLE beyond (sink TEXT NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (sink, row)) WITHOUT ROWID",
        "ALTER TABLE dead_letter RENAME TO dead_letter_1",
        """CREATE TABLE dead_letter (number INTEGER PRIMARY KEY, sink TEXT NOT NULL, row INTEGER NOT NULL, sequence INTEGER,
           born REAL NOT NULL, refused TEXT NOT NULL, code INTEGER NOT NULL, reason TEXT NOT NULL, topic TEXT NOT NULL,
           payload BLOB NOT NULL)""",
        """INSERT INTO dead_letter (sink, row, sequence, born, refused, code, reason, topic, payload)
           SELECT 'mqtt', row, sequence, coalesce((SELECT value FROM meta WHERE key='age'), 0.0), refused, code, reason, topic, payload
           FROM dead_letter_1 ORDER BY refused""",
        "DROP TABLE dead_letter_1",
    ),
)
FIRST_SINK = "mqtt"
"""Whose losses schema 1 holds: it had no names."""


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Foreign exceptions become OutboxError (try again later) or OutboxCorrupt."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        # CPython raises the bare DatabaseError for SQLITE_CORRUPT and SQLITE_NOTADB, a subclass for all that may pass.
        if type(error) is sqlite3.DatabaseError:
            raise OutboxCorrupt(f"{doing}: {error}") from error
        raise OutboxError(f"{doing}: {error}") from error
    except (sqlite3.Error, OSError) as error:
        raise OutboxError(f"{doing}: {error}") from error


def connect(path: Path, wal_pages: int) -> sqlite3.Connection:
    """The writer's connection, schema up to date. Raises OutboxError, OutboxCorrupt."""
    with translated(f"open {path.name}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        cx = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            cx.execute(f"PRAGMA page_size={PAGE}")
            cx.execute("PRAGMA auto_vacuum=INCREMENTAL")  # means something in a new file only, before the first table
            cx.execute("PRAGMA journal_mode=WAL").fetchone()
            cx.execute("PRAGMA synchronous=FULL")  # in WAL: fsync at every commit, so that accepted means on disk
            cx.execute(f"PRAGMA wal_autocheckpoint={wal_pages}").fetchone()
            cx.execute(f"PRAGMA journal_size_limit={wal_pages * PAGE}").fetchone()
            cx.execute("PRAGMA cache_size=-2000")
            cx.execute("PRAGMA secure_delete=FAST").fetchone()  # wipes what goes where that costs no further write
            _migrate(cx)
        except BaseException:
            cx.close()
            raise
        return cx


def _migrate(cx: sqlite3.Connection) -> None:
    version = pragma(cx, "user_version")
    if version > len(MIGRATIONS):
        raise OutboxError(
            f"the outbox was written by a newer version of the agent (schema {version}, known {len(MIGRATIONS)})"
        )
    if version == len(MIGRATIONS):
        return
    cx.execute("BEGIN IMMEDIATE")
    try:
        for step in MIGRATIONS[version:]:
            for statement in step:
                cx.execute(statement)
        cx.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
        cx.execute("COMMIT")
    except BaseException:
        cx.execute("ROLLBACK")
        raise


def connect_reader(path: Path) -> sqlite3.Connection:
    """A second connection that can only read; beside the writer it never waits (WAL)."""
    with translated(f"open {path.name} to read"):
        cx = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro",
            uri=True,
            timeout=BUSY_S,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            cx.execute("PRAGMA cache_size=-1000")
        except BaseException:
            cx.close()
            raise
        return cx


def pragma(cx: sqlite3.Connection, name: str) -> int:
    """The value of a pragma that is a number."""
    return int(cx.execute(f"PRAGMA {name}").fetchone()[0])


def files(path: Path) -> list[Path]:
    """The database and what SQLite keeps beside it."""
    return [path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")]


def size_on_disk(path: Path) -> int:
    """Bytes of the database and its write-ahead log."""
    return sum(_size(file) for file in files(path)[:2])


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
