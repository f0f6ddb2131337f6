"""Safe mode: reachable, and nothing else. What is said of it, and when it is over.

After ``crash_count.LIMIT`` crashes in a row the agent starts without cameras and model: MQTT, heartbeat, REST and commands
say why, and let an operator act. It tries again by itself, ever more slowly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from edge_agent.crash_count import LIMIT, CrashCount
from edge_agent.journal import told
from edge_agent.payload import Count

log = logging.getLogger(__name__)
Tell: TypeAlias = Callable[[str, Mapping[str, Any]], None]


class SafeModeFacts(TypedDict):
    """The agent starts in safe mode, tries to leave it, or has left it for good."""

    state: Annotated[Literal["entered", "trying", "left"], Field(description="what it does now")]
    reason: Annotated[str, Field(description="how the last run ended")]
    crashes: Annotated[Count, Field(description="in a row")]
    retry_s: NotRequired[Annotated[Count, Field(description="of entered: seconds until the next try")]]


def announce(crashes: CrashCount, tell: Tell) -> None:
    """What this start is, where it is not one like any other. ``tell`` emits an event about the box."""
    if crashes.safe_mode:
        log.error(
            "safe mode: %s; no inference, the next try is in %.0f min",
            crashes.safe_mode,
            crashes.retry_s / 60,
            extra=told("edge_agent.device.safe_mode", state="entered", crashes=crashes.in_a_row),
        )
        facts = SafeModeFacts(state="entered", reason=crashes.reason, crashes=crashes.in_a_row)
        facts["retry_s"] = round(crashes.retry_s)
        tell("safe_mode", facts)
    elif crashes.in_a_row >= LIMIT:
        log.warning("trying to leave safe mode: %d crashes before, the last: %s", crashes.in_a_row, crashes.reason)
        tell("safe_mode", SafeModeFacts(state="trying", reason=crashes.reason, crashes=crashes.in_a_row))


def look(crashes: CrashCount, uptime_s: float, tell: Tell) -> bool:
    """Call it now and then; True: start anew, to try without safe mode."""
    before, reason = crashes.in_a_row, crashes.reason
    if crashes.look(uptime_s):
        log.info("safe mode is over: the agent starts again, and tries")
        return True
    if before >= LIMIT and not crashes.in_a_row:
        log.info("well again after %d crashes", before)
        tell("safe_mode", SafeModeFacts(state="left", reason=reason, crashes=before))
    return False
