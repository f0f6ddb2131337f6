"""What to send next: reads the store in order, most important priority first, and remembers what is under way."""

from __future__ import annotations

from collections import deque

from edge_agent.sinks.store import PRIORITIES, Row, Store

PAGE = 200


class Pump:
    """One thread. Each row is given out once until ``rewind``; then again from the oldest that was not acknowledged."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.rewind()

    def rewind(self) -> None:
        """The connection is gone, and with it all that was under way."""
        self._pages: list[deque[Row]] = [deque() for _ in range(PRIORITIES)]
        self._after = [0] * PRIORITIES
        self._exhausted_at = [-1] * PRIORITIES

    def next(self) -> Row | None:
        """The next row to send; None when there is none now. Raises OutboxError."""
        for priority, page in enumerate(self._pages):
            version = self._store.version  # before the read: what comes meanwhile changes it
            if not page and self._exhausted_at[priority] != version:
                page.extend(self._store.read(priority, self._after[priority], PAGE))
                if page:
                    self._after[priority] = page[-1].row
                else:
                    self._exhausted_at[priority] = version
            if page:
                return page.popleft()
        return None
