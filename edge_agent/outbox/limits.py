"""How much the outbox keeps, for how long: the configuration in bytes, pages and seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from edge_agent.config import OutboxConfig
from edge_agent.outbox.messages import Priority, Row
from edge_agent.outbox.schema import PAGE

SHRINK_TO = 0.95
"""Of a bound that was passed: so that a full outbox does not drop at each commit."""


Wants: TypeAlias = Mapping[str, Callable[[Row], bool]]
"""By sink, whether a message is for it; a sink that is not named gets all."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What one sink may leave waiting of one priority; None: nothing but the bounds of the whole."""

    bytes: int | None
    rows: int | None
    age_s: float
    age_reason: str
    """The configuration's key that ``age_s`` comes from."""


@dataclass(frozen=True, slots=True)
class Limits:
    """All bounds of one outbox. ``sinks`` are those that count, and what each ``wants``; ``sink_bytes`` what one may leave waiting."""

    sinks: tuple[str, ...]
    max_bytes: int
    bounds: Mapping[Priority, Bound]
    sink_bytes: Mapping[str, int]
    retention_s: float
    wants: Wants = field(default_factory=dict)

    @classmethod
    def of(
        cls, config: OutboxConfig, sinks: tuple[str, ...], retention_days: float, wants: Wants | None = None
    ) -> Limits:
        """From the configuration. ``retention_days`` bounds every age."""
        bounds = {}
        for priority in Priority:
            own = getattr(config, priority.plural)
            days = config.max_age_days if own.max_age_days is None else min(own.max_age_days, config.max_age_days)
            reason = "max_age_days" if days <= retention_days else "retention_days"
            size = None if own.max_mb is None else int(own.max_mb * 2**20)
            bounds[priority] = Bound(size, own.max_rows, min(days, retention_days) * 86400, reason)
        shares = {name: int(mb * 2**20) for name, mb in config.sink_max_mb.items()}
        return cls(sinks, int(config.max_mb * 2**20), bounds, shares, retention_days * 86400, wants or {})

    @property
    def wal_pages(self) -> int:
        """Pages of SQLite's log after which it is folded into the database."""
        return max(16, min(1000, self.max_bytes // 8 // PAGE))

    @property
    def max_pages(self) -> int:
        """Pages in use in the database; the log takes the rest of the budget."""
        return max(24, self.max_bytes // PAGE - 2 * self.wal_pages)

    @property
    def max_transaction(self) -> int:
        """Bytes of messages in one commit; SQLite's log holds all of them a second time."""
        return max(PAGE, self.max_bytes // 32)
