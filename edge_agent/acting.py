"""What a use case asks of the world outside: that a device does something, and what became of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edge_agent.types import Token


@dataclass(frozen=True, slots=True)
class Result:
    """What became of an order. ``reason`` is one word.

    ``acknowledged``; or ``token_`` and why the token is refused, ``not_connected``, ``broker_too_old``, ``refused`` (by the
    broker), ``nobody_listens``, ``no_answer`` (within ``ack_s``), ``not_recorded`` (the disk), ``too_many``, ``unknown``.
    """

    ok: bool
    reason: str


class Actuators(Protocol):
    """Devices that can be ordered to do something. Thread-safe; neither call waits, and neither raises."""

    def order(self, actuator: str | None, action: str = "", token: Token | None = None) -> int:
        """Use ``token`` up, then have ``actuator`` do ``action``; the number of the order. With None only the token is used up.

        The order is carried out at once or not at all: it never waits for a broker.
        """

    def make_safe(self, actuator: str) -> int:
        """Bring it to its safe state, again and again until it confirms; the number of the order, which is the first try."""

    def result(self, order: int) -> Result | None:
        """None while it is under way. Forgotten once it was told."""


class Rehearsal:
    """Stands in where nothing may be moved (replay, check): every order is acknowledged at once, every valid token good once."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._results: dict[int, Result] = {}
        self._last = 0

    def order(self, actuator: str | None, action: str = "", token: Token | None = None) -> int:
        """See ``Actuators``."""
        self._last += 1
        result = Result(True, "acknowledged")
        if token is not None:
            if token.state != "valid" or token.ident in self._used:
                result = Result(False, f"token_{'spent' if token.state == 'valid' else token.state}")
            elif token.once:
                self._used.add(token.ident)
        self._results[self._last] = result
        return self._last

    def make_safe(self, actuator: str) -> int:
        """See ``Actuators``."""
        return self.order(actuator)

    def result(self, order: int) -> Result | None:
        """See ``Actuators``."""
        return self._results.pop(order, Result(False, "unknown"))
