"""The outbox as one sink sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge_agent.outbox.inbox import Inbox
from edge_agent.outbox.messages import Priority, Row
from edge_agent.outbox.reader import Reader
from edge_agent.outbox.records import Refusal
from edge_agent.outbox.writer import Writer


class Outlet:
    """Gives one sink its messages in order and takes its word on each. Any thread may call; nothing but ``read`` raises.

    A sink says of a message that it was taken (``acknowledge``) or never will be (``refuse``). Of what it wants to keep for
    later it says nothing, and reads it again.
    """

    def __init__(self, sink: str, inbox: Inbox, reader: Reader, writer: Writer) -> None:
        self.sink = sink
        self._inbox, self._reader, self._writer = inbox, reader, writer

    @property
    def version(self) -> int:
        """Grows whenever messages were added."""
        return self._writer.version

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call after messages were added, in the writer's thread: be quick."""
        self._writer.listeners.append(listener)

    def read(self, priority: int, after_row: int, limit: int) -> list[Row]:
        """The next messages of a priority after ``after_row`` (0: the oldest), without those acknowledged or refused.

        Empty means that there are none. Raises OutboxError.
        """
        gone = self._inbox.gone(self.sink)
        return self._reader.read(self.sink, Priority(priority), after_row, limit, gone)

    def acknowledge(self, rows: Sequence[int]) -> None:
        """These were delivered and may go. Does not block."""
        self._inbox.acknowledge(self.sink, rows)

    def refuse(self, row: int, code: int, reason: str) -> None:
        """This one will never be taken: to the dead letters, and announced. Does not block."""
        self._inbox.refuse(Refusal(self.sink, row, code, reason))
