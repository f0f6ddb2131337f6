"""Violations as episodes: one for each connected cluster of people, from its start to its end.

- A cluster without a member of an open episode is a new episode, begun when its first pair came near.
- An episode goes on in the cluster it shares most members with; members may come and go, all of them in time.
- Where clusters merge, the oldest episode goes on and the others end (reason ``merged``, ``merged_into``).
- Where one splits, the part with most members goes on and every other part is a new episode (``split_from``).
- Where the last violating pair dissolves while one of its people is already near somebody (not yet for
  ``min_duration_s``), the episode waits that long for the outcome: an exchange of partners or of identities does not
  split it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from edge_agent.usecases.clusters import components
from edge_agent.usecases.proximity import Key, PairState


@dataclass(slots=True, eq=False)
class Episode:
    """One violation. Times are seconds on the camera's clock; distances metres."""

    began: float
    members: set[int]
    last_near: float
    people_max: int
    split_from: Episode | None = None
    merged_into: Episode | None = None
    ident: str = ""
    """The episode id; given when its start is told."""
    min_distance_m: float = float("inf")
    min_sigma_m: float = 0.0
    pairs: dict[Key, PairState] = field(default_factory=dict)
    waits_since: float | None = None
    """When its last violating pair dissolved, while it waits for others to become one."""
    steps_passed: int = 0
    told_people: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to an episode; ``reason`` is ``duration``, ``growth``, ``left``, ``merged``, ``split`` or given by close."""

    phase: Literal["started", "updated", "ended"]
    episode: Episode
    reason: str


class EpisodeBook:
    """The open episodes of one camera, oldest first. Not thread-safe."""

    def __init__(self, update_at_s: Collection[float], wait_s: float) -> None:
        self._steps = sorted(update_at_s)
        self._wait_s = wait_s
        self.open: list[Episode] = []
        self._keys: set[Key] | None = None
        """The pairs that all the open episodes consist of; None where that is to be found out."""

    def update(self, violating: Mapping[Key, PairState], pending: Collection[Key], t: float) -> list[Change]:
        """Advance to ``t`` with the pairs that violate now and those that are near but do not yet; oldest change first."""
        if not violating and not self.open:
            return []
        if set(violating) == self._keys:  # the same clusters as in the frame before, each with its episode
            for same in self.open:
                _follow(same, {key: violating[key] for key in same.pairs})
            return [Change("updated", same, why) for same in self.open if (why := self._news(same, t))]
        clusters = components(violating)
        owner = self._assign(clusters)
        changes = self._end_unowned(clusters, owner, pending, t)
        before = [(episode, episode.members) for episode in self.open]
        where = {member: i for i, members in enumerate(clusters) for member in members}
        pairs: list[dict[Key, PairState]] = [{} for _ in clusters]
        for key, state in violating.items():
            pairs[where[key[0]]][key] = state
        for i, members in enumerate(clusters):
            episode = owner.get(i)
            if episode is None:
                source = next((other for other, them in before if them & members), None)
                episode = self._begin(members, pairs[i], source, t)
                changes.append(Change("started", episode, "split" if episode.split_from else ""))
            elif members != episode.members:
                episode.members = members
            _follow(episode, pairs[i])
            if reason := self._news(episode, t):
                changes.append(Change("updated", episode, reason))
        self.open.sort(key=lambda episode: episode.began)
        waiting = any(episode.waits_since is not None for episode in self.open)
        self._keys = None if waiting else set(violating)
        return changes

    def close(self, reason: str) -> list[Change]:
        """End all."""
        changes = [Change("ended", episode, reason) for episode in self.open]
        self.open, self._keys = [], None
        return changes

    def rename(self, old: int, new: int) -> None:
        """The track ``old`` goes on as ``new``."""
        self._keys = None
        for episode in self.open:
            if old in episode.members:
                episode.members = (episode.members - {old}) | {new}

    def _assign(self, clusters: list[set[int]]) -> dict[int, Episode]:
        """Cluster number -> the episode that goes on in it, the oldest choosing first."""
        owner: dict[int, Episode] = {}
        for episode in self.open:
            shared = [(len(members & episode.members), len(members), -i) for i, members in enumerate(clusters)]
            free = [choice for choice in shared if choice[0] and -choice[2] not in owner]
            if free:
                owner[-max(free)[2]] = episode
        return owner

    def _end_unowned(
        self, clusters: list[set[int]], owner: Mapping[int, Episode], pending: Collection[Key], t: float
    ) -> list[Change]:
        changes, going_on = [], set(owner.values())
        for episode in list(self.open):
            if episode in going_on:
                continue
            into = next(
                (owner[i] for i, members in enumerate(clusters) if i in owner and members & episode.members), None
            )
            if into is None and any(a in episode.members or b in episode.members for a, b in pending):
                if episode.waits_since is None:
                    episode.waits_since, episode.pairs = t, {}
                if t - episode.waits_since < self._wait_s - 1e-6:
                    continue
            episode.merged_into = into
            self.open.remove(episode)
            changes.append(Change("ended", episode, "merged" if into else "left"))
        return changes

    def _begin(self, members: set[int], pairs: Mapping[Key, PairState], source: Episode | None, t: float) -> Episode:
        began = t if source else min(state.since for state in pairs.values())
        episode = Episode(began, members, t, len(members), source, told_people=len(members))
        while episode.steps_passed < len(self._steps) and t - began >= self._steps[episode.steps_passed]:
            episode.steps_passed += 1
        self.open.append(episode)
        return episode

    def _news(self, episode: Episode, t: float) -> str:
        reason = ""
        if len(episode.members) > episode.told_people:
            episode.told_people = len(episode.members)
            reason = "growth"
        while episode.steps_passed < len(self._steps) and t - episode.began >= self._steps[episode.steps_passed] - 1e-6:
            episode.steps_passed += 1
            reason = "duration"
        return reason


def _follow(episode: Episode, pairs: dict[Key, PairState]) -> None:
    episode.pairs, episode.waits_since = pairs, None
    episode.people_max = max(episode.people_max, len(episode.members))
    for state in pairs.values():
        episode.last_near = max(episode.last_near, state.last_near)
        if state.min_distance_m + state.min_sigma_m < episode.min_distance_m + episode.min_sigma_m:
            episode.min_distance_m, episode.min_sigma_m = state.min_distance_m, state.min_sigma_m
