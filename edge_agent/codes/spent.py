"""Which one-time tokens were used: on disk before anything is done for one, so that each serves once, also after a crash."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from edge_agent.errors import TokenRefused
from edge_agent.sqlite_file import SqliteFile
from edge_agent.types import Token

log = logging.getLogger(__name__)

MAX_ROWS = 20_000
"""Used tokens that have not expired. Where there are more, further ones are refused: none is forgotten before its time."""
LATE_S = 5.0
"""A frame that is looked through may be so old: it was taken before a token that was used meanwhile."""
_WRITTEN = 1_767_225_600.0
"""2026-01-01: no clock that is right says less."""
_SCHEMA = """CREATE TABLE IF NOT EXISTS spent (id TEXT PRIMARY KEY, expires INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;"""


class SpentTokens:
    """Thread-safe. ``reliable`` says whether the clock is kept right now; a clock that goes back behind what was written down is not.

    Where the file was damaged, tokens issued before that are refused: which of them were used is not known any more.
    """

    def __init__(self, path: Path, reliable: Callable[[], bool], *, max_rows: int = MAX_ROWS) -> None:
        self._reliable, self._max_rows = reliable, max_rows
        self._file = SqliteFile(path, _SCHEMA, self._damaged)
        self._lock = threading.Lock()
        self._forgotten = False
        self._ids: set[str] = set()
        self._facts: dict[str, float] = {}
        try:
            with self._file.writing() as cx:
                self._load(cx)
        except (sqlite3.Error, OSError) as error:
            log.error("%s: %s: one-time tokens are refused until it can be written", path, error)
            self._mark_damage()

    def clock_ok(self, utc: float) -> bool:
        """Whether ``utc`` is a time to judge by."""
        return utc >= self._facts.get("floor", _WRITTEN) - LATE_S and self._reliable()

    def is_spent(self, ident: str) -> bool:
        """Whether a one-time token was used already. Looks at no disk."""
        return ident in self._ids

    def spend(self, token: Token, utc: float) -> None:
        """Use a token up; that is on disk when this returns. One that may be used again is only looked at again.

        Raises TokenRefused, ``code``: expired, early, bad, no_clock, spent, forgotten, full, not_recorded.
        """
        if token.state != "valid":
            raise TokenRefused(token.state)
        if not self.clock_ok(utc):
            raise TokenRefused("no_clock")
        if token.expires <= utc:
            raise TokenRefused("expired")
        if not token.once:
            return
        try:
            with self._lock, self._file.writing() as cx:
                self._spend(cx, token, utc)
        except (sqlite3.Error, OSError) as error:
            log.error("%s: %s: a one-time token is refused", self._file.path, error)
            self._mark_damage()
            raise TokenRefused("not_recorded") from error
        self._ids.add(token.ident)

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def _spend(self, cx: sqlite3.Connection, token: Token, utc: float) -> None:
        self._load(cx)
        if "damaged" in self._facts:  # now the time is known, too
            cx.execute("DELETE FROM fact WHERE name='damaged'")
            cx.execute("INSERT OR REPLACE INTO fact VALUES ('forgotten_before', ?)", (utc,))
            cx.commit()
            self._load(cx)
        # A second more: issued holds whole seconds.
        if token.issued <= self._facts.get("forgotten_before", 0.0) + 1.0:
            raise TokenRefused("forgotten")
        if token.ident in self._ids:
            raise TokenRefused("spent")
        cx.execute("DELETE FROM spent WHERE expires <= ?", (utc - 1,))
        if cx.execute("SELECT count(*) FROM spent").fetchone()[0] >= self._max_rows:
            raise TokenRefused("full")
        cx.execute("INSERT INTO spent VALUES (?, ?)", (token.ident, token.expires))
        cx.execute("INSERT OR REPLACE INTO fact VALUES ('floor', ?)", (utc,))
        self._load(cx)

    def _mark_damage(self) -> None:
        """Where the file was found damaged, the new one says so, whatever happens until the next token comes."""
        if self._forgotten:
            with contextlib.suppress(sqlite3.Error, OSError), self._file.writing() as cx:
                cx.execute("INSERT OR REPLACE INTO fact VALUES ('damaged', 1)")
                self._load(cx)
                self._forgotten = False

    def _load(self, cx: sqlite3.Connection) -> None:
        self._ids = {ident for (ident,) in cx.execute("SELECT id FROM spent")}
        self._facts = dict(cx.execute("SELECT name, value FROM fact"))

    def _damaged(self, error: Exception, aside: Path) -> None:
        self._forgotten = True
        log.error(
            "%s is damaged (%s) and moved to %s: one-time tokens issued before now are refused",
            self._file.path,
            error,
            aside.name,
        )
