"""What became of each sequence number at one sink: so that a number that is nowhere can be told from one that was delivered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from edge_agent.outbox.ranges import Range, cover, joined, missing

MAX_RANGES = 200
"""Of each kind; the oldest are let go beyond it. Numbers come to their end nearly in order: usually there is one range."""


@dataclass(slots=True)
class Account:
    """Numbers from ``start`` on. ``lost`` holds those dropped, dead or jumped over: each is announced, or will be."""

    start: int = 1
    delivered: list[Range] = field(default_factory=list)
    lost: list[Range] = field(default_factory=list)

    def deliver(self, ranges: Iterable[Range]) -> None:
        """These were delivered."""
        cover(self.delivered, ranges)
        self._bound(self.delivered)

    def lose(self, ranges: Iterable[Range]) -> None:
        """These never will be, and somebody is told."""
        cover(self.lost, ranges)
        self._bound(self.lost)

    def _bound(self, ranges: list[Range]) -> None:
        while len(ranges) > MAX_RANGES:
            self.start = max(self.start, ranges.pop(0)[1] + 1)

    def unexplained(self, last: int, waiting: Iterable[Range]) -> list[Range]:
        """Numbers up to ``last`` that neither wait nor came to a known end."""
        return missing(self.start, last, joined([*self.delivered, *self.lost, *waiting]))

    def data(self) -> dict[str, Any]:
        """As JSON."""
        return {"start": self.start, "delivered": self.delivered, "lost": self.lost}

    @classmethod
    def taken_up(cls, data: dict[str, Any]) -> Account:
        """From what ``data`` gave. Raises ValueError, TypeError, KeyError."""
        ranges = {kind: [(int(first), int(last)) for first, last in data[kind]] for kind in ("delivered", "lost")}
        return cls(int(data["start"]), **ranges)
