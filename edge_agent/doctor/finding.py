"""What a check is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from edge_agent.doctor.box import Box

State: TypeAlias = Literal["ok", "warn", "fail", "skip"]
CHECK_S = 12.0
"""Seconds that a check has for itself, where it does not say otherwise."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found and how to mend it (never empty for ``warn`` and ``fail``); ``skip``: does not apply, and why."""

    state: State
    found: str
    fix: str = ""


def ok(found: str) -> Outcome:
    """All is well."""
    return Outcome("ok", found)


def warn(found: str, fix: str) -> Outcome:
    """The agent runs, but not as well or as safely as it could."""
    return Outcome("warn", found, fix)


def fail(found: str, fix: str) -> Outcome:
    """Something does not work."""
    return Outcome("fail", found, fix)


def skip(why: str) -> Outcome:
    """Does not apply to this box."""
    return Outcome("skip", why)


@dataclass(frozen=True, slots=True)
class Check:
    """One question. ``run`` is called in a thread of its own, may raise (a failed check) or hang (``timeout_s``)."""

    area: str
    name: str
    run: Callable[[Box], Outcome]
    timeout_s: float = CHECK_S


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer, without secrets and control characters."""

    area: str
    name: str
    state: State
    found: str
    fix: str = ""
