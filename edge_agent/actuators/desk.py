"""Carries orders out: tokens used up, devices commanded, answers waited for, and every device brought back to its safe state.

Whatever goes wrong on the way (no answer, a use case that never ends, a restart), the safe action is sent again and again until
the device confirms it. Nothing waits for a broker: a command is on its way at once, or the order has failed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field
from typing_extensions import TypedDict

from edge_agent.acting import Result
from edge_agent.actuators.answers import says
from edge_agent.actuators.open_book import OpenBook
from edge_agent.config_actuators import ActuatorConfig
from edge_agent.errors import TokenRefused
from edge_agent.types import Beat, Token

log = logging.getLogger(__name__)

MAX_ORDERS = 100
_RETRY_S, _RETRY_MOST_S = 2.0, 30.0
_TICK_S = 0.05
DEADLINE_S = 30.0
Told = Callable[[str], None]


class Send(Protocol):
    """Sends a command; ``done`` is called with what the broker said, "" for yes. False, and nothing is sent, without a connection."""

    def __call__(self, topic: str, payload: bytes, expiry_s: int, done: Told) -> bool:
        """From the desk's thread; does not wait."""


class ActuatorFacts(TypedDict):
    """A device was brought back to its safe state without being asked to, or does not confirm that it is."""

    actuator: Annotated[str, Field(description="its id")]
    state: Annotated[Literal["made_safe", "not_safe"], Field(description="not_safe: it does not confirm; tried again")]
    reason: Annotated[
        Literal["agent_restart", "no_answer", "too_long"],
        Field(description="why: the agent was killed meanwhile, an action failed, or it was out of it for max_s"),
    ]


@dataclass(slots=True)
class _Order:
    number: int
    actuator: str | None
    action: str
    token: Token | None


@dataclass(slots=True)
class _Flight:
    """A command on its way. ``number`` 0: nobody waits for it but the desk itself."""

    device: ActuatorConfig
    action: str
    number: int
    until: float


@dataclass(slots=True)
class _Astray:
    """A device that may be out of its safe state."""

    since: float
    wanted: Literal["agent_restart", "no_answer", "too_long", ""] = ""
    """Why it is to be brought back; "": it is not."""
    retry_at: float = 0.0
    retry_s: float = _RETRY_S
    told: bool = False


