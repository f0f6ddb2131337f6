"""A small SQLite file beside the outbox, for what must be remembered whatever is killed when."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path


class SqliteFile:
    """Written so seldom that it is on disk with every commit. Thread-safe.

    A damaged file is moved aside, ``on_damage`` is told the error and where it went, and the next call begins a new one.
    """

    def __init__(self, path: Path, schema: str, on_damage: Callable[[Exception, Path], None]) -> None:
        self.path = path
        self._schema, self._on_damage = schema, on_damage
        self._lock = threading.Lock()
        self._cx: sqlite3.Connection | None = None

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction, on disk at the end. Raises sqlite3.Error and OSError; nothing of it stays then."""
        with self._lock:
            try:
                cx = self._cx = self._cx or self._open()
                with cx:
                    yield cx
            except (sqlite3.Error, OSError) as error:
                self._drop()
                if type(error) is sqlite3.DatabaseError:  # CPython's for a damaged file; a subclass may pass
                    self._move_aside(error)
                raise

    def close(self) -> None:
        """Let the file go."""
        with self._lock:
            self._drop()

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        cx = sqlite3.connect(self.path, timeout=1.0, check_same_thread=False)
        try:
            # A rollback journal and not a log: written so seldom, it leaves nothing beside the file.
            cx.execute("PRAGMA journal_mode=DELETE").fetchone()
            cx.execute("PRAGMA synchronous=EXTRA")
            cx.executescript(self._schema)
        except BaseException:
            cx.close()
            raise
        return cx

    def _drop(self) -> None:
        if self._cx is not None:
            self._cx.close()
            self._cx = None

    def _move_aside(self, error: Exception) -> None:
        aside = self.path.with_name(self.path.name + ".corrupt")
        with contextlib.suppress(OSError):
            self.path.replace(aside)
        self._on_damage(error, aside)
