"""What an event of social distancing says."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from edge_agent.payload import Count, EndReason, EpisodeFacts, EventId, Metres, Seconds, Time

MAX_LISTED = 50
"""Pairs and positions in one event; an event must fit into a message of some kilobytes."""


class NearPair(TypedDict):
    """Two people who are too near each other."""

    a: Annotated[Count, Field(description="track id of one")]
    b: Annotated[Count, Field(description="track id of the other; a < b")]
    distance_m: Annotated[Metres, Field(description="how far apart they are")]
    sigma_m: Annotated[Metres, Field(description="standard error of the distance")]
    duration_s: Annotated[Seconds, Field(description="how long they have been near")]


class Standing(TypedDict):
    """Where somebody stands, in the site's plane."""

    track_id: Annotated[Count, Field(description="who")]
    x_m: Annotated[float, Field(description="metres along the plane's x axis")]
    y_m: Annotated[float, Field(description="metres along the plane's y axis")]
    estimated: Annotated[bool, Field(description="the feet were hidden")]


class Violation(EpisodeFacts):
    """One cluster of people who stand too near each other."""

    limit_m: Annotated[Metres, Field(description="the distance that counts as too near")]
    min_distance_m: Annotated[Metres, Field(description="closest of the episode for sure")]
    min_distance_sigma_m: Annotated[Metres, Field(description="standard error of min_distance_m")]
    people: Annotated[Count, Field(description="people in the cluster now")]
    people_max: Annotated[Count, Field(description="most people it ever had")]
    track_ids: Annotated[
        list[Count], Field(max_length=MAX_LISTED, description="who they are; valid within one run of the agent")
    ]
    pair_count: Annotated[Count, Field(description="pairs that are too near now")]
    pairs: Annotated[list[NearPair], Field(max_length=MAX_LISTED, description="the nearest of those pairs")]
    positions: Annotated[list[Standing], Field(max_length=MAX_LISTED, description="empty without calibration")]
    open_episodes: Annotated[
        Count, Field(description="episodes of this camera that are open now, this one too unless it ended")
    ]
    zone: Annotated[str | None, Field(description="the zone most of them stand in")]
    calibrated: Annotated[bool, Field(description="distances are measured on a ground plane, not estimated")]
    split_from: NotRequired[
        Annotated[EventId | None, Field(description="episode that it was a part of; null where that was not told")]
    ]
    held_back: NotRequired[
        Annotated[int, Field(ge=1, description="events that the rate cap held back before this one")]
    ]


class ViolationStarted(Violation):
    """People came too near each other and stayed so for the configured time."""

    ended: Annotated[None, Field(description="not yet")]
    reason: NotRequired[
        Annotated[
            Literal["split", "late"],
            Field(description="split: walks off from another episode; late: the rate cap had held it back"),
        ]
    ]


class ViolationUpdated(Violation):
    """It lasts, or grew."""

    ended: Annotated[None, Field(description="not yet")]
    reason: Annotated[
        Literal["duration", "growth"], Field(description="a step of time is reached, or more people came")
    ]


class ViolationEnded(Violation):
    """It is over."""

    ended: Annotated[Time, Field(description="when it ended")]
    reason: Annotated[
        Literal["left", "merged", EndReason],
        Field(
            description="left: no pair is near any more; merged: into an older episode; camera_gap: no frame for too long; "
            "agent_restart: the agent was killed meanwhile"
        ),
    ]
    merged_into: NotRequired[
        Annotated[EventId | None, Field(description="the older episode; null where that was not told")]
    ]
