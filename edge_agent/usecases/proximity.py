"""Which pairs of people are too near for too long: a state for each pair, in real time.

A pair is *near* from the first moment under ``distance_m``; until it counts as a violation it may rise above that by
one σ (at most to the leave distance) without starting over, so that noise at the limit does not undo what was held;
the mean over that time must still be under ``distance_m``. A violation lasts until the pair was not seen nearer than
the leave distance for ``leave_duration_s``; a pair of which somebody is briefly unseen therefore stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from edge_agent.config import GroupExemption, SocialDistancingConfig

Key = tuple[int, int]
_TOGETHER_GRACE_S = 1.0
"""Two people who come into view within this time of being near each other came together."""
_SPEED_TAU_S = 1.0


@dataclass(slots=True)
class PairState:
    """One pair. Times are seconds on the camera's clock, distances metres."""

    since: float
    last_near: float
    distance_m: float
    sigma_m: float
    apart: tuple[float, float]
    t: float
    violating: bool = False
    came_together: bool = False
    group: bool = False
    min_distance_m: float = float("inf")
    min_sigma_m: float = 0.0
    """The nearest they were seen, and its σ."""
    excess: float = 0.0
    """Integral of distance - ``distance_m`` since it began, m·s; below zero the mean is a violation's."""
    speed: tuple[float, float] = (0.0, 0.0)
    """Smoothed velocity of one relative to the other."""


class Near(NamedTuple):
    """A pair under the leave distance in one frame: ``key`` (a < b), distance and σ, vector from a to b, metres."""

    key: Key
    distance_m: float
    sigma_m: float
    apart: tuple[float, float]


def key_of(a: int, b: int) -> Key:
    """The pair of two tracks."""
    return (a, b) if a < b else (b, a)


class Proximity:
    """All pairs of one camera. ``pairs`` holds those near or violating now; not thread-safe."""

    def __init__(self, config: SocialDistancingConfig) -> None:
        self._enter = config.distance_m
        self.leave = config.leave_distance_m or config.distance_m * 1.15
        self._hold_s = config.min_duration_s
        self._leave_s = config.leave_duration_s
        self._groups: GroupExemption | None = config.groups if config.groups.enabled else None
        self.pairs: dict[Key, PairState] = {}

    def update(self, near: Iterable[Near], born: dict[int, float], t: float) -> None:
        """Advance to ``t`` with the pairs under the leave distance; ``born`` says when each track was first seen."""
        for found in near:
            state = self.pairs.get(found.key)
            if state is None:
                if found.distance_m < self._enter:
                    self.pairs[found.key] = self._begin(found, born, t)
                continue
            if self._groups:
                _relative_speed(state, found, t)
            state.excess += (t - state.t) * ((state.distance_m + found.distance_m) / 2 - self._enter)
            _see(state, found, t)
            slack = self.leave if state.violating else min(self._enter + found.sigma_m, self.leave)
            if found.distance_m < max(slack, self._enter):
                state.last_near = t
        gone = []
        for key, state in self.pairs.items():
            # A tolerance: 0.1 added up fifteen times is not 1.5.
            if state.last_near < t:
                # While it is not yet a violation, being seen apart ends it; being unseen does not.
                if t - state.last_near >= self._leave_s - 1e-6 or (not state.violating and state.t == t):
                    gone.append(key)
            elif not state.violating and t - state.since >= self._hold_s - 1e-6:
                state.violating = state.excess <= 0 and state.distance_m < self._enter
            if self._groups:
                self._judge_group(state, self._groups, t)
        for key in gone:
            del self.pairs[key]

    def violating(self, exempt_groups: bool) -> dict[Key, PairState]:
        """The pairs that are a violation now; with ``exempt_groups`` without those who belong or may belong together."""
        return {
            key: state
            for key, state in self.pairs.items()
            if state.violating and not (exempt_groups and (state.group or state.came_together))
        }

    def rename(self, old: int, new: int) -> None:
        """The track ``old`` goes on as ``new``: its pairs pass over, the longer-standing state of two wins."""
        for key in [key for key in self.pairs if old in key]:
            state = self.pairs.pop(key)
            other = key[0] if key[1] == old else key[1]
            if other == new:
                continue
            there = self.pairs.get(key_of(other, new))
            if there is None or state.since < there.since:
                if there is not None:
                    state.last_near, state.distance_m = there.last_near, there.distance_m
                self.pairs[key_of(other, new)] = state

    def _begin(self, found: Near, born: dict[int, float], t: float) -> PairState:
        state = PairState(t, t, found.distance_m, found.sigma_m, found.apart, t)
        _see(state, found, t)
        if self._groups:
            state.came_together = t - max(born[found.key[0]], born[found.key[1]]) <= _TOGETHER_GRACE_S
        return state

    def _judge_group(self, state: PairState, groups: GroupExemption, t: float) -> None:
        """Who came together is in doubt until ``min_together_s``, then a group; who moves apart from the other is neither."""
        if not state.came_together or state.group:
            return
        if t - state.since >= _SPEED_TAU_S and math.hypot(*state.speed) > groups.max_speed_difference_mps:
            state.came_together = False
        elif t - state.since >= groups.min_together_s:
            state.group = True


def _see(state: PairState, found: Near, t: float) -> None:
    state.distance_m, state.sigma_m, state.apart, state.t = found.distance_m, found.sigma_m, found.apart, t
    # The closest for sure: a minimum of distances alone would pick the worst measured, not the nearest.
    if found.distance_m + found.sigma_m < state.min_distance_m + state.min_sigma_m:
        state.min_distance_m, state.min_sigma_m = found.distance_m, found.sigma_m


def _relative_speed(state: PairState, found: Near, t: float) -> None:
    dt = t - state.t
    if dt <= 0:
        return
    share = 1 - math.exp(-dt / _SPEED_TAU_S)
    speed = ((found.apart[0] - state.apart[0]) / dt, (found.apart[1] - state.apart[1]) / dt)
    state.speed = (
        state.speed[0] + share * (speed[0] - state.speed[0]),
        state.speed[1] + share * (speed[1] - state.speed[1]),
    )
