"""Connected clusters of people, and identities that pass from a lost track to its successor."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

Position = tuple[float, float]


def components(pairs: Iterable[tuple[int, int]]) -> list[set[int]]:
    """The connected components of a graph given by its edges (union-find with path halving), in order of smallest member."""
    parent: dict[int, int] = {}

    def find(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for a, b in pairs:
        parent.setdefault(a, a)
        parent.setdefault(b, b)
        first, second = find(a), find(b)
        if first != second:
            parent[max(first, second)] = min(first, second)
    found: dict[int, set[int]] = {}
    for node in sorted(parent):
        found.setdefault(find(node), set()).add(node)
    return list(found.values())


@dataclass(slots=True)
class Person:
    """What is remembered of a track: when it was first and last seen (seconds), where (metres, a slow velocity with it)."""

    born: float
    seen: float
    position: Position
    velocity: Position = (0.0, 0.0)
    inherited: bool = False


class Identities:
    """Notices that a new track is somebody who just vanished: trackers lose people and find them again under another id.

    A track that was born within ``window_s`` takes over from one that vanished within ``window_s``, if it is where
    that one would have come to: ``reach_m`` plus ``reach_mps`` for the time between.
    """

    def __init__(self, window_s: float = 2.0, reach_m: float = 0.8, reach_mps: float = 0.7) -> None:
        self._window_s, self._reach_m, self._reach_mps = window_s, reach_m, reach_mps
        self.people: dict[int, Person] = {}
        self._first: float | None = None

    def update(self, positions: dict[int, Position], t: float) -> list[tuple[int, int]]:
        """Advance to ``t``; returns (vanished id, its successor) for each identity that passed over now."""
        if self._first is None:
            self._first = t
        people = self.people
        fresh = False
        for ident, position in positions.items():
            person = people.get(ident)
            if person is None:
                people[ident] = Person(t, t, position, inherited=t == self._first)
                fresh = True
                continue
            if t > person.seen:
                share = 1 - math.exp(-(t - person.seen))
                dt = t - person.seen
                vx, vy = person.velocity
                vx += share * ((position[0] - person.position[0]) / dt - vx)
                vy += share * ((position[1] - person.position[1]) / dt - vy)
                person.velocity = (vx, vy)
            person.position, person.seen = position, t
        if len(people) == len(positions) and not fresh:
            return []
        lost = [ident for ident, person in people.items() if person.seen < t]
        young = [
            ident for ident in positions if not people[ident].inherited and t - people[ident].born <= self._window_s
        ]
        passed = self._match(lost, young, t) if lost and young else []
        for ident in lost:
            if ident in people and t - people[ident].seen > self._window_s:
                del people[ident]
        return passed

    def _match(self, lost: list[int], young: list[int], t: float) -> list[tuple[int, int]]:
        options = []
        for old in lost:
            for new in young:
                cost = self._distance(self.people[old], self.people[new], t)
                if cost is not None:
                    options.append((cost, old, new))
        passed: list[tuple[int, int]] = []
        for _, old, new in sorted(options):
            if old in self.people and not self.people[new].inherited:
                self.people[new].inherited = True
                self.people[new].born = self.people.pop(old).born
                passed.append((old, new))
        return passed

    def _distance(self, old: Person, new: Person, t: float) -> float | None:
        if old.born >= new.born:
            return None
        gap = t - old.seen
        ahead = (old.position[0] + gap * old.velocity[0], old.position[1] + gap * old.velocity[1])
        # Standing still is as likely as walking on, where somebody vanished.
        off = min(math.dist(ahead, new.position), math.dist(old.position, new.position))
        return off if off <= self._reach_m + self._reach_mps * gap else None
