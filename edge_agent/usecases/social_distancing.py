"""Social distancing: people nearer than a distance for longer than a time, one episode for each cluster of them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from edge_agent.config import CameraConfig, SocialDistancingConfig
from edge_agent.errors import ConfigError
from edge_agent.types import I64, Bools, Event, NewId, Observation, Output, Pairs, rfc3339
from edge_agent.usecases.clusters import Identities, Position
from edge_agent.usecases.episodes import Change, Episode, EpisodeBook
from edge_agent.usecases.ground import PAIR_LIMIT_M, near_pairs
from edge_agent.usecases.minutes import Minutes, Sample
from edge_agent.usecases.proximity import Near, Proximity
from edge_agent.usecases.violation import MAX_LISTED, NearPair, Standing, Violation
from edge_agent.usecases.zones import Zones, foot_fractions

log = logging.getLogger(__name__)

GAP_S = 5.0
"""Frames farther apart than this (and than the leave duration): nobody knows what happened between, all episodes end."""


class SocialDistancing:
    """The use case for one camera (see ``pipeline.UseCase``). ``new_id`` makes ids of events and episodes.

    Events: ``violation`` started (its time is when the first pair came near), updated (at ``update_at_s`` and on growth),
    ended (its time is when the last pair was near). With the rate cap reached, a start is told late, while the
    episode lasts, and an update not at all; the end of a start that was told always is. ``held_back`` in the next event and
    ``events_held_back`` in the metrics count what was not told in time.

    Raises ConfigError for a zone that is not one of the camera's or is no polygon.
    """

    name = "social_distancing"

    def __init__(self, config: SocialDistancingConfig, camera: CameraConfig, new_id: NewId) -> None:
        if config.zone is not None and config.zone not in camera.zones:
            raise ConfigError([f"use_cases.social_distancing.zone: camera {camera.id} has no zone {config.zone!r}"])
        self._config, self._camera, self._new_id = config, camera.id, new_id
        self._zones = Zones(camera.zones, f"cameras.{camera.id}.zones")
        self._proximity = Proximity(config)
        self._identities = Identities()
        self._told = EpisodeBook(config.update_at_s, config.min_duration_s)
        self._all = EpisodeBook([], config.min_duration_s) if config.groups.enabled else None
        """The same without the exemption of groups, for counting only."""
        self._gap_s = max(GAP_S, config.leave_duration_s)
        self._minutes = Minutes(camera.id, self.name, self._gap_s)
        self._sent: deque[float] = deque()
        self._held_back = 0
        self._last: Observation | None = None
        self._stood: tuple[I64, Bools] = np.empty(0, np.int64), np.empty((len(self._zones.names), 0), bool)
        """In the last frame: tracks (N,), and which of them stood in which zone (Z,N)."""

    @property
    def open_episodes(self) -> int:
        """Episodes whose start was told and whose end was not."""
        return sum(bool(episode.ident) for episode in self._told.open)

    def update(self, seen: Observation) -> list[Output]:
        """See ``pipeline.UseCase``."""
        outputs: list[Output] = []
        if self._last is not None and seen.t - self._last.t > self._gap_s:
            outputs += self._end_all("camera_gap")
        outputs += self._minutes.advance(seen.t, seen.utc)
        self._last = seen
        persons, here, inside = self._present(seen)
        # Of everybody, also outside the zone: who left it has not vanished.
        positions = self._positions(seen, persons)
        for old, new in self._identities.update(positions, seen.t):
            self._proximity.rename(old, new)
            for book in self._books():
                book.rename(old, new)
        pairs = self._between(seen, here)
        born = (
            {ident: self._identities.people[ident].born for ident in positions} if self._config.groups.enabled else {}
        )
        self._proximity.update(self._near(seen, pairs), born, seen.t)
        outputs += self._judge(seen, positions)
        self._measure(pairs, here, inside)
        return outputs

    def close(self, reason: str) -> list[Output]:
        """See ``pipeline.UseCase``."""
        if self._last is None:
            return []
        return [*self._end_all(reason), *self._minutes.close()]

    def _books(self) -> list[EpisodeBook]:
        return [self._told] if self._all is None else [self._told, self._all]

    def _present(self, seen: Observation) -> tuple[Bools, Bools, Bools]:
        """Which tracks are persons (N,), which of them count (N,), and which stand in which zone (Z,N)."""
        tracks = seen.tracks
        label = self._config.label
        persons: Bools = (
            tracks.classes == tracks.labels.index(label) if label in tracks.labels else np.zeros(len(tracks), bool)
        )
        inside = self._zones.inside(foot_fractions(tracks.boxes, seen.size)) & persons
        self._stood = tracks.ids, inside
        here = persons if self._config.zone is None else inside[self._zones.names.index(self._config.zone)]
        return persons, here, inside

    def _positions(self, seen: Observation, here: Bools) -> dict[int, Position]:
        rows = np.flatnonzero(here & ~np.isnan(seen.ground.xy[:, 0]))
        return {
            ident: (x, y)
            for ident, (x, y) in zip(seen.tracks.ids[rows].tolist(), seen.ground.xy[rows].tolist(), strict=True)
        }

    def _between(self, seen: Observation, here: Bools) -> Pairs:
        """The pairs of those who count: nearer than 5 m, or than the leave distance where that is more."""
        leave = self._proximity.leave
        pairs: Pairs = seen.pairs if leave <= PAIR_LIMIT_M else near_pairs(seen.tracks, seen.ground, leave)
        if here.all():
            return pairs
        a, b = (np.searchsorted(seen.tracks.ids, ids) for ids in (pairs.a, pairs.b))
        both = here[a] & here[b]
        return Pairs(pairs.a[both], pairs.b[both], pairs.distance_m[both], pairs.sigma_m[both])

    def _near(self, seen: Observation, pairs: Pairs) -> list[Near]:
        """Those of ``pairs`` under the leave distance."""
        keep = np.flatnonzero(pairs.distance_m < self._proximity.leave)
        if not len(keep):
            return []
        a, b = (np.searchsorted(seen.tracks.ids, ids[keep]) for ids in (pairs.a, pairs.b))
        apart = seen.ground.xy[b] - seen.ground.xy[a]
        return [
            Near((first, second), distance, sigma, (x, y))
            for first, second, distance, sigma, (x, y) in zip(
                pairs.a[keep].tolist(),
                pairs.b[keep].tolist(),
                pairs.distance_m[keep].tolist(),
                pairs.sigma_m[keep].tolist(),
                apart.tolist(),
                strict=True,
            )
        ]

    def _judge(self, seen: Observation, positions: Mapping[int, Position]) -> list[Output]:
        pending = [key for key, state in self._proximity.pairs.items() if not state.violating]
        everything = self._proximity.violating(exempt_groups=False)
        judged = self._proximity.violating(exempt_groups=True) if self._all is not None else everything
        changes = self._told.update(judged, pending, seen.t)
        started = sum(change.phase == "started" for change in changes)
        without = started
        if self._all is not None:
            without = sum(change.phase == "started" for change in self._all.update(everything, pending, seen.t))
        if started or without:
            self._minutes.count("violations", started)
            self._minutes.count("violations_without_exemption", without)
        outputs: list[Output] = []
        for episode in self._told.open:
            if not episode.ident and not any(c.episode is episode and c.phase == "started" for c in changes):
                outputs += self._tell(Change("started", episode, "late"), seen, positions, retry=True)
        for change in changes:
            outputs += self._tell(change, seen, positions)
        return outputs

    def _end_all(self, reason: str) -> list[Output]:
        assert self._last is not None
        changes = self._told.close(reason)
        if self._all is not None:
            self._all.close(reason)
        self._proximity = Proximity(self._config)
        self._identities = Identities()
        positions = self._positions(self._last, self._present(self._last)[0])
        return [event for change in changes for event in self._tell(change, self._last, positions)]

    def _tell(
        self, change: Change, seen: Observation, positions: Mapping[int, Position], *, retry: bool = False
    ) -> list[Event]:
        """The event of a change, unless the rate cap holds it back."""
        episode = change.episode
        if change.phase != "started" and not episode.ident:
            return []
        while self._sent and seen.t - self._sent[0] >= 60.0:
            self._sent.popleft()
        if change.phase != "ended" and len(self._sent) >= self._config.max_events_per_minute:
            if not retry:
                self._held_back += 1
                self._minutes.count("events_held_back")
            return []
        self._sent.append(seen.t)
        at = {"started": episode.began, "updated": seen.t, "ended": episode.last_near}[change.phase]
        at = seen.t if change.phase == "ended" and change.reason not in ("left", "merged") else at
        utc = seen.utc - (seen.t - at)
        if not episode.ident:
            episode.ident = self._new_id(utc)
        data = self._data(change, at, seen, positions)
        self._held_back = 0
        return [Event(self._new_id(utc), self._camera, self.name, "violation", change.phase, episode.ident, utc, data)]

    def _data(self, change: Change, at: float, seen: Observation, positions: Mapping[int, Position]) -> dict[str, Any]:
        episode = change.episode
        until = seen.t if change.phase == "started" else at
        members = sorted(episode.members)
        facts: Violation = {
            "limit_m": self._config.distance_m,
            "started": rfc3339(seen.utc - (seen.t - episode.began)),
            "duration_s": round(max(until - episode.began, 0.0), 3),
            "min_distance_m": round(episode.min_distance_m, 3),
            "min_distance_sigma_m": round(episode.min_sigma_m, 3),
            "people": len(members),
            "people_max": episode.people_max,
            "track_ids": members[:MAX_LISTED],
            "pair_count": len(episode.pairs),
            "pairs": self._listed_pairs(episode, seen.t),
            "positions": self._listed_positions(members, seen, positions),
            "open_episodes": self.open_episodes,
            "zone": self._zone(episode),
            "calibrated": seen.ground.calibrated,
        }
        if change.phase == "started" and episode.split_from is not None:
            facts["split_from"] = episode.split_from.ident or None
        if self._held_back:
            facts["held_back"] = self._held_back
        data: dict[str, Any] = {
            **facts,
            "ended": rfc3339(seen.utc - (seen.t - at)) if change.phase == "ended" else None,
        }
        if change.reason:
            data["reason"] = change.reason
        if episode.merged_into is not None:
            data["merged_into"] = episode.merged_into.ident or None
        return data

    def _listed_pairs(self, episode: Episode, t: float) -> list[NearPair]:
        nearest = sorted(episode.pairs.items(), key=lambda item: item[1].distance_m)[:MAX_LISTED]
        return [
            {
                "a": key[0],
                "b": key[1],
                "distance_m": round(state.distance_m, 3),
                "sigma_m": round(state.sigma_m, 3),
                "duration_s": round(max(state.last_near - state.since, 0.0), 3),
            }
            for key, state in nearest
        ]

    def _listed_positions(
        self, members: list[int], seen: Observation, positions: Mapping[int, Position]
    ) -> list[Standing]:
        """Where the members stand, metres in the site's plane; empty without calibration, when there is no such plane."""
        if not seen.ground.calibrated:
            return []
        ids = seen.tracks.ids.tolist()
        listed: list[Standing] = []
        for member in members[:MAX_LISTED]:
            if member in positions:
                x, y = positions[member]
                estimated = bool(seen.ground.estimated[ids.index(member)])
                listed.append({"track_id": member, "x_m": round(x, 3), "y_m": round(y, 3), "estimated": estimated})
        return listed

    def _zone(self, episode: Episode) -> str | None:
        """The zone that most members stand in; the first of the configuration where it is a tie."""
        if self._config.zone is not None:
            return self._config.zone
        ids, inside = self._stood
        standing = inside[:, np.isin(ids, list(episode.members))]
        # Of zones that overlap, somebody in both is in the first.
        zones = standing.argmax(axis=0)[standing.any(axis=0)] if len(standing) else np.empty(0, np.int64)
        return self._zones.names[np.bincount(zones).argmax()] if len(zones) else None

    def _measure(self, pairs: Pairs, here: Bools, inside: Bools) -> None:
        levels = {
            "people": float(np.count_nonzero(here)),
            "violations": float(len(self._told.open)),
            "violations_without_exemption": float(len((self._all or self._told).open)),
        }
        for name, count in zip(self._zones.names, inside.sum(axis=1).tolist(), strict=True):
            levels[f"zone/{name}"] = float(count)
        distances = pairs.distance_m
        levels["pairs"] = float(np.count_nonzero(distances < self._config.distance_m))
        if len(distances):
            nearest = int(np.argmin(distances + pairs.sigma_m))
            closest = (float(distances[nearest]), float(pairs.sigma_m[nearest]))
            self._minutes.hold(Sample(levels, closest, float(distances.mean())))
        else:
            self._minutes.hold(Sample(levels))
