"""Which broker to try next, and when."""

from __future__ import annotations

import random

from edge_agent.config_mqtt import Address, MqttConfig


class Brokers:
    """One thread. The first in the list is preferred: after a connection that was of use the next begins there again.

    The pauses have full jitter: after a common outage the devices come back spread over ``reconnect_spread_s``, not in the
    same second; where that fails the spread doubles with each round through the list, up to ``reconnect_max_s``.
    """

    def __init__(self, config: MqttConfig) -> None:
        self._all = config.addresses
        self._spread_s, self._max_s = config.reconnect_spread_s, config.reconnect_max_s
        self._at = self._failures = 0

    @property
    def current(self) -> Address:
        """The one to try."""
        return self._all[self._at]

    @property
    def others(self) -> list[Address]:
        """All but ``current``."""
        return [address for address in self._all if address != self.current]

    def ended(self, *, useful: bool) -> None:
        """A connection to ``current`` ended, or did not come to be."""
        self._failures = 0 if useful else self._failures + 1
        self._at = 0 if useful else (self._at + 1) % len(self._all)

    def pause(self) -> float:
        """Seconds to wait before the next attempt."""
        rounds = max(0, self._failures - 1) // len(self._all)
        return random.uniform(0.0, min(self._max_s, self._spread_s * 2.0 ** min(rounds, 16)))
