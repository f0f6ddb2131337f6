"""What the updater does to the agent itself, told by the agent: the updater is another program, root's, and has no broker.

It writes each step down before it does it, where everybody may read. The old release tells that another one comes, whichever
runs then what became of it.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import NotRequired, TypedDict

from edge_agent import __version__
from edge_agent.durable import write_file
from edge_agent.journal import told
from edge_agent.ota.job import Stored
from edge_agent.ota.release import Home
from edge_agent.ota.store import STATE, ModelStore

log = logging.getLogger(__name__)

NAME = "agent-update.json"
LOOK_S = 2.0
ReleaseState: TypeAlias = Literal["begun", "probation", "confirmed", "rolled_back"]


class AgentUpdateFacts(TypedDict):
    """Another release of the agent is being prepared, has taken over, was kept, or was taken back."""

    state: Annotated[ReleaseState, Field(description="what became of it; probation: it runs, and is watched")]
    version: Annotated[str, Field(description="the release that it is about")]
    before: Annotated[str, Field(description="the release that runs without it, or ran before it")]
    running: Annotated[str, Field(description="the release that says this")]
    reason: NotRequired[Annotated[str, Field(description="why it was taken back, in one word")]]
    detail: NotRequired[Annotated[str, Field(description="why it was taken back, for people")]]


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True)
    version: str = ""
    state: str = ""


class ReleaseWatch:
    """``home`` is where releases live; None where this agent is none that the updater made. One thread."""

    def __init__(self, state_dir: Path, home: Path | None) -> None:
        self._path, self._next, self._seen = state_dir / NAME, 0.0, 0
        self._store = None if home is None else ModelStore(Home(home).update)
        self._state = None if home is None else Home(home).update / STATE

    def look(self, tell: Callable[[str, Mapping[str, Any]], None]) -> None:
        """``tell`` emits an event about the box."""
        if self._store is None or self._state is None or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LOOK_S
        try:
            changed = self._state.stat().st_mtime_ns
        except OSError:  # nothing was ever updated, or only root may look
            return
        if changed == self._seen:
            return
        self._seen = changed
        if (facts := _facts(self._store.read())) is not None:
            self._tell(facts, tell)

    def _tell(self, facts: AgentUpdateFacts, tell: Callable[[str, Mapping[str, Any]], None]) -> None:
        now = _Told(version=facts["version"], state=facts["state"])
        if now == self._last():
            return
        words = f": {facts['detail']}" if "detail" in facts else ""
        level = logging.WARNING if facts["state"] == "rolled_back" else logging.INFO
        kind = told("edge_agent.device.agent_update", version=facts["version"], state=facts["state"])
        log.log(
            level,
            "release %s of the agent: %s%s",
            facts["version"],
            facts["state"].replace("_", " "),
            words,
            extra=kind,
        )
        tell("agent_update", facts)
        try:
            write_file(self._path, now.model_dump_json().encode())
        except OSError as error:  # then it is told again after the next start
            log.error("%s: %s", self._path, error.strerror)

    def _last(self) -> _Told:
        try:
            with self._path.open("rb") as file:
                return _Told.model_validate_json(file.read(1 << 12))
        except (OSError, ValidationError):
            return _Told()


def home_of(prefix: Path) -> Path | None:
    """Where the release lives whose Python environment this is; None where it is another kind of installation."""
    place = prefix.resolve()
    return place.parents[1] if place.parent.name == "releases" and len(place.parents) > 1 else None


def this_home() -> Path | None:
    """That of this process."""
    return home_of(Path(sys.prefix))


def _facts(stored: Stored) -> AgentUpdateFacts | None:
    job = stored.job
    if job is None:
        return None
    taken = job.state in {"probation", "confirmed"}
    before = stored.previous if taken else stored.active
    state: ReleaseState = "begun"
    if job.state in {"probation", "confirmed", "rolled_back"}:
        state = cast("ReleaseState", job.state)
    facts = AgentUpdateFacts(
        state=state, version=job.bundle.version, before="" if before is None else before.version, running=__version__
    )
    if job.reason:
        facts["reason"], facts["detail"] = job.reason, job.detail
    return facts
