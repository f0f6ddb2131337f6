"""What the types of published payloads are made of.

Each payload's type is a ``TypedDict`` beside the code that makes it: a plain dict at run time, so that it costs nothing. mypy holds
the code to it, and the JSON Schemas of ``contract`` come from it. A field is one line, units in its name:
``Annotated[type, Field(description=...)]``.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, TypeVar

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import TypedDict

_Value = TypeVar("_Value")

Known: TypeAlias = _Value | SkipJsonSchema[None]
"""None in the program where it is not known; left out of the payload then, so never null there."""

Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]
"""``types.rfc3339``: RFC 3339, UTC, milliseconds."""
NonNegative = Annotated[float, Field(ge=0)]
Seconds = NonNegative
Metres = NonNegative
Count = Annotated[int, Field(ge=0)]
Percent = Annotated[int, Field(ge=0, le=100)]
EventId = Annotated[str, Field(pattern="^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")]
"""A UUIDv7 (RFC 9562)."""
SequenceNumber = Annotated[str, Field(pattern="^[0-9]{16,}$")]
"""Decimal with leading zeros, so that text compares as numbers do."""
SequenceRanges: TypeAlias = list[Annotated[list[SequenceNumber], Field(min_length=2, max_length=2)]]
"""Pairs of first and last, both included."""

EndReason = Literal["camera_gap", "end_of_file", "shutdown", "agent_restart"]
"""What ends an episode of any use case from outside."""


class EpisodeFacts(TypedDict):
    """What every use case says of an episode. The outbox ends one that a crash left open: it sets ``ended``, ``duration_s``, ``reason``."""

    started: Annotated[Time, Field(description="when it began")]
    duration_s: Annotated[Seconds, Field(description="how long it has lasted")]