class ActuatorDesk:
    """See ``acting.Actuators``. ``run`` is to be run in a thread of its own; ``spend`` raises TokenRefused.

    ``tell`` is given what to tell about a device (``ActuatorFacts``). ``topics``: what to listen to, and what takes a message.
    """

    def __init__(
        self,
        devices: Sequence[ActuatorConfig],
        path: Path,
        *,
        send: Send,
        spend: Callable[[Token], None],
        tell: Callable[[Mapping[str, Any]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._devices = {device.id: device for device in devices}
        self._book, self._send, self._spend, self._tell, self._clock = OpenBook(path), send, spend, tell, clock
        self._wake = threading.Condition()
        self._orders: deque[_Order] = deque()
        self._messages: deque[tuple[str, bytes]] = deque(maxlen=1000)
        self._said: deque[tuple[_Flight, str]] = deque(maxlen=1000)
        self._results: dict[int, Result] = {}
        self._number = 0
        self._stop_at: float | None = None
        self._ended = threading.Event()
        self._flying: list[_Flight] = []
        now = clock()
        self._astray = {name: _Astray(now, "agent_restart") for name in self._book.astray(self._devices)}
        if self._book.damaged:
            self._astray = {name: _Astray(now, "agent_restart") for name in self._devices}

    @property
    def topics(self) -> list[str]:
        """Where devices answer."""
        return sorted({device.ack.topic for device in self._devices.values() if device.ack is not None})

    # From any thread

    def order(self, actuator: str | None, action: str = "", token: Token | None = None) -> int:
        """See ``acting.Actuators``."""
        with self._wake:
            self._number += 1
            order = _Order(self._number, actuator, action, token)
            if len(self._orders) >= MAX_ORDERS:
                self._tell_result(order.number, "too_many")
            else:
                self._orders.append(order)
                self._wake.notify()
        return order.number

    def make_safe(self, actuator: str) -> int:
        """See ``acting.Actuators``."""
        device = self._devices.get(actuator)
        return self.order(actuator, device.safe if device is not None else "")

    def result(self, order: int) -> Result | None:
        """See ``acting.Actuators``."""
        with self._wake:
            return self._results.pop(order, None)

    def take(self, topic: str, payload: bytes) -> None:
        """A message on one of ``topics``."""
        with self._wake:
            self._messages.append((topic, payload))
            self._wake.notify()

    def stop(self, timeout_s: float) -> None:
        """End once nothing is under way, or after ``timeout_s``: what is not safe then is made so by the next start."""
        self._stop_at = time.monotonic() + timeout_s
        with self._wake:
            self._wake.notify()
        self._ended.wait(timeout_s + 0.2)

    # The desk's thread

    def run(self, beat: Beat) -> None:
        """Until ``stop``."""
        while not self._over():
            beat.begin()
            self.step()
            beat.end()
            with self._wake:
                if not (self._orders or self._messages or self._said):
                    self._wake.wait(_TICK_S if self._flying or self._astray or self._stop_at else 0.5)
        self._book.close()
        self._ended.set()

    def _over(self) -> bool:
        if self._stop_at is None:
            return False
        busy = self._orders or self._flying or any(astray.wanted for astray in self._astray.values())
        return not busy or time.monotonic() >= self._stop_at

    def step(self) -> None:
        """Do all that is to be done now."""
        while (order := self._next()) is not None:
            self._carry_out(order)
        self._listen()
        self._look_at_time()

    def _next(self) -> _Order | None:
        with self._wake:
            return self._orders.popleft() if self._orders else None

    def _carry_out(self, order: _Order) -> None:
        if order.token is not None:
            try:
                self._spend(order.token)
            except TokenRefused as error:
                self._tell_result(order.number, f"token_{error.code}")
                return
        if order.actuator is None:
            self._tell_result(order.number, "acknowledged")
            return
        device = self._devices.get(order.actuator)
        if device is None or order.action not in device.actions:
            self._tell_result(order.number, "unknown")
        elif order.action == device.safe:
            self._astray.setdefault(device.id, _Astray(self._clock())).wanted = "no_answer"
            self._astray[device.id].retry_at = self._clock() + device.ack_s
            self._command(device, order.action, order.number)
        elif not self._book.leaves(device.id):
            self._tell_result(order.number, "not_recorded")
        else:
            self._astray[device.id] = _Astray(self._clock())
            self._command(device, order.action, order.number)

    def _command(self, device: ActuatorConfig, action: str, number: int) -> None:
        # What is on its way to the same device is overtaken: only the last word counts.
        for old in [flight for flight in self._flying if flight.device.id == device.id]:
            self._land(old, "overtaken")
        flight = _Flight(device, action, number, self._clock() + device.ack_s)
        self._flying.append(flight)
        payload = device.actions[action].payload.encode()

        def done(trouble: str) -> None:
            with self._wake:
                self._said.append((flight, trouble))
                self._wake.notify()

        if not self._send(device.topic, payload, device.expiry_s, done):
            self._land(flight, "not_connected")

    def _listen(self) -> None:
        with self._wake:
            messages, said = list(self._messages), list(self._said)
            self._messages.clear()
            self._said.clear()
        for flight, trouble in said:
            if flight in self._flying and (trouble or flight.device.ack is None):
                self._land(flight, trouble)
        for topic, payload in messages:
            for flight in list(self._flying):
                ack = flight.device.ack
                wanted = flight.device.actions[flight.action].says
                if ack is not None and ack.topic == topic and says(payload, ack.key, wanted):
                    self._land(flight, "")

    def _land(self, flight: _Flight, trouble: str) -> None:
        """It is over: "" means that the device did it."""
        self._flying.remove(flight)
        name, safe = flight.device.id, flight.action == flight.device.safe
        astray = self._astray.get(name)
        if safe and not trouble and self._book.is_back(name):
            self._astray.pop(name, None)
            if astray is not None and (astray.told or not flight.number):
                self._report(name, "made_safe", astray.wanted or "no_answer")
        elif astray is not None and trouble and trouble != "overtaken":
            if not astray.wanted:  # it may have been done all the same
                astray.wanted = "no_answer"
                astray.retry_at = self._clock()
            elif not astray.told and not flight.number:
                astray.told = True
                self._report(name, "not_safe", astray.wanted)
        if flight.number:
            self._tell_result(flight.number, trouble or "acknowledged")

    def _look_at_time(self) -> None:
        now = self._clock()
        for flight in [flight for flight in self._flying if now >= flight.until]:
            self._land(flight, "no_answer")
        busy = {flight.device.id for flight in self._flying}
        for name, astray in list(self._astray.items()):
            device = self._devices[name]
            if not astray.wanted and now - astray.since >= device.max_s:
                astray.wanted, astray.retry_at = "too_long", now
            if astray.wanted and now >= astray.retry_at and name not in busy:
                astray.retry_at = now + astray.retry_s
                astray.retry_s = min(astray.retry_s * 2, _RETRY_MOST_S)
                self._command(device, device.safe, 0)

    def _report(self, name: str, state: Literal["made_safe", "not_safe"], reason: Any) -> None:
        log.warning("actuator %s: %s (%s)", name, state.replace("_", " "), reason)
        facts: ActuatorFacts = {"actuator": name, "state": state, "reason": reason}
        self._tell(facts)

    def _tell_result(self, number: int, reason: str) -> None:
        with self._wake:
            self._results[number] = Result(reason == "acknowledged", reason)
            while len(self._results) > 10 * MAX_ORDERS:
                del self._results[next(iter(self._results))]
