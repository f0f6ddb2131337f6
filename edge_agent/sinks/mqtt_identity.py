"""Who we are to the world: the status we publish, and whether somebody else uses our name."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from edge_agent.payload import Time
from edge_agent.types import DEVICE, Event, rfc3339, uuid7_factory

ALARM_EVERY_S = 3600.0
RIVAL_S = 600.0
"""So long after a sign of a second device, connections that end prove nothing."""
_STATUS_BYTES = 1024


class Status(TypedDict):
    """Whether the box is there. ``offline`` is also the last will, which the broker publishes when the connection breaks."""

    state: Annotated[Literal["online", "offline"], Field(description="the state")]
    boot_id: Annotated[str, Field(min_length=1, description="of this start of the agent")]
    since: Annotated[
        Time,
        Field(
            description="when it connected; of an offline that it said itself, when. Of two brokers the newest is right"
        ),
    ]
    version: Annotated[str, Field(description="of the agent")]


class SessionTakenOver(TypedDict):
    """A second box uses this one's identity, as after a card was cloned. At most once an hour."""

    client_id: Annotated[str, Field(description="the identity")]
    reason: Annotated[str, Field(description="what showed it")]


class Identity:
    """One thread. ``on_alarm`` gets ``mqtt_session_taken_over``, at most once an hour."""

    def __init__(self, boot_id: str, version: str, client_id: str, on_alarm: Callable[[Event], None]) -> None:
        self._boot_id, self._version, self._client_id, self._on_alarm = boot_id, version, client_id, on_alarm
        self._rival_at = float("-inf")
        self._next_alarm = 0.0

    def status(self, state: Literal["online", "offline"], since: float) -> bytes:
        """The document of the status topic; ``since`` in POSIX seconds."""
        doc: Status = {
            "state": state,
            "boot_id": self._boot_id,
            "since": rfc3339(since),
            "version": self._version,
        }
        return json.dumps(doc, separators=(",", ":")).encode()

    @property
    def rival(self) -> bool:
        """Whether there was a sign of a second device lately."""
        return time.monotonic() - self._rival_at < RIVAL_S

    def look(self, status: bytes) -> str:
        """The status topic of a broker that knows us is ours, unless another box has our identity; what shows that, or "".

        Not every broker says why it ended a connection that was taken over (mosquitto 2.0 does not), but this they all show.
        """
        boot_id = read_status(status).get("boot_id")
        if isinstance(boot_id, str) and boot_id != self._boot_id:
            return self.taken_over("another client published our status")
        return ""

    def taken_over(self, reason: str) -> str:
        """Another client uses our identity (a cloned card): tell it; how to call that."""
        now = time.monotonic()
        self._rival_at = now
        if now >= self._next_alarm:
            self._next_alarm = now + ALARM_EVERY_S
            utc = time.time()
            ident = uuid7_factory()(utc)
            data: SessionTakenOver = {"client_id": self._client_id, "reason": reason}
            self._on_alarm(Event(ident, DEVICE, "device", "mqtt_session_taken_over", None, ident, utc, data))
        return f"a second device uses the identity {self._client_id}: {reason}"


def read_status(payload: bytes) -> dict[str, Any]:
    """What a status says; anybody may have written it, so that it may be anything: then empty."""
    try:
        doc = json.loads(payload[:_STATUS_BYTES])
    except (ValueError, RecursionError):
        return {}
    return doc if isinstance(doc, dict) else {}
