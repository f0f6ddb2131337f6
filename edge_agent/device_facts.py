"""What the agent says about its cameras and its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from edge_agent.capture.view import View
from edge_agent.health.status import ModelStatus, UpdateStatus
from edge_agent.types import DEVICE, CameraChange, CameraState, Event, NewId


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


class ModelState(TypedDict):
    """Which model is at work, and how its last update goes."""

    active: Annotated[ActiveModel | None, Field(description="the one at work; null: none, as in safe mode")]
    previous: Annotated[PreviousModel | None, Field(description="the one before; null: none")]
    state: Annotated[UpdateState, Field(description="of the last update; confirmed where there was none")]
    update: Annotated[ModelUpdate | None, Field(description="the last update; null: there was none")]


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
    }
