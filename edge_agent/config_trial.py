"""A configuration changed from afar is on trial: kept where the agent is as ready with it as before, else taken back.

All that is known of it stands in one file, replaced whole, so that neither a crash nor a power cut leaves half of it, and
a configuration that lets the agent not even start is taken back by the next start.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from edge_agent import config_layer
from edge_agent.config import Config, redact
from edge_agent.config_file import ConfigFile
from edge_agent.config_layer import MAX_STARTS
from edge_agent.durable import write_file
from edge_agent.errors import ConfigError
from edge_agent.health.status import AgentStatus, Health
from edge_agent.state_dir import is_held

log = logging.getLogger(__name__)

NAME = "config-overlay.json"
HOLD_S = 10.0
"""So long it must be as ready as before, without a break."""
_MAX_FILE = 2_000_000
_WORST: tuple[Health, ...] = ("ok", "degraded", "failing")


class Readiness(BaseModel):
    """How ready the agent is: the verdict of ``/readyz``, and which cameras deliver."""

    model_config = ConfigDict(frozen=True)
    status: Health
    cameras: dict[str, bool]

    @classmethod
    def of(cls, status: AgentStatus) -> Readiness:
        """From the state of a moment."""
        delivering = {camera.id: camera.state == "delivering" for camera in status.cameras}
        return cls(status=status.readiness().status, cameras=delivering)

    def worse_than(self, before: Readiness) -> str:
        """In which way, "" where it is not."""
        if _WORST.index(self.status) > _WORST.index(before.status):
            return f"readiness is {self.status}, it was {before.status}"
        lost = [name for name, delivers in before.cameras.items() if delivers and not self.cameras.get(name, True)]
        return f"{', '.join(lost)} delivered before and does not now" if lost else ""


class Overlay(BaseModel):
    """The change that lies over the operator's file. ``previous`` is the one before, ``command`` the id of who asked for it.

    ``told`` False: the outcome was not announced yet.
    """

    model_config = ConfigDict(frozen=True)
    patch: dict[str, Any] = {}
    state: Literal["none", "trial", "confirmed", "rolled_back"] = "none"
    previous: dict[str, Any] = {}
    command: str = ""
    before: Readiness | None = None
    starts: int = 0
    reason: str = ""
    told: bool = True

    def changed(self, **changes: Any) -> Overlay:
        """With some values changed."""
        return self.model_copy(update=changes)

    def rolled_back(self, reason: str) -> Overlay:
        """Back to the one before; without any where it was not on trial and does not fit the file any more."""
        patch = self.previous if self.state == "trial" else {}
        return self.changed(patch=patch, previous={}, state="rolled_back", reason=redact(reason), told=False)


def read(state_dir: Path) -> Overlay:
    """What is in force. A damaged file is no reason not to start: then nothing is, and the reason says so."""
    path = state_dir / NAME
    try:
        with path.open("rb") as file:
            return Overlay.model_validate_json(file.read(_MAX_FILE), strict=True)
    except FileNotFoundError:
        return Overlay()
    except (OSError, ValidationError) as error:
        why = error.strerror if isinstance(error, OSError) else "damaged"
        return Overlay(state="rolled_back", reason=f"{path} cannot be read: {why}", told=False)


def write(state_dir: Path, overlay: Overlay) -> None:
    """Whole or not at all, and on disk when this returns. Raises OSError."""
    # Closed to others: the address of a camera may hold its password.
    write_file(state_dir / NAME, overlay.model_dump_json().encode(), 0o600)


def effective(path: Path) -> tuple[Config, Overlay]:
    """The configuration that a start would take, and what commands laid over it. Changes nothing. Raises ConfigError."""
    return _effective(ConfigFile(path))


def _effective(file: ConfigFile) -> tuple[Config, Overlay]:
    file, trouble = config_layer.laid(file)
    if trouble:
        log.error("%s", trouble)
    overlay = read(file.config.state_dir)
    if overlay.state == "trial" and overlay.starts >= MAX_STARTS:
        overlay = overlay.rolled_back(f"the agent ended {overlay.starts} times before it was as ready as before")
    return _laid(file, overlay)


def _laid(file: ConfigFile, overlay: Overlay) -> tuple[Config, Overlay]:
    if not overlay.patch:
        return file.config, overlay
    try:
        return file.overlaid(overlay.patch), overlay
    except ConfigError as error:
        return _laid(file, overlay.rolled_back(f"it does not fit the file: {error}"))


def begin(path: Path) -> Config:
    """The configuration for a start, which is counted where it is on trial. Raises ConfigError for the file's own faults."""
    file = ConfigFile(path)
    held = is_held(
        file.config.state_dir
    )  # another agent's, and so is what is on trial there; it lets this one not start
    if not held:
        config_layer.begin(file.config.state_dir)
    config, overlay = _effective(file)
    if held:
        return config
    if overlay.state == "trial":
        overlay = overlay.changed(starts=overlay.starts + 1)
    try:
        if overlay != read(config.state_dir):
            write(config.state_dir, overlay)
    except OSError as error:
        if overlay.state == "trial":  # its starts could not be counted
            log.error("%s: %s; the agent starts without the change that is on trial", config.state_dir, error.strerror)
            return config_layer.laid(file)[0].config
    return config


