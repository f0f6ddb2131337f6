"""What a row of the contract says of a message, and of a topic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edge_agent.outbox.messages import JSON_TYPE


@dataclass(frozen=True, slots=True)
class Message:
    """``payload`` is a TypedDict, as is ``data``, the type of its field ``data_field``; ``fixed`` are its fields that have one value."""

    name: str
    payload: Any
    data: Any = None
    fixed: dict[str, str] = field(default_factory=dict)
    content_type: str = JSON_TYPE
    last: str = ""
    """What stands for the last parameter of its channel's address."""
    data_field: str = "data"
    also: dict[str, Any] | None = None
    """A schema that holds beside those of the types."""


@dataclass(frozen=True, slots=True)
class Channel:
    """Topics below the device's root, with ``{parameters}``, and what is published there at QoS 1."""

    name: str
    address: str
    what: str
    messages: tuple[Message, ...]
    retained: bool = False
