"""Which devices may be out of their safe state: on disk before they are commanded out of it, until they confirmed to be back."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from edge_agent.sqlite_file import SqliteFile

log = logging.getLogger(__name__)

_SCHEMA = "CREATE TABLE IF NOT EXISTS astray (actuator TEXT PRIMARY KEY) WITHOUT ROWID"


class OpenBook:
    """Thread-safe. Where the file was damaged, ``astray`` says that nobody knows: all must be taken for it."""

    def __init__(self, path: Path) -> None:
        self.damaged = False
        self._file = SqliteFile(path, _SCHEMA, self._damaged)

    def astray(self, known: Iterable[str]) -> list[str]:
        """Those of ``known`` that may be out of their safe state."""
        try:
            with self._file.writing() as cx:
                written = {name for (name,) in cx.execute("SELECT actuator FROM astray")}
        except (sqlite3.Error, OSError):
            return list(known)
        return [name for name in known if name in written]

    def leaves(self, actuator: str) -> bool:
        """It is about to; on disk when this returns True."""
        return self._write("INSERT OR IGNORE INTO astray VALUES (?)", actuator)

    def is_back(self, actuator: str) -> bool:
        """It is in its safe state for sure."""
        return self._write("DELETE FROM astray WHERE actuator=?", actuator)

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def _write(self, statement: str, actuator: str) -> bool:
        try:
            with self._file.writing() as cx:
                cx.execute(statement, (actuator,))
        except (sqlite3.Error, OSError) as error:
            log.error("%s: %s", self._file.path, error)
            return False
        return True

    def _damaged(self, error: Exception, aside: Path) -> None:
        self.damaged = True
        log.error("%s is damaged (%s) and moved to %s: all devices are made safe", self._file.path, error, aside.name)