def give_up(state_dir: Path, reason: str) -> bool:
    """Take back what is on trial; False where nothing is."""
    if config_layer.give_up(state_dir, reason):
        return True
    overlay = read(state_dir)
    if overlay.state != "trial":
        return False
    log.error("the configuration on trial is taken back: %s", reason)
    try:
        write(state_dir, overlay.rolled_back(reason))
    except OSError as error:
        log.error("%s: %s", state_dir, error.strerror)
        return False
    return True


class Gate:
    """Whether a running agent is as ready as it was before, from the first look on. One thread."""

    def __init__(self, trial_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._trial_s, self._clock = trial_s, clock
        self._began: float | None = None
        self._good_since: float | None = None

    def look(self, before: Readiness | None, now: Readiness) -> str | None:
        """None while that is open; "" once it was for a while, and why it was not when its time is over."""
        at = self._clock()
        self._began = self._began or at
        worse = "" if before is None else now.worse_than(before)
        self._good_since = None if worse else self._good_since or at
        if self._good_since is not None and at - self._good_since >= min(HOLD_S, self._trial_s / 2):
            return ""
        if at - self._began >= self._trial_s:
            return f"after {self._trial_s:g} s {worse or 'readiness came and went'}"
        return None


class Trial:
    """The overlay of a running agent. One thread at a time."""

    def __init__(self, state_dir: Path, trial_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._state_dir, self._gate = state_dir, Gate(trial_s, clock)
        self.overlay = read(state_dir)

    @property
    def running(self) -> bool:
        """Whether the configuration at work is on trial."""
        return self.overlay.state == "trial"

    def propose(self, patch: Mapping[str, Any], command: str, before: Readiness) -> None:
        """To be tried by the next start; until then nothing changes here. Raises OSError."""
        write(
            self._state_dir,
            Overlay(
                patch=dict(patch),
                state="trial",
                previous=self.overlay.patch,
                command=command,
                before=before,
                told=False,
            ),
        )

    def adopt(self, patch: Mapping[str, Any], command: str) -> None:
        """Holds at once: it cannot make the agent less ready. Raises OSError."""
        self._set(
            Overlay(patch=dict(patch), state="confirmed", previous=self.overlay.patch, command=command, told=False)
        )

    def announced(self) -> None:
        """The outcome was told. Raises OSError."""
        self._set(self.overlay.changed(told=True))

    def look(self, now: Readiness) -> Overlay:
        """Judge what is on trial: confirmed once it was as good as before for a while, rolled back when its time is over.

        What is in force then. Raises OSError.
        """
        fault = self._gate.look(self.overlay.before, now)
        if fault is not None:
            self._set(self.overlay.rolled_back(fault) if fault else self.overlay.changed(state="confirmed"))
        return self.overlay

    def _set(self, overlay: Overlay) -> None:
        write(self._state_dir, overlay)
        self.overlay = overlay
