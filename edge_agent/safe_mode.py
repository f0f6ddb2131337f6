"""Safe mode: reachable, and nothing else. What is said of it, and when it is over.

After ``crash_count.LIMIT`` crashes in a row the agent starts without cameras and model: MQTT, heartbeat, REST and commands
say why, and let an operator act. It tries again by itself, ever more slowly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from edge_agent import config_layer
from edge_agent.config import Config
from edge_agent.crash_count import LIMIT, CrashCount
from edge_agent.device_facts import model_state
from edge_agent.errors import CommandError, UpdateError, UsageError
from edge_agent.health.status import ModelStatus
from edge_agent.journal import told
from edge_agent.ota.job import go_back
from edge_agent.ota.store import ModelStore
from edge_agent.payload import Count
from edge_agent.types import Beat

log = logging.getLogger(__name__)
Tell: TypeAlias = Callable[[str, Mapping[str, Any]], None]


class SafeModeFacts(TypedDict):
    """The agent starts in safe mode, tries to leave it, or has left it for good."""

    state: Annotated[Literal["entered", "trying", "left"], Field(description="what it does now")]
    reason: Annotated[str, Field(description="how the last run ended")]
    crashes: Annotated[Count, Field(description="in a row")]
    retry_s: NotRequired[Annotated[Count, Field(description="of entered: seconds until the next try")]]


def on_probation(config: Config) -> bool:
    """Whether a model or a configuration that came by update is being watched: crashes are held to be its, and end it."""
    job = ModelStore(config.state_dir / "models").read().working
    return (job is not None and job.state == "probation") or config_layer.on_trial(config.state_dir)


class SafeUpdates:
    """Stands for ``ModelUpdates`` in safe mode: a model can be rolled back, and the agent then tries with the one before."""

    revision = 0

    def __init__(self, config: Config, restart: Callable[[], None]) -> None:
        self._config, self._restart = config, restart

    def update(self, model: str | None, *, activate: bool, again: bool) -> dict[str, Any]:
        """Raises CommandError: what would serve cannot be compared with what serves."""
        del model, activate, again
        raise CommandError(
            "not_available", "the agent is in safe mode: model.rollback, config.apply and restart are there"
        )

    def rollback(self) -> dict[str, Any]:
        """Raises CommandError."""
        store = ModelStore(self._config.state_dir / "models")
        try:
            with store.lock():
                stored = go_back(store.recover())
                store.write(stored)
        except UsageError as error:
            raise CommandError("not_available", str(error)) from error
        except UpdateError as error:
            raise CommandError("busy", str(error)) from error
        bundle = stored.active
        label = self._config.model if bundle is None else bundle.label
        log.warning("safe mode: the model is rolled back to %s, and the agent starts again", label)
        self._restart()
        name, _, version = label.partition("@")
        status = ModelStatus(name, version, bundle="" if bundle is None else bundle.sha256)
        return dict(model_state(status))

    def work(self, beat: Beat) -> None:
        """Nothing to do."""

    def status(self, model: ModelStatus) -> ModelStatus:
        """As it is."""
        return model

    def died(self, _reason: str) -> bool:
        """No model is at fault."""
        return False

    def end(self) -> None:
        """Nothing to end."""

    def close(self, *, in_order: bool) -> None:
        """Nothing is held."""


def announce(crashes: CrashCount, tell: Tell) -> None:
    """What this start is, where it is not one like any other. ``tell`` emits an event about the box."""
    if crashes.safe_mode:
        log.error(
            "safe mode: %s; no inference, the next try is in %.0f min",
            crashes.safe_mode,
            crashes.retry_s / 60,
            extra=told("edge_agent.device.safe_mode", state="entered", crashes=crashes.in_a_row),
        )
        facts = SafeModeFacts(state="entered", reason=crashes.reason, crashes=crashes.in_a_row)
        facts["retry_s"] = round(crashes.retry_s)
        tell("safe_mode", facts)
    elif crashes.in_a_row >= LIMIT:
        log.warning("trying to leave safe mode: %d crashes before, the last: %s", crashes.in_a_row, crashes.reason)
        tell("safe_mode", SafeModeFacts(state="trying", reason=crashes.reason, crashes=crashes.in_a_row))


def look(crashes: CrashCount, uptime_s: float, tell: Tell) -> bool:
    """Call it now and then; True: start anew, to try without safe mode."""
    before, reason = crashes.in_a_row, crashes.reason
    if crashes.look(uptime_s):
        log.info("safe mode is over: the agent starts again, and tries")
        return True
    if before >= LIMIT and not crashes.in_a_row:
        log.info("well again after %d crashes", before)
        tell("safe_mode", SafeModeFacts(state="left", reason=reason, crashes=before))
    return False
