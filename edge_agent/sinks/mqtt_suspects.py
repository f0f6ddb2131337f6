"""Finds the message that a broker hangs up on instead of refusing it, as AWS IoT Core does: it would block the rest for ever."""

from __future__ import annotations

from collections.abc import Sequence

STRIKES = 3
"""Connections that end with the same message in front before the messages under way are sent one by one."""
ALONE = 3
"""Connections that must end with a message alone under way before it is given up."""
OTHERS = 200
"""Suspects come first in the outbox. After so many others they are not there any more: dropped by age, or its file was lost."""


class Suspects:
    """One thread. Fed with how connections ended; nothing is given up on less evidence than ``STRIKES + ALONE`` of them.

    Of several messages under way anyone may be the cause. So all of them become suspects, and from then on each goes alone
    until it is settled: the broker takes the innocent ones, and hangs up on the one.
    """

    def __init__(self) -> None:
        self._head: int | None = None
        self._strikes = 0
        self._alone: dict[int, int] = {}
        self._others = 0

    @property
    def careful(self) -> bool:
        """Whether nothing may be sent before the one message under way is answered."""
        return bool(self._alone)

    def settled(self, row: int) -> None:
        """The broker took it, or it was given up."""
        if self._alone and self._alone.pop(row, None) is None:
            self._others += 1
            if self._others >= OTHERS:
                self._alone.clear()

    def lost(self, rows: Sequence[int], *, proven: bool) -> int | None:
        """The broker ended a connection with ``rows`` under way, oldest first; the one to give up, or None.

        ``proven``: that one row was all that was under way, it had just been sent, and the connection had worked before.
        """
        if not rows:
            return None
        if self._alone:
            (row, *others) = rows
            if proven and not others and row in self._alone:
                self._alone[row] += 1
                return row if self._alone[row] >= ALONE else None
            return None
        self._strikes = self._strikes + 1 if rows[0] == self._head else 1
        self._head = rows[0]
        if self._strikes >= STRIKES:
            self._head, self._strikes = None, 0
            self._alone, self._others = dict.fromkeys(rows, 0), 0
        return None
