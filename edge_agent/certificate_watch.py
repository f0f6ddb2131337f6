"""Watches the certificates that this box shows others: one that ends soon is told in time to be renewed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field
from typing_extensions import TypedDict

from edge_agent.config import Config
from edge_agent.journal import told
from edge_agent.payload import Time
from edge_agent.tls import SOON_S, ours
from edge_agent.types import rfc3339

log = logging.getLogger(__name__)
LOOK_S = 60.0
AGAIN_S = 86400.0
"""What is wrong is told again after so long."""
CertificateState: TypeAlias = Literal["good", "expires_soon", "expired", "not_valid_yet"]


class CertificateFacts(TypedDict):
    """A certificate that this box shows ends soon, has ended, or was renewed. While it is not good, once a day."""

    section: Annotated[str, Field(description="of the configuration: mqtt.tls, influxdb.tls, webhook.tls, ota.tls")]
    state: Annotated[CertificateState, Field(description="how it is now; soon: within 14 days")]
    expires: Annotated[Time, Field(description="when it ends")]


class CertificateWatch:
    """One thread calls ``look``, as often as it likes."""

    def __init__(self, config: Config, clock: Callable[[], float] = time.time) -> None:
        named = {
            "mqtt.tls": config.mqtt.tls,
            "influxdb.tls": config.influxdb.tls,
            "webhook.tls": config.webhook.tls,
            "ota.tls": config.ota.tls,
        }
        self._tls = {name: tls for name, tls in named.items() if tls is not None and tls.cert_file is not None}
        self._clock = clock
        self._next = 0.0
        self._told: dict[str, tuple[CertificateState, float]] = {}
        self.trouble = ""
        """What is wrong, in words; "" while all are good."""

    def look(self, tell: Callable[[str, Mapping[str, Any]], None]) -> None:
        """``tell`` emits an event about the box."""
        if not self._tls or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LOOK_S
        now, troubles = self._clock(), []
        for section, tls in self._tls.items():
            if (span := ours(tls)) is None:
                continue  # half of a change by hand: the connection says what is wrong
            state = _judge(span, now)
            if state != "good":
                troubles.append(f"{section}: our certificate {state.replace('_', ' ')}: {rfc3339(span[1])[:10]}")
            before, at = self._told.get(section, ("good", 0.0))
            if state != before or (state != "good" and not 0 <= now - at < AGAIN_S):
                self._told[section] = state, now
                self._tell(CertificateFacts(section=section, state=state, expires=rfc3339(span[1])), tell)
        self.trouble = "; ".join(troubles)

    def _tell(self, facts: CertificateFacts, tell: Callable[[str, Mapping[str, Any]], None]) -> None:
        state, section, expires = facts["state"], facts["section"], facts["expires"]
        extra = told("edge_agent.device.certificate", section=section, state=state)
        level = logging.INFO if state == "good" else logging.WARNING
        log.log(
            level,
            "%s: our certificate is %s, it ends on %s",
            section,
            state.replace("_", " "),
            expires[:10],
            extra=extra,
        )
        tell("certificate", facts)


def _judge(span: tuple[float, float], now: float) -> CertificateState:
    begins, ends = span
    if now > ends:
        return "expired"
    if now < begins:
        return "not_valid_yet"
    return "expires_soon" if ends - now < SOON_S else "good"
