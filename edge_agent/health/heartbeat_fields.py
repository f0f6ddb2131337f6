"""What a heartbeat says. ``Known`` fields are left out while their value is not known."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from edge_agent.health.status import Health, Throttling
from edge_agent.payload import Count, Known, NonNegative, Percent, Time
from edge_agent.types import CameraState


class CameraBeat(TypedDict):
    """One camera."""

    id: Annotated[str, Field(description="the camera")]
    state: Annotated[CameraState, Field(description="the state")]
    view: NotRequired[Annotated[Known[str], Field(description="black, frozen or covered; left out while it is well")]]
    fps: NotRequired[Annotated[Known[NonNegative], Field(description="frames processed per second")]]
    latency_ms: NotRequired[Annotated[Known[Count], Field(description="from frame to result")]]
    age_s: NotRequired[Annotated[Known[float], Field(description="of the last frame")]]
    dropped: NotRequired[Annotated[Known[Count], Field(description="frames nobody had time for")]]


class OutboxBeat(TypedDict):
    """The store of what is to be delivered. Counters are modulo 10^9."""

    depth: Annotated[Count, Field(description="messages waiting")]
    oldest_age_s: NotRequired[Annotated[Known[int], Field(description="of the oldest of them")]]
    dropped: Annotated[Count, Field(description="messages dropped since the start")]
    refused: NotRequired[Annotated[Known[Count], Field(description="messages that a sink will never take")]]
    dropping: NotRequired[Annotated[Known[bool], Field(description="something was dropped within the last minute")]]
    state: NotRequired[
        Annotated[Known[Literal["failing"]], Field(description="it cannot write; left out while it is well")]
    ]


class ModelBeat(TypedDict):
    """The model at work."""

    name: Annotated[str, Field(description="its name")]
    version: Annotated[str, Field(description="its version")]
    sha256: Annotated[str, Field(description="of the file at work")]


class HostBeat(TypedDict, total=False):
    """The box."""

    cpu_pct: Annotated[Known[Percent], Field(description="of all cores together")]
    ram_pct: Annotated[Known[Percent], Field(description="memory in use")]
    rss_mb: Annotated[Known[Count], Field(description="memory of the agent")]
    disk_free_mb: Annotated[Known[Count], Field(description="where the state lies")]
    temperature_c: Annotated[Known[int], Field(description="the hottest part")]
    hottest: Annotated[Known[str], Field(description="which part that is")]
    throttled: Annotated[Known[list[Throttling]], Field(description="why the box runs slower than it could")]
    throttled_s: Annotated[Known[Count], Field(description="for how long it did since the start")]
    power_w: Annotated[Known[float], Field(description="what the box draws")]
    clock_ok: Annotated[Known[bool], Field(description="the clock is synchronised")]


class Heartbeat(TypedDict):
    """How the box is doing. Latest only, never replayed; at most 1 KB with one camera."""

    time: Annotated[Time, Field(description="when it was made")]
    sequence: Annotated[Count, Field(description="counts from 0 with every start of the agent")]
    version: Annotated[str, Field(description="of the agent")]
    boot_id: Annotated[str, Field(min_length=1, description="changes with every start of the agent")]
    uptime_s: Annotated[Count, Field(description="since that start")]
    config: Annotated[str, Field(description="beginning of the configuration's hash")]
    status: Annotated[Health, Field(description="degraded: somebody should look; failing: a restart would help")]
    safe_mode: NotRequired[Annotated[bool, Field(description="no inference after repeated crashes")]]
    cameras: Annotated[list[CameraBeat], Field(description="in the order of the configuration")]
    outbox: Annotated[OutboxBeat, Field(description="the store")]
    model: Annotated[ModelBeat | None, Field(description="the model at work; null: none")]
    host: Annotated[HostBeat, Field(description="the box")]
    sensors_bad: NotRequired[Annotated[Count, Field(description="sensors without a good value")]]
    last_error: NotRequired[Annotated[str, Field(description="the latest trouble, cut to the room there is")]]
