"""How many are in a zone: those in view, and those who were a moment ago and are hidden."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_agent.config_sop import Anchor
from edge_agent.types import I64, Bools
from edge_agent.usecases.evidence import FALSE, GRACE_S, TRUE, UNKNOWN
from edge_agent.usecases.scene import Place, Scene, Truths

MAX_LISTED = 50
"""Tracks in one event; an event must fit into a message of some kilobytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Presence:
    """``people`` are there; ``tracks`` are those in view, by the tracker's ids."""

    people: int
    tracks: I64

    @property
    def listed(self) -> list[int]:
        """The first of the tracks, for an event."""
        ids: list[int] = np.sort(self.tracks)[:MAX_LISTED].tolist()
        return ids


def need_zone(place: Place, zone: str | None) -> None:
    """KeyError where the camera has none of that name."""
    if zone is not None and zone not in (*place.frame_zones.names, *place.floor_zones.names):
        raise KeyError(zone)


def in_zone(scene: Scene, zone: str | None, anchor: Anchor) -> Truths:
    """(N,) whether each thing of the scene is a person in the zone; None stands for the whole picture."""
    if zone is not None:
        return scene.in_zone(zone, anchor) * scene.persons
    things = scene.things
    seen = np.where(scene.hidden, np.where(things.left, FALSE, UNKNOWN), TRUE).astype(np.int8)
    return seen * scene.persons


def presence(scene: Scene, zone: str | None, anchor: Anchor) -> Presence:
    """Who is there now.

    Whoever is hidden for a moment counts, but not beside a newcomer, who may be the same person under another id.
    """
    things, there = scene.things, in_zone(scene, zone, anchor)
    seen: Bools = there == TRUE
    fresh = int(np.count_nonzero(seen & things.new))
    moment = int(np.count_nonzero((there == UNKNOWN) & (things.unseen_s <= GRACE_S) & ~things.new))
    return Presence(int(np.count_nonzero(seen)) + max(0, moment - fresh), things.tracks[seen])
