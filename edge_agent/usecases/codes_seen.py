"""Tells each code that comes into view, by its name: for finding out what to put into the configuration, and as a log of badges."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict

from edge_agent.config import CameraConfig
from edge_agent.config_codes import CodesConfig
from edge_agent.payload import EndReason
from edge_agent.types import Code, CodeKind, Event, NewId, Observation, Output, TokenState
from edge_agent.usecases.zones import Zones

AWAY_S = 10.0
"""A code that was not read for so long comes anew."""
MAX_PER_MINUTE = 60
_MOST = 1000


class CodeSeen(TypedDict):
    """A code came into view. What it says is not told."""

    kind: Annotated[CodeKind, Field(description="what it is")]
    name: Annotated[str, Field(description="stands for its text: marker-17, qr- or token- and 16 hexadecimal digits")]
    groups: Annotated[list[str], Field(description="those of `codes.names` it belongs to")]
    zone: Annotated[str | None, Field(description="the first zone its middle lies in; null: in none")]
    token: Annotated[TokenState | None, Field(description="of a token: whether it is to be believed; null: it is none")]
    purpose: Annotated[str | None, Field(description="of a token that we signed: what for; null: it is none")]


class CodesSeen:
    """The use case for one camera (see ``pipeline.UseCase``). At most ``MAX_PER_MINUTE`` events; more codes are left out."""

    name = "codes"
    open_episodes = 0

    def __init__(self, _: CodesConfig, camera: CameraConfig, new_id: NewId) -> None:
        self._camera, self._new_id = camera.id, new_id
        self._zones = Zones(camera.zones, f"cameras.{camera.id}.zones")
        self._last: dict[tuple[str, TokenState | None], float] = {}
        self._sent: list[float] = []

    def update(self, seen: Observation) -> list[Output]:
        """See ``pipeline.UseCase``."""
        outputs: list[Output] = []
        for code in seen.codes:
            key = code.name, code.token.state if code.token is not None else None
            known = self._last.get(key)
            self._last.pop(key, None)
            self._last[key] = seen.t
            if known is not None and seen.t - known <= AWAY_S:
                continue
            self._sent = [t for t in self._sent if seen.t - t < 60.0]
            if len(self._sent) < MAX_PER_MINUTE:
                self._sent.append(seen.t)
                outputs.append(self._event(seen, code))
        while len(self._last) > _MOST:
            del self._last[next(iter(self._last))]
        return outputs

    def close(self, _: EndReason) -> list[Output]:
        """See ``pipeline.UseCase``."""
        return []

    def _event(self, seen: Observation, code: Code) -> Event:
        x1, y1, x2, y2 = code.box
        middle = np.array([[(x1 + x2) / 2, (y1 + y2) / 2]]) / seen.size
        inside = self._zones.inside(middle)[:, 0].tolist()
        utc = seen.utc - (seen.t - code.t)
        facts: CodeSeen = {
            "kind": code.kind,
            "name": code.name,
            "groups": list(code.groups),
            "zone": next((name for name, here in zip(self._zones.names, inside, strict=True) if here), None),
            "token": code.token.state if code.token is not None else None,
            "purpose": (code.token.purpose or None) if code.token is not None else None,
        }
        ident = self._new_id(utc)
        return Event(ident, self._camera, self.name, "seen", None, ident, utc, dict(facts))
