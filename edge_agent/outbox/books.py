"""The running totals: stored in ``meta`` with every transaction, so that they can never disagree with the rows."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_agent.outbox.account import Account
from edge_agent.outbox.ledger import Losses
from edge_agent.outbox.messages import Priority
from edge_agent.outbox.schema import FIRST_SINK


@dataclass(slots=True)
class Held:
    """Rows that wait for a sink, and their bytes (as ``positions.COST`` counts them)."""

    rows: int = 0
    bytes: int = 0


@dataclass(slots=True)
class SinkBook:
    """What one sink has before it and behind it."""

    held: dict[Priority, Held] = field(default_factory=lambda: {p: Held() for p in Priority})
    account: Account = field(default_factory=Account)

    @property
    def bytes(self) -> int:
        """Of all that waits for it."""
        return sum(held.bytes for held in self.held.values())


@dataclass(slots=True)
class Books:
    """Of the whole outbox. ``losses`` are kept by kind (``outbox_drops``, ``dead_letter``) and sink."""

    number: int = 0
    """Last row number given, over all priorities."""
    sequence: int = 0
    depth: dict[Priority, int] = field(default_factory=lambda: dict.fromkeys(Priority, 0))
    """Rows in the database: what waits for at least one sink."""
    sinks: dict[str, SinkBook] = field(default_factory=dict)
    losses: dict[tuple[str, str], Losses] = field(default_factory=dict)

    def copy(self) -> Books:
        """For a transaction that may not come to be."""
        return copy.deepcopy(self)

    def take_in(self, priority: Priority, cost: int) -> None:
        """One row more, which waits for every sink."""
        self.depth[priority] += 1
        for book in self.sinks.values():
            book.held[priority].rows += 1
            book.held[priority].bytes += cost

    def lost(self, kind: str, sink: str) -> Losses:
        """The losses of a kind at a sink, to be added to."""
        return self.losses.setdefault((kind, sink), Losses())

    def totals(self, kind: str) -> dict[str, int]:
        """Lost since the process began, by priority, at all sinks together."""
        of_kind = [losses.total for (name, _), losses in list(self.losses.items()) if name == kind]
        return {p.plural: sum(total[p.plural] for total in of_kind) for p in Priority}

    def rows(self) -> dict[str, Any]:
        """Key and value of each row of ``meta``."""
        losses = {f"{kind}/{sink}": losses.data() for (kind, sink), losses in self.losses.items() if losses}
        sinks = {
            name: {"held": [[held.rows, held.bytes] for held in book.held.values()], "account": book.account.data()}
            for name, book in self.sinks.items()
        }
        return {
            "number": self.number,
            "sequence": self.sequence,
            **{f"depth.{p.plural}": n for p, n in self.depth.items()},
            "losses": json.dumps(losses),
            "sinks": json.dumps(sinks, separators=(",", ":")),
        }

    @classmethod
    def taken_up(cls, meta: Mapping[str, Any]) -> Books:
        """From what ``rows`` gave, also by older versions. Raises ValueError, TypeError, KeyError."""
        books = cls(
            number=int(meta.get("number", 0)),
            sequence=int(meta.get("sequence", 0)),
            depth={p: int(meta.get(f"depth.{p.plural}", 0)) for p in Priority},
        )
        for key, data in json.loads(meta.get("losses", "{}")).items():
            kind, _, sink = key.partition("/")
            books.lost(kind, sink or FIRST_SINK).restore(data)
        for name, data in json.loads(meta.get("sinks", "{}")).items():
            held = {p: Held(int(rows), int(size)) for p, (rows, size) in zip(Priority, data["held"], strict=True)}
            books.sinks[name] = SinkBook(held, Account.taken_up(data["account"]))
        return books
