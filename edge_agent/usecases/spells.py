"""What lasts for a while, told as an episode: started, updated at given ages and on growth, ended; under a rate cap.

A rule says whether its state holds; a ``Spell`` makes changes of that, and the ``Teller`` of its use case the events.
With the rate cap reached a start is told late, while the spell lasts, and an update or a single fact not at all; the
end of a start that was told always is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from edge_agent.payload import EndReason, EpisodeFacts, Time
from edge_agent.types import Event, NewId, Phase, rfc3339

Moment: TypeAlias = tuple[float, float]
"""Seconds on the camera's clock, and UTC."""
_TOLERANCE_S = 1e-6


class RuleFacts(TypedDict):
    """What every event of a rule says."""

    rule: Annotated[str, Field(description="its name")]
    held_back: NotRequired[
        Annotated[int, Field(ge=1, description="events that the rate cap held back before this one")]
    ]


class SpellFacts(RuleFacts, EpisodeFacts):
    """What every episode of a rule says."""


class Begun(TypedDict):
    """Of one that started."""

    ended: Annotated[None, Field(description="not yet")]
    reason: NotRequired[Annotated[Literal["late"], Field(description="late: the rate cap had held it back")]]


class Lasting(TypedDict):
    """Of one that lasts."""

    ended: Annotated[None, Field(description="not yet")]
    reason: Annotated[Literal["duration", "growth"], Field(description="an age is reached, or more people came")]


class Over(TypedDict):
    """Of one that is over."""

    ended: Annotated[Time, Field(description="when it ended")]
    reason: Annotated[
        Literal["over", "lost", "schedule", EndReason],
        Field(
            description="over: it was not seen for leave_duration_s; lost: whom it is about was out of sight for too long; "
            "schedule: the time for it is over; camera_gap: no frame for too long; agent_restart: the agent was killed meanwhile"
        ),
    ]


@dataclass(frozen=True, slots=True)
class Change:
    """``at`` is when it began or ended, seconds on the camera's clock. ``again``: told late, and counted before."""

    phase: Phase
    at: float
    reason: str = ""
    again: bool = False


class Spell:
    """One state of a rule. Times are seconds on the camera's clock. Not thread-safe."""

    __slots__ = ("_ages", "_grows", "_passed", "_told", "began", "ident", "on", "people", "people_max")

    def __init__(self, update_at_s: Sequence[float], *, grows: bool = False) -> None:
        self._ages, self._grows = sorted(update_at_s), grows
        self._passed = self._told = 0
        self.ident = ""
        """The episode id; given when its start is told."""
        self.on = False
        self.began = 0.0
        self.people = self.people_max = 0

    def update(self, on: bool, began: float, last: float, t: float, people: int = 1) -> Change | None:
        """Go on to ``t``: whether it holds, since when, and when it was last seen to hold."""
        if not on:
            return self._off(Change("ended", max(last, self.began), "over")) if self.on else None
        self.people = people
        if not self.on:
            self.on, self.ident, self.began, self.people_max, self._told, self._passed = (
                True,
                "",
                began,
                people,
                people,
                0,
            )
            self._pass(t)
            return Change("started", began)
        self.people_max = max(self.people_max, people)
        reason = "duration" if self._pass(t) else ""
        if self._grows and people > self._told:
            self._told, reason = people, reason or "growth"
        if not self.ident:
            return Change("started", self.began, "late", again=True)
        return Change("updated", t, reason) if reason else None

    def end(self, reason: str, at: float) -> Change | None:
        """End it from outside."""
        return self._off(Change("ended", at, reason)) if self.on else None

    def _off(self, change: Change) -> Change:
        self.on, self.people = False, 0
        return change

    def _pass(self, t: float) -> bool:
        """Whether an age is reached."""
        before = self._passed
        while self._passed < len(self._ages) and t - self.began >= self._ages[self._passed] - _TOLERANCE_S:
            self._passed += 1
        return self._passed > before


class Teller:
    """Makes the events of one use case on one camera, ``cap`` a minute. ``on_held_back`` is called for what it holds back."""

    def __init__(
        self, camera: str, use_case: str, new_id: NewId, cap: int, on_held_back: Callable[[], None] = lambda: None
    ) -> None:
        self._camera, self._use_case, self._new_id, self._cap = camera, use_case, new_id, cap
        self._on_held_back = on_held_back
        self._sent: deque[float] = deque()
        self._held_back = 0

    def change(
        self, what: str, spell: Spell, change: Change | None, now: Moment, facts: Callable[[], Mapping[str, Any]]
    ) -> Iterator[Event]:
        """The event of a change; ``facts`` gives what ``EpisodeFacts`` and the phase do not say."""
        t, utc = now
        if change is None or (change.phase == "ended" and not spell.ident):
            return
        if change.phase != "ended" and not self._may(t, again=change.again):
            return
        self._sent.append(t)
        at = utc - (t - change.at)
        spell.ident = spell.ident or self._new_id(at)
        until = t if change.phase == "started" else change.at
        data = {
            **facts(),
            "started": rfc3339(utc - (t - spell.began)),
            "duration_s": round(max(until - spell.began, 0.0), 3),
            "ended": rfc3339(at) if change.phase == "ended" else None,
        }
        if change.reason:
            data["reason"] = change.reason
        yield Event(
            self._new_id(at),
            self._camera,
            self._use_case,
            what,
            change.phase,
            spell.ident,
            at,
            self._with_held_back(data),
        )

    def fact(self, what: str, now: Moment, data: Mapping[str, Any]) -> Iterator[Event]:
        """The event of something that happened now and does not last."""
        t, utc = now
        if not self._may(t):
            return
        self._sent.append(t)
        ident = self._new_id(utc)
        yield Event(ident, self._camera, self._use_case, what, None, ident, utc, self._with_held_back(dict(data)))

    def _with_held_back(self, data: dict[str, Any]) -> dict[str, Any]:
        if self._held_back:
            data["held_back"], self._held_back = self._held_back, 0
        return data

    def _may(self, t: float, *, again: bool = False) -> bool:
        while self._sent and t - self._sent[0] >= 60.0:
            self._sent.popleft()
        if len(self._sent) < self._cap:
            return True
        if not again:
            self._held_back += 1
            self._on_held_back()
        return False
