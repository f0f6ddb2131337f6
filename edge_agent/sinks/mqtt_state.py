"""What the MQTT sink says about itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MqttState:
    """For status, heartbeat and panel. Times are POSIX seconds; counts are since the process began."""

    connected: bool
    since: float | None
    """When it came to this state of connection; None before the first attempt ended."""
    last_error: str
    address: str
    """The broker (host:port) that it is connected to, or tries next."""
    protocol: str
    """``5.0`` or ``3.1.1``; empty while not connected."""
    connects: int
    published: int
    """PUBLISH packets of outbox rows sent."""
    acked: int
    """Rows that the broker took."""
    refused: int

    @property
    def reconnects(self) -> int:
        """Connections after the first."""
        return max(0, self.connects - 1)
