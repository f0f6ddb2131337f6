"""What the agent says about its cameras and its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from edge_agent.capture.view import View
from edge_agent.health.shadow import ShadowState, ShadowStatus
from edge_agent.health.status import ModelStatus, UpdateStatus
from edge_agent.types import DEVICE, CameraChange, CameraState, Event, NewId, rfc3339


class CameraStateFacts(TypedDict):
    """A camera came to another state."""

    camera: Annotated[str, Field(description="the camera")]
    state: Annotated[CameraState, Field(description="its state now")]
    previous: Annotated[CameraState, Field(description="its state before")]
    reason: Annotated[str, Field(description="why, in words")]


class CameraViewFacts(TypedDict):
    """What a camera sees changed its health."""

    camera: Annotated[str, Field(description="the camera")]
    state: Annotated[View, Field(description="how the view is now")]
    previous: Annotated[View, Field(description="how it was before")]
    reason: Annotated[str, Field(description="why, in words")]


UpdateState: TypeAlias = Literal[
    "asking",
    "refused",
    "downloading",
    "verified",
    "compiling",
    "self_testing",
    "warming",
    "probation",
    "confirmed",
    "rolled_back",
]
_Bundle = Annotated[str | None, Field(description="SHA-256 of the signed bundle; null: it came with the agent")]


class ActiveModel(TypedDict):
    """A model and what runs it."""

    name: Annotated[str, Field(description="its name")]
    version: Annotated[str, Field(description="its version")]
    sha256: Annotated[str, Field(description="of the file at work")]
    backend: Annotated[str, Field(description="what runs it, and on which device")]
    bundle: _Bundle


class PreviousModel(TypedDict):
    """What a rollback brings back."""

    name: Annotated[str, Field(description="its name")]
    version: Annotated[str, Field(description="its version")]
    bundle: _Bundle


class ModelUpdate(TypedDict):
    """The last update of the model, or attempt at one."""

    model: Annotated[str, Field(description="name@version, or the name alone before the repository was asked")]
    bundle: _Bundle
    progress: Annotated[float | None, Field(ge=0, le=1, description="of what the state names; null: not known")]
    reason: Annotated[
        str, Field(description="one word for why it was refused or rolled back, or not observed; or empty")
    ]
    detail: Annotated[str, Field(description="the same for people")]
    agreement: Annotated[
        float | None,
        Field(ge=0, le=1, description="F1 of its boxes and another model's on the same frames; null: not compared"),
    ]
    compared: Annotated[int, Field(ge=0, description="frames that both have seen")]


class ShadowOfLabel(TypedDict):
    """What the two models saw of one label."""

    active: Annotated[int, Field(ge=0, description="boxes of which the model at work was sure")]
    shadow: Annotated[int, Field(ge=0, description="boxes of which the one in shadow was sure")]
    agreement: Annotated[
        float | None, Field(ge=0, le=1, description="F1 of both; null: one of them does not know the label")
    ]


class ModelShadow(TypedDict):
    """A model that looks at a share of the frames beside the one at work; nothing comes of it but this."""

    model: Annotated[str, Field(description="name@version")]
    bundle: _Bundle
    beside: Annotated[str | None, Field(description="name@version of the model at work; null: it never ran")]
    state: Annotated[ShadowState, Field(description="completed: for its whole time; ended: before that, see reason")]
    progress: Annotated[float | None, Field(ge=0, le=1, description="of what the state names; null: not known")]
    reason: Annotated[str, Field(description="one word for why it ended early; or empty")]
    detail: Annotated[str, Field(description="the same for people")]
    fraction: Annotated[float, Field(ge=0, le=1, description="share of the frames that it was to look at")]
    minutes: Annotated[float, Field(ge=0, description="for so long")]
    began: Annotated[str, Field(description="RFC 3339 UTC")]
    ended: Annotated[str | None, Field(description="RFC 3339 UTC; null: not yet")]
    frames: Annotated[int, Field(ge=0, description="that both have seen")]
    failed: Annotated[int, Field(ge=0, description="frames on which it failed")]
    missed: Annotated[int, Field(ge=0, description="frames for which it had no time")]
    agreement: Annotated[float | None, Field(ge=0, le=1, description="F1 of the boxes of both; null: there were none")]
    score_difference: Annotated[
        float | None,
        Field(ge=-1, le=1, description="mean of its score less that of the model at work, where they agree"),
    ]
    latency_ms: Annotated[float | None, Field(description="mean of one frame, at low priority")]
    active_latency_ms: Annotated[float | None, Field(description="the same of the model at work")]
    labels: Annotated[dict[str, ShadowOfLabel], Field(description="what was seen, by label")]


class ModelState(TypedDict):
    """Which model is at work, and how its last update goes."""

    active: Annotated[ActiveModel | None, Field(description="the one at work; null: none, as in safe mode")]
    previous: Annotated[PreviousModel | None, Field(description="the one before; null: none")]
    state: Annotated[UpdateState, Field(description="of the last update; confirmed where there was none")]
    update: Annotated[ModelUpdate | None, Field(description="the last update; null: there was none")]
    shadow: Annotated[ModelShadow | None, Field(description="the last model in shadow; null: there was none")]


class ModelFacts(TypedDict):
    """A model took over, was kept, was taken back, or was refused."""

    model: Annotated[str, Field(description="the one that it is about: name@version, or a name")]
    bundle: _Bundle
    state: Annotated[
        Literal["refused", "probation", "confirmed", "rolled_back"], Field(description="what became of it")
    ]
    active: Annotated[str, Field(description="name@version of the one at work now; empty: none, as in safe mode")]
    reason: NotRequired[Annotated[str, Field(description="why, in one word")]]
    detail: NotRequired[Annotated[str, Field(description="why, for people")]]


def device_event(what: str, data: Mapping[str, Any], utc: float, new_id: NewId) -> Event:
    """A fact about the box; ``data`` as ``contract`` has it for ``what``."""
    ident = new_id(utc)
    return Event(ident, DEVICE, "device", what, None, ident, utc, data)


def camera_event(change: CameraChange, new_id: NewId) -> Event:
    """A camera's state or view changed."""
    data = {"camera": change.camera, "state": change.value, "previous": change.previous, "reason": change.reason}
    return device_event(change.what, data, change.utc, new_id)


