"""What goes ahead of any backlog, while there is a connection: the latest of a topic, and answers to what was asked."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

_ANSWERS = 100


class Direct(NamedTuple):
    """One message; ``topic`` is a whole one. ``correlation`` is that of the question, in an answer.

    ``done`` is called with the reason of a refusal, "" where the broker took it; not at all where the connection ended before.
    With ``until`` (monotonic seconds) it must not be late: it goes out before that or not at all, and the broker drops what it
    could not pass on within ``expiry_s``.
    """

    topic: str
    payload: bytes
    retain: bool = False
    answer: bool = False
    correlation: bytes | None = None
    done: Callable[[str], None] | None = None
    until: float | None = None
    expiry_s: int = 0


class Ahead:
    """Put in by any thread, taken out by the sink's. Nothing stays over the end of a connection."""

    def __init__(self) -> None:
        # Or a message could slip in after the end of the connection was dealt with, and be sent by the next.
        self._lock = threading.Lock()
        self._open = False
        self._latest: dict[str, Direct] = {}
        self._answers: deque[Direct] = deque(maxlen=_ANSWERS)

    def __len__(self) -> int:
        return len(self._answers) + len(self._latest)

    def open(self) -> None:
        """A connection is there."""
        self._open = True

    def close(self) -> None:
        """It is gone; so is what was not sent."""
        with self._lock:
            self._open = False
            self._latest.clear()
            self._answers.clear()

    def put(self, message: Direct) -> bool:
        """False, and nothing is kept, while there is no connection. Of a topic only the latest is kept, but every answer."""
        with self._lock:
            if not self._open:
                return False
            if message.answer or message.until is not None:
                self._answers.append(message)
            else:
                self._latest[message.topic] = message
            return True

    def pop(self) -> Direct:
        """The next. Only where there is one."""
        with self._lock:
            return self._answers.popleft() if self._answers else self._latest.pop(next(iter(self._latest)))
