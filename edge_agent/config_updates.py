"""The signed part of the configuration in the running agent: fetched, checked, put in force by a restart, and watched.

The same steps, store and client as for models. What differs: the workshop is what ``edge-agent check`` does, in this process, as it
loads no code of others; to serve is to start again; and it is judged by whether the agent is as ready as before.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, cast

from pydantic import Field, ValidationError
from typing_extensions import NotRequired, TypedDict

from edge_agent import config_layer, config_trial
from edge_agent.chains import check
from edge_agent.command_config import Configured
from edge_agent.config_bundle import read_layer
from edge_agent.config_file import ConfigFile
from edge_agent.config_trial import Gate, Readiness
from edge_agent.device_facts import ModelUpdate, UpdateState, update_facts
from edge_agent.durable import write_file
from edge_agent.errors import (
    ActivationFailed,
    Busy,
    CommandError,
    ConfigError,
    EdgeAgentError,
    HardwareError,
    Interrupted,
    UpdateError,
)
from edge_agent.health.status import ConfigStatus, UpdateStatus
from edge_agent.model_activation import Again, open_configurations
from edge_agent.model_board import ModelBoard
from edge_agent.model_schedule import Schedule
from edge_agent.ota.activation import Activation, Progress
from edge_agent.ota.client import Offer
from edge_agent.ota.job import BEFORE, Job, Stored
from edge_agent.ota.offer import Bundle
from edge_agent.types import Beat

log = logging.getLogger(__name__)

READY_BEFORE = "before.json"
LOOK_S = 1.0
RETRY_S = 60.0
"""Before a fetch that broke is taken up again."""
CLOSE_S = 0.3


class ConfigFacts(TypedDict):
    """What became of a change of the configuration: by command, or of a signed bundle."""

    state: Annotated[
        Literal["refused", "probation", "confirmed", "rolled_back"],
        Field(description="whether it holds; refused and probation: of a bundle only"),
    ]
    config_hash: Annotated[str, Field(description="of the configuration that is at work now")]
    command: NotRequired[Annotated[str, Field(description="id of the command that asked for it")]]
    bundle: NotRequired[Annotated[str, Field(description="name@version of the signed bundle, or its name")]]
    code: NotRequired[Annotated[str, Field(description="why a bundle was refused or taken back, in one word")]]
    reason: NotRequired[Annotated[str, Field(description="why it was refused or taken back, for people")]]


class SignedConfig(TypedDict):
    """A signed bundle."""

    name: Annotated[str, Field(description="its name")]
    version: Annotated[str, Field(description="its version")]
    bundle: Annotated[str, Field(description="its SHA-256")]


class ConfigState(TypedDict):
    """Which signed part of the configuration is in force, and how its last update goes."""

    config_hash: Annotated[str, Field(description="of the whole configuration that is at work")]
    active: Annotated[SignedConfig | None, Field(description="the bundle in force; null: the file on the box alone")]
    previous: Annotated[SignedConfig | None, Field(description="what a rollback brings; null: the file alone")]
    error: Annotated[str, Field(description="why the active one is set aside for now; or empty")]
    state: Annotated[UpdateState, Field(description="of the last update; confirmed where there was none")]
    update: Annotated[ModelUpdate | None, Field(description="the last update; null: there was none")]


class Agent(Configured, Protocol):
    """The agent, as far as this goes."""

    def tell(self, what: str, data: Mapping[str, Any]) -> None:
        """An event about the box, now."""


@dataclass(frozen=True, slots=True)
class _Wish:
    bundle: str | None = None
    again: bool = False
    back: bool = False
    polled: bool = False
    """Nobody asked: the box looks by itself."""


class ConfigUpdates:
    """Fulfils ``activation.Workshop`` and ``activation.Serving`` too. ``file`` is the operator's, None where there is none."""

    def __init__(self, agent: Agent, file: Path | None) -> None:
        self._agent, self._file = agent, file
        state_dir, ota = agent.config.state_dir, agent.config.ota
        self._store = config_layer.store_of(state_dir)
        self._before = state_dir / config_layer.FOLDER / READY_BEFORE
        self._schedule, self._polled = Schedule(ota), ""
        self._gate = Gate(agent.config.commands.trial_s)
        self._board = ModelBoard(ota.probation)
        self._board.stored = self._store.read()
        self.trouble = ""
        """Why the active bundle is not in force in this run."""
        if file is not None and self._stored.active is not None:
            self.trouble = config_layer.laid(ConfigFile(file))[1]
        self._activation: Activation | None = None
        self._lock = threading.Lock()
        self._wish: _Wish | None = None
        self._news, self._cancel = threading.Event(), threading.Event()
        self._ended, self._done = threading.Event(), threading.Event()
        self._done.set()
        self._retry_at = 0.0

    @property
    def _stored(self) -> Stored:
        return self._board.stored

    # ---- any thread

    @property
    def revision(self) -> int:
        """Grows with everything that is worth telling on the topic ``config``; 0: nothing ever was."""
        concerned = self._agent.config.ota.config or self._stored.job or self._stored.active
        return self._board.revision + bool(concerned)

    def status(self) -> ConfigStatus:
        """For the agent's status."""
        stored, update = self._stored, self._board.update
        if update is not None and update.state == "probation":
            update = replace(update, progress=None)
        label = "" if stored.active is None else stored.active.label
        previous = "" if stored.previous is None else stored.previous.label
        return ConfigStatus(label, previous, self.trouble, update)

    def state(self) -> ConfigState:
        """The retained document of the topic ``config``."""
        stored, update = self._stored, self.status().update
        return ConfigState(
            config_hash=self._agent.config.digest(),
            active=_signed(stored.active),
            previous=_signed(stored.previous),
            error=self.trouble,
            state=cast("UpdateState", "confirmed" if update is None else update.state),
            update=None if update is None else update_facts(update),
        )

    def update(self, bundle: str | None, *, again: bool) -> ConfigState:
        """Begin to fetch a bundle, NAME[@VERSION], and to put it in force; how it stands. Raises CommandError."""
        config = self._agent.config
        if self._file is None:
            raise CommandError("not_supported", "this agent runs without a configuration file")
        if config.ota.repository is None:
            raise CommandError("not_available", "no repository is configured here: ota.repository, ota.root_file")
        if (name := bundle or config.ota.config) is None:
            raise CommandError("invalid_args", "which one? give `bundle`, or set ota.config in the file on the box")
        with self._lock:
            job = self._stored.working
            if self._wish is not None or (job is not None and job.state != "downloading"):
                doing = "another one was asked for" if job is None else f"{job.bundle.label} is {job.state}"
                raise CommandError("busy", f"{doing}; wait for its end, or give config.rollback")
            self._ask(_Wish(name, again), UpdateStatus(name, "asking"))
        return self.state()

    def rollback(self) -> ConfigState:
        """Begin to go back to the one before, or to give up what is under way; how it stands. Raises CommandError."""
        with self._lock:
            at_stake = self._stored.working.bundle if self._stored.working is not None else self._stored.active
            if at_stake is None and self._wish is None:
                raise CommandError("not_available", "no signed configuration is in force: the file on the box holds")
            label = "" if at_stake is None else at_stake.label
            self._ask(_Wish(back=True), UpdateStatus(label, "asking", detail="to be rolled back"))
        return self.state()

    def _ask(self, wish: _Wish, shown: UpdateStatus) -> None:
        self._wish = wish
        self._board.show(shown)
        self._cancel.set()
        self._news.set()

    # ---- the worker

    def work(self, beat: Beat) -> None:
        """Do what is asked for, go on with what was left, judge what is on trial; until ``end``."""
        del beat
        self._done.clear()
        try:
            while not self._ended.is_set():
                if self._file is not None and not self._agent.again:
                    self._turn()
                self._news.wait(LOOK_S)
                self._news.clear()
        finally:
            self._done.set()

    def _turn(self) -> None:
        with self._lock:
            wish, self._wish = self._wish, None
            if not self._ended.is_set():
                self._cancel.clear()
        ota = self._agent.config.ota
        if wish is None and ota.config and ota.repository and self._stored.working is None and self._schedule.due():
            wish = _Wish(ota.config, polled=True)
        try:
            activation = self._at_work()
            try:
                if wish is not None:
                    self._fulfil(activation, wish)
                else:
                    self._go_on(activation)
            except Interrupted:
                return
            except EdgeAgentError as error:
                self._troubled(activation, wish or _Wish(), error)
            self._announce(activation)
        except UpdateError as error:  # the disk is full, or broken
            log.error("%s", error)

    def _at_work(self) -> Activation:
        if self._activation is None:
            self._activation = Activation(self._store, self, tell=self._board.heard)
            self._board.stored = self._activation.stored
        return self._activation

    def _fulfil(self, activation: Activation, wish: _Wish) -> None:
        if wish.back:
            before = activation.stored.active
            activation.go_back()
            self._board.show(None)
            if activation.stored.active != before:
                self._agent.restart()
            return
        name, _, version = (wish.bundle or "").partition("@")
        try:
            client = open_configurations(self._agent.config)
            offer = client.look(name, version or None)
        except EdgeAgentError as error:
            self._refused(wish, error)
            return
        self._retry_at, self._polled = 0.0, ""
        if (job := activation.stored.working) is not None and job.bundle == offer.bundle:
            self._board.show(None)
        job = activation.install(client, offer, self._cancel, again=wish.again, activate=True, in_window=wish.polled)
        if job is not None:
            self._take_over(activation, job)
        elif not wish.polled and activation.stored.working is None:
            label, already = offer.bundle.label, "it is in force already"
            self._board.show(UpdateStatus(label, "confirmed", offer.bundle.sha256, None, "active", already))

    def _go_on(self, activation: Activation) -> None:
        job = activation.stored.working
        if job is None:
            return
        if job.state == "downloading" and time.monotonic() < self._retry_at:
            activation.wait(LOOK_S)
            return
        if job.state in BEFORE and job.state != "warming":
            self._board.show(None)
            again = Again(lambda: open_configurations(self._agent.config), job.bundle)
            job = activation.run(again, Offer(job.bundle, 0, ""), self._cancel)
        if job.state == "probation":
            self._judge(activation)
        else:
            self._take_over(activation, job)

    def _take_over(self, activation: Activation, job: Job) -> None:
        """Where it is ready, its window is open, and no command's change is on trial."""
        waits = self._agent.again or config_trial.read(self._agent.config.state_dir).state == "trial"
        if job.state == "warming" and not waits and (self._schedule.open or not job.in_window):
            activation.activate(self)

    def _judge(self, activation: Activation) -> None:
        if self.trouble:
            activation.roll_back(ActivationFailed.code, self.trouble)
            return
        fault = self._gate.look(self._ready_before(), Readiness.of(self._agent.status()))
        if fault == "":
            activation.confirm()
        elif fault is not None:
            log.error("the configuration on trial is taken back: %s", fault)
            activation.roll_back("unhealthy", fault)
            self._agent.restart()  # who comes back tells it

    def _troubled(self, activation: Activation, wish: _Wish, error: EdgeAgentError) -> None:
        job = activation.stored.working
        if error.retriable and job is not None and job.state == "downloading" and not isinstance(error, Busy):
            log.warning("%s: %s; tried again in %.0f s", job.bundle.label, error, RETRY_S)
            self._retry_at = time.monotonic() + RETRY_S
            self._board.trouble(job, getattr(error, "code", "failed"), str(error)[:500])
        else:
            self._refused(wish, error)

    def _refused(self, wish: _Wish, error: EdgeAgentError) -> None:
        """Nothing of it was begun. What the box finds by itself again and again is told once."""
        code, detail, asked = getattr(error, "code", "failed"), str(error)[:500], wish.bundle or ""
        if wish.polled and self._polled == code:
            return
        self._polled = code if wish.polled else self._polled
        log.error("the configuration %s is refused: %s", asked, error)
        self._board.show(UpdateStatus(asked, "refused", reason=code, detail=detail))
        self._tell("refused", asked, code, detail)

    def _announce(self, activation: Activation) -> None:
        """The last step of the job, if it was not yet told: also what an earlier run did."""
        job = activation.stored.job
        told = job is None or job.told == job.state or job.state not in {"probation", "confirmed", "rolled_back"}
        if job is None or told or self._agent.again:
            return
        self._tell(job.state, job.bundle.label, job.reason, job.detail)
        activation.announced()

    def _tell(self, state: Any, bundle: str, code: str, detail: str) -> None:
        facts = ConfigFacts(state=state, bundle=bundle, config_hash=self._agent.config.digest())
        if code:
            facts["code"], facts["reason"] = code, detail
        self._agent.tell("config", facts)

    # ---- as ``Workshop``

    def compile(self, folder: Path, progress: Progress, cancel: threading.Event) -> None:
        """Nothing is built."""

    def self_test(self, folder: Path, progress: Progress, cancel: threading.Event) -> None:
        """What ``edge-agent check`` would say of it, with the box's file below and what commands changed above."""
        del progress, cancel
        assert self._file is not None
        bundle = Bundle(name=folder.parent.name, version=folder.name, sha256=folder.parents[1].name)
        overlay = config_trial.read(self._agent.config.state_dir).patch
        try:
            file = ConfigFile(self._file).layered(read_layer(folder, bundle))
            check(self._agent.effective(file.overlaid(overlay) if overlay else file.config))
        except (ConfigError, HardwareError) as error:
            raise ActivationFailed(f"{bundle.label} is not taken by this box: {error}") from error

    # ---- as ``Serving``

    def warm(self, folder: Path) -> None:
        """Remember how ready the agent is without it."""
        del folder
        try:
            write_file(self._before, Readiness.of(self._agent.status()).model_dump_json().encode())
        except OSError as error:
            raise UpdateError(f"{self._before}: {error.strerror}") from error

    def swap(self) -> None:
        """It is in force from the next start on, which is now."""
        log.warning("a signed configuration goes on trial: the agent starts again with it")
        self._agent.restart()

    def _ready_before(self) -> Readiness | None:
        with contextlib.suppress(OSError, ValidationError):
            return Readiness.model_validate_json(self._before.read_bytes())
        return None

    # ---- the end

    def died(self) -> None:
        """The agent must end, and what is on trial is written off by others: nothing more is written here."""
        self.end()
        self._done.wait(2.0)

    def end(self) -> None:
        """Let the worker end; does not wait for it."""
        self._ended.set()
        self._cancel.set()
        self._news.set()

    def close(self, *, in_order: bool) -> None:
        """At the end. ``in_order``: this was no crash, and the start does not count. Safe to call unstarted."""
        self.end()
        if not self._done.wait(CLOSE_S) or self._activation is None or not in_order:
            return
        job = self._activation.stored.working
        if job is not None and job.state == "probation":
            with contextlib.suppress(UpdateError):
                self._activation.unretry()


def _signed(bundle: Bundle | None) -> SignedConfig | None:
    return None if bundle is None else {"name": bundle.name, "version": bundle.version, "bundle": bundle.sha256}
