"""Durable store-and-forward on SQLite."""

from edge_agent.outbox.outbox import Outbox
from edge_agent.outbox.stat import OutboxStat

__all__ = ["Outbox", "OutboxStat"]
