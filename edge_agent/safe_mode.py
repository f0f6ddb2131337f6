"""Safe mode: reachable, and nothing else. What is said of it, and when it is over.

After ``crash_count.LIMIT`` crashes in a row the agent starts without cameras and model: MQTT, heartbeat, REST and commands
say why, and let an operator act. It tries again by itself, ever more slowly.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from edge_agent import config_layer
from edge_agent.chains import check_labels
from edge_agent.config import Config
from edge_agent.crash_count import LIMIT, CrashCount
from edge_agent.device_facts import ModelFacts, model_state
from edge_agent.errors import CommandError, EdgeAgentError, Interrupted, UsageError
from edge_agent.health.status import ModelStatus, UpdateStatus
from edge_agent.journal import told
from edge_agent.model_activation import open_repository
from edge_agent.model_board import ModelBoard
from edge_agent.model_tools.workshop import BoxWorkshop
from edge_agent.ota.activation import Activation
from edge_agent.ota.job import Job
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


@dataclass(frozen=True, slots=True)
class _Wish:
    model: str = ""
    activate: bool = True
    again: bool = False
    back: bool = False


class SafeUpdates:
    """Stands for ``ModelUpdates`` in safe mode: another model is fetched and tested as ever, or the one before is taken back.

    None serves, so what is ready takes over at the next start, which is at once and out of safe mode. Only what is asked for is
    done: a box that crashed begins nothing by itself.
    """

    def __init__(self, config: Config, restart: Callable[[], None], tell: Tell) -> None:
        self._config, self._restart, self._tell = config, restart, tell
        self._store = ModelStore(config.state_dir / "models")
        self._board = ModelBoard(config.ota.probation)
        self._board.stored = self._store.read()
        self._lock = threading.Lock()
        self._wish: _Wish | None = None
        self._working = False
        self._news, self._cancel, self._ended = threading.Event(), threading.Event(), threading.Event()

    # ---- any thread

    def shadow(self, model: str | None, *, fraction: float, minutes: float) -> dict[str, Any]:
        """Raises CommandError: there are no frames to look at."""
        del model, fraction, minutes
        raise CommandError("not_available", "the agent is in safe mode: no model is at work beside which one could be")

    @property
    def revision(self) -> int:
        """Grows with everything that is worth telling on the topic ``model``."""
        return self._board.revision

    def status(self, model: ModelStatus) -> ModelStatus:
        """``model`` with what a rollback brings, and what is under way."""
        return self._board.status(model, self._config.model, None)

    def update(self, model: str | None, *, activate: bool, again: bool) -> dict[str, Any]:
        """See ``command_handlers.ModelHook``. Raises CommandError."""
        if self._config.ota.repository is None:
            raise CommandError("not_available", "no repository is configured here: ota.repository, ota.root_file")
        name = model or self._label.partition("@")[0]
        if name == "auto":
            raise CommandError("invalid_args", "no model is at work in safe mode: say which one, NAME or NAME@VERSION")
        with self._lock:
            if self._wish is not None or self._working:
                raise CommandError("busy", "another update is under way; wait for its end, or give model.rollback")
            return self._ask(_Wish(name, activate, again), UpdateStatus(name, "asking"))

    def rollback(self) -> dict[str, Any]:
        """See ``command_handlers.ModelHook``. Raises CommandError."""
        with self._lock:
            stored = self._board.stored
            if stored.working is None and stored.active is None and not self._working:
                raise CommandError(
                    "not_available", "the model that the configuration names is active: none is before it"
                )
            self._cancel.set()
            return self._ask(_Wish(back=True), UpdateStatus(self._label, "asking", detail="to be rolled back"))

    @property
    def _label(self) -> str:
        active = self._board.stored.active
        return self._config.model if active is None else active.label

    def _ask(self, wish: _Wish, shown: UpdateStatus) -> dict[str, Any]:
        self._wish = wish
        self._board.show(shown)
        self._news.set()
        return dict(model_state(self.status(ModelStatus())))

    # ---- the worker

    def work(self, beat: Beat) -> None:
        """Do what is asked for, until ``end``."""
        del beat
        while not self._ended.is_set():
            self._news.wait(1.0)
            self._news.clear()
            with self._lock:
                wish, self._wish = self._wish, None
                self._working = wish is not None
                if not self._ended.is_set():
                    self._cancel.clear()
            try:
                if wish is not None:
                    self._fulfil(wish)
            except Interrupted:
                continue
            except EdgeAgentError as error:
                self._refused(wish, error)
            finally:
                self._working = False

    def _fulfil(self, wish: _Wish) -> None:
        with self._store.lock():
            workshop = BoxWorkshop(self._config, lambda manifest: check_labels(self._config, manifest))
            activation = Activation(self._store, workshop, tell=self._board.heard)
            self._board.stored = activation.stored
            if wish.back:
                activation.go_back()
                self._board.show(None)
                self._try()
                return
            client = open_repository(self._config)
            name, _, version = wish.model.partition("@")
            offer = client.look(name, version or None)
            job = activation.install(client, offer, self._cancel, again=wish.again, activate=wish.activate)
            if job is None:
                raise UsageError(f"{offer.bundle.label} is active already")
            if job.state == "rolled_back":
                self._announce(job)
                activation.announced()
            elif job.state == "warming" and wish.activate:
                activation.activate(None)
                self._try()

    def _try(self) -> None:
        log.warning("safe mode: the agent tries with the model %s", self._label)
        self._restart()

    def _refused(self, wish: _Wish | None, error: EdgeAgentError) -> None:
        code, detail, asked = getattr(error, "code", "failed"), str(error)[:500], "" if wish is None else wish.model
        log.error("update to %s refused: %s", asked, error)
        self._board.show(UpdateStatus(asked or self._label, "refused", reason=code, detail=detail))
        facts = ModelFacts(
            model=asked or self._label, bundle=None, state="refused", active="", reason=code, detail=detail
        )
        self._tell("model", facts)

    def _announce(self, job: Job) -> None:
        facts = ModelFacts(model=job.bundle.label, bundle=job.bundle.sha256, state="rolled_back", active="")
        facts["reason"], facts["detail"] = job.reason, job.detail
        self._tell("model", facts)

    # ---- the end

    def died(self, _reason: str) -> bool:
        """No model is at fault."""
        return False

    def end(self) -> None:
        """Let the worker end; does not wait for it."""
        self._ended.set()
        self._cancel.set()
        self._news.set()

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
