"""What the agent says about its cameras and its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from edge_agent.capture.view import View
from edge_agent.health.status import ModelStatus
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


class ActiveModel(TypedDict):
    """A model and what runs it."""

    name: Annotated[str, Field(description="its name")]
    version: Annotated[str, Field(description="its version")]
    sha256: Annotated[str, Field(description="of the file at work")]
    backend: Annotated[str, Field(description="what runs it, and on which device")]


class ModelState(TypedDict):
    """Which model is at work."""

    active: Annotated[ActiveModel, Field(description="the one at work")]
    previous: Annotated[ActiveModel | None, Field(description="the one before; null: none")]
    state: Annotated[Literal["confirmed"], Field(description="of the activation")]


def device_event(what: str, data: Mapping[str, Any], utc: float, new_id: NewId) -> Event:
    """A fact about the box; ``data`` as ``contract`` has it for ``what``."""
    ident = new_id(utc)
    return Event(ident, DEVICE, "device", what, None, ident, utc, data)


def camera_event(change: CameraChange, new_id: NewId) -> Event:
    """A camera's state or view changed."""
    data = {"camera": change.camera, "state": change.value, "previous": change.previous, "reason": change.reason}
    return device_event(change.what, data, change.utc, new_id)


def model_state(model: ModelStatus) -> ModelState:
    """The retained document of the topic ``model``."""
    active: ActiveModel = {
        "name": model.name,
        "version": model.version,
        "sha256": model.sha256,
        "backend": model.backend,
    }
    return {"active": active, "previous": None, "state": "confirmed"}