def update_facts(update: UpdateStatus) -> ModelUpdate:
    """The same for the outside."""
    return {
        "model": update.model,
        "bundle": update.bundle or None,
        "progress": None if update.progress is None else round(update.progress, 2),
        "reason": update.reason,
        "detail": update.detail,
        "agreement": None if update.agreement is None else round(update.agreement, 2),
        "compared": update.compared,
    }


def model_state(model: ModelStatus) -> ModelState:
    """The retained document of the topic ``model``."""
    active: ActiveModel = {
        "name": model.name,
        "version": model.version,
        "sha256": model.sha256,
        "backend": model.backend,
        "bundle": model.bundle or None,
    }
    name, _, version = model.previous.partition("@")
    previous: PreviousModel = {"name": name, "version": version, "bundle": model.previous_bundle or None}
    last = model.update
    update = None if last is None else update_facts(last)
    state = cast("UpdateState", "confirmed" if last is None else last.state)
    return {
        "active": active if model.name else None,
        "previous": previous if model.previous else None,
        "state": state,
        "update": update,
        "shadow": None if model.shadow is None else shadow_facts(model.shadow),
    }


def shadow_facts(shadow: ShadowStatus) -> ModelShadow:
    """As it is told."""
    return {
        "model": shadow.model,
        "bundle": shadow.bundle or None,
        "beside": shadow.beside or None,
        "state": shadow.state,
        "progress": None if shadow.progress is None else round(shadow.progress, 2),
        "reason": shadow.reason,
        "detail": shadow.detail,
        "fraction": shadow.fraction,
        "minutes": shadow.minutes,
        "began": rfc3339(shadow.began),
        "ended": None if shadow.ended is None else rfc3339(shadow.ended),
        "frames": shadow.frames,
        "failed": shadow.failed,
        "missed": shadow.missed,
        "agreement": shadow.agreement,
        "score_difference": shadow.score_difference,
        "latency_ms": shadow.latency_ms,
        "active_latency_ms": shadow.active_latency_ms,
        "labels": {
            label: {"active": of.active, "shadow": of.shadow, "agreement": of.agreement}
            for label, of in shadow.labels.items()
        },
    }
