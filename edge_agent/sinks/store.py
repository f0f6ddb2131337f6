"""The seam to the outbox, as a sink sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

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
    """Durable messages in order. Callable from any thread; nothing but ``read`` raises (OutboxError, to be tried again)."""

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
