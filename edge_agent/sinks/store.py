"""The seam to the outbox, as a sink sees it. Here and not in ``pipeline``, which sinks may not import.

A sink that has many messages under way at once (MQTT) works on the ``Store`` itself; one that sends them in batches is a
``BatchSink`` and leaves the rest to ``sinks.batch``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

PRIORITIES = 3
"""0 events, 1 metrics, 2 telemetry: a lower one is sent first."""


class Row(Protocol):
    """One stored message."""

    @property
    def row(self) -> int:
        """Its id; grows within a priority."""

    @property
    def topic(self) -> str:
        """Below the device's root."""

    @property
    def payload(self) -> bytes:
        """UTF-8 JSON."""

    @property
    def content_type(self) -> str:
        """Its MIME type."""


class Store(Protocol):
    """One sink's durable messages in order. Callable from any thread; nothing but ``read`` raises (OutboxError, to be tried again).

    Of a message it wants to keep for later a sink says nothing, and reads it again.
    """

    @property
    def version(self) -> int:
        """Grows whenever messages were added."""

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call when messages were added; from another thread."""

    def read(self, priority: int, after_row: int, limit: int) -> Sequence[Row]:
        """The next after ``after_row`` (0: the oldest), all of them durable; empty when there are none."""

    def acknowledge(self, rows: Sequence[int]) -> None:
        """These were delivered and may go; they are not read again."""

    def refuse(self, row: int, code: int, reason: str) -> None:
        """This one will never be taken; it is not read again."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a sink says of one message: taken, never to be taken (``code`` and ``reason`` say why), or not now."""

    outcome: Literal["accept", "reject", "keep"]
    code: int = 0
    reason: str = ""


ACCEPT = Verdict("accept")
KEEP = Verdict("keep")


class BatchSink(Protocol):
    """Delivers messages, up to ``size`` at a time, to ``address`` (for people, without secrets)."""

    size: int
    address: str

    def wants(self, row: Row) -> bool:
        """Whether a message is for it. Called in the outbox's thread: quick, and raises nothing."""

    def deliver(self, batch: Sequence[Row]) -> Sequence[Verdict]:
        """Send them, in order, and say of each what became of it. Called by one thread; may block, but not for ever.

        Raises SinkUnavailable where all of them are to be kept.
        """

    def close(self) -> None:
        """Let go of connections. By the same thread, at the end."""
