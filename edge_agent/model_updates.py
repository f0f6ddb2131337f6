"""Updates of models in the running agent: asked for by command, carried through by one worker, told to whoever wants to know.

Whoever runs an agent holds the lock of its model store; only a run with ``--model`` leaves the store alone.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from edge_agent.chains import check_labels
from edge_agent.config import Config
from edge_agent.device_facts import ModelFacts, model_state
from edge_agent.errors import Busy, CommandError, EdgeAgentError, HardwareError, Interrupted, UpdateError
from edge_agent.health.status import AgentStatus, ModelStatus, UpdateStatus
from edge_agent.model_activation import Again, Swap, kernel_boot, open_repository
from edge_agent.model_beside import Told
from edge_agent.model_board import ModelBoard
from edge_agent.model_probation import SETTLE_S, ProbationWatch
from edge_agent.model_schedule import Schedule
from edge_agent.model_shadow import INTERRUPTED, ModelShadow
from edge_agent.model_tools.workshop import BoxWorkshop
from edge_agent.ota.activation import Activation
from edge_agent.ota.client import Offer
from edge_agent.ota.job import BEFORE, Job, Stored
from edge_agent.ota.offer import Bundle
from edge_agent.ota.probation import WINDOW_S, Measures, Probation
from edge_agent.ota.store import ModelStore
from edge_agent.serving_model import Candidate, ServingModel
from edge_agent.types import Beat

log = logging.getLogger(__name__)

LOOK_S = 1.0
CLOSE_S = 0.3
KEEP_S = 15.0
"""How much of a probation a crash may cost."""
GIVES_WAY = "update", "an update began"
"""Why a model is in shadow no longer."""
RETRY_S = (30.0, 900.0)
"""Before a broken download is taken up again: at first, and at most."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """What was asked for. ``model`` None: what the channel has of the one at work; ``back``: the one before."""

    model: str | None = None
    activate: bool = True
    again: bool = False
    back: bool = False
    polled: bool = False
    """Nobody asked: the box looks by itself."""


class ModelUpdates:
    """Fulfils ``command_handlers.ModelHook``. Made before the model is loaded, as it says which one; ``start`` then binds it.

    ``pinned``: the command line named the model of this run.
    """

    def __init__(self, config: Config, *, pinned: bool) -> None:
        self._config, self._pinned = config, pinned
        self._store = ModelStore(config.state_dir / "models")
        self._schedule, self._polled = Schedule(config.ota), ""
        self._held = contextlib.ExitStack()
        self._activation: Activation | None = None
        self._waits = False
        self._board = ModelBoard(config.ota.probation)
        self._lock = threading.Lock()
        self._wish: _Wish | None = None
        self._news, self._cancel = threading.Event(), threading.Event()
        self._shadow = ModelShadow(config, self._store, self._news.set)
        self._ended, self._done = threading.Event(), threading.Event()
        self._done.set()
        self._retry_at, self._retry_s = 0.0, RETRY_S[0]
        self._serving: ServingModel | None = None
        self._watch: ProbationWatch | None = None
        self._usual: Measures | None = None
        if not pinned:
            self._join()

    def candidates(self) -> list[Candidate]:
        """The models to start with, best first."""
        if self._pinned:
            return [Candidate()]
        stored = self._stored
        bundles = [bundle for bundle in (stored.active, stored.previous) if bundle is not None]
        if self._activation is None:  # another process may be at it just now
            bundles = [bundle for bundle in bundles if self._store.is_whole(bundle)]
        return [*map(self._candidate, bundles), Candidate()]

    def load_failed(self, candidate: Candidate, error: HardwareError) -> None:
        """The agent starts, and that one does not load: on probation it has failed, else it may be the box's fault."""
        job = self._stored.working
        if self._activation is not None and job is not None and job.bundle == candidate.bundle:
            self._write_off("load", str(error))

    def start(
        self,
        serving: ServingModel,
        status: Callable[[], AgentStatus],
        tell: Callable[[str, Mapping[str, Any]], None],
        restart: Callable[[], None],
        seen: Told | None = None,
    ) -> None:
        """``tell`` emits an event about the box, ``restart`` ends the agent in order to start anew. ``seen`` is told of each frame
        that a model in shadow has looked at.
        """
        self._serving, self._tell_event, self._restart = serving, tell, restart
        self._watch = ProbationWatch(self._config.ota.probation, status, serving.detector.meter)
        self._kept_at = time.monotonic()
        if not self._pinned:
            self._shadow.start(serving, status, tell, seen)
        self._begin_watching()

    @property
    def _stored(self) -> Stored:
        return self._board.stored

    @property
    def _serves(self) -> ServingModel:
        assert self._serving is not None
        return self._serving

    @property
    def _watches(self) -> ProbationWatch:
        assert self._watch is not None
        return self._watch

    # ---- any thread

    @property
    def revision(self) -> int:
        """Grows with everything that is worth telling on the topic ``model``."""
        return self._board.revision + self._shadow.revision

    def status(self, model: ModelStatus) -> ModelStatus:
        """``model`` with what is before it and what is under way."""
        if self._pinned:
            return model
        model = replace(model, shadow=self._shadow.status)
        return self._board.status(model, self._serves.configured, self._serves.agreement)

    def update(self, model: str | None, *, activate: bool, again: bool) -> dict[str, Any]:
        """See ``ModelHook``. Raises CommandError."""
        self._refuse_pinned()
        if self._config.ota.repository is None:
            raise CommandError("not_available", "no repository is configured here: ota.repository, ota.root_file")
        with self._lock:
            job = self._stored.working
            ready = job is not None and job.state == "warming" and model in (None, job.bundle.name, job.bundle.label)
            if self._wish is not None or (job is not None and job.state != "downloading" and not ready):
                doing = "another update was asked for" if job is None else f"{job.bundle.label} is {job.state}"
                raise CommandError("busy", f"{doing}; wait for its end, or give model.rollback")
            self._wish = _Wish(model or (job.bundle.label if ready and job else None), activate, again)
            self._board.show(UpdateStatus(model or self._default_name(), "asking"))
            if job is not None and job.state == "downloading":
                self._cancel.set()
        return self._asked()

    def rollback(self) -> dict[str, Any]:
        """See ``ModelHook``. Raises CommandError."""
        self._refuse_pinned()
        with self._lock:
            if self._stored.working is None and self._stored.active is None and self._wish is None:
                raise CommandError(
                    "not_available", "the model that the configuration names is at work: none is before it"
                )
            self._wish = _Wish(back=True)
            at_stake = self._stored.working.bundle if self._stored.working is not None else self._stored.active
            label = self._default_name() if at_stake is None else at_stake.label
            self._board.show(UpdateStatus(label, "asking", detail="to be rolled back"))
            self._cancel.set()
        return self._asked()

    def shadow(self, model: str | None, *, fraction: float, minutes: float) -> dict[str, Any]:
        """See ``ModelHook``. Raises CommandError."""
        self._refuse_pinned()
        with self._lock:
            if model is None:
                if not self._shadow.at_work:
                    raise CommandError("not_available", "no model is in shadow")
                self._shadow.ask_end("operator", "ended by command")
            elif self._wish is not None or self._activation is None or self._under_way:
                raise CommandError("busy", "an update of the model is under way; wait for its end")
            else:
                self._shadow.begin(model, fraction, minutes)
        return self._asked()

    @property
    def _under_way(self) -> bool:
        """Whether an update is; not one that waits to be let take over."""
        job = self._stored.working
        return job is not None and (job.state != "warming" or self._may_activate(job))

    def _asked(self) -> dict[str, Any]:
        if self._wish is not None:
            self._shadow.ask_end(*GIVES_WAY)
        self._news.set()
        return dict(model_state(self.status(self._serves.status)))

    def _refuse_pinned(self) -> None:
        if self._pinned:
            raise CommandError("not_supported", "this run was started with --model: updates are for runs without it")

    # ---- the worker

    def work(self, beat: Beat) -> None:
        """Do what is asked for, go on with what was left, watch what is on probation; until ``close``."""
        del beat  # building an engine takes as long as it takes
        self._done.clear()
        self._compare_again()
        try:
            while not self._ended.is_set():
                if not self._pinned and (self._activation is not None or self._join()):
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
        if wish is None and self._stored.working is None and self._config.ota.repository and self._schedule.due():
            wish = _Wish(polled=True)
        if self._under_way or (wish is not None and not wish.polled):
            self._shadow.end(*GIVES_WAY)
        elif wish is None:
            self._shadow.turn()
        try:
            if wish is not None:
                self._fulfil(wish)
            else:
                self._go_on()
        except Interrupted:
            return
        except EdgeAgentError as error:
            self._troubled(error, wish)
        try:
            self._watch_probation()
            self._announce()
        except UpdateError as error:  # the disk is full, or broken: what is remembered is a little old
            log.error("%s", error)

    def _fulfil(self, wish: _Wish) -> None:
        activation = self._at_work()
        if wish.back:
            activation.go_back()
            self._serve(activation.stored.active)
            return
        job = activation.stored.working
        name, _, version = (wish.model or self._default_name()).partition("@")
        if job is not None and job.state == "warming":  # installed before, and to be activated now
            self._board.show(None)
            if wish.activate:
                self._activate()
            return
        try:
            client = open_repository(self._config)
            offer = client.look(name, version or None)
        except EdgeAgentError as error:
            self._refused(wish, error)
            return
        if job is not None and job.bundle == offer.bundle:
            self._board.show(None)  # it goes on where it was; of another one the board hears
        self._retry_at, self._retry_s = 0.0, RETRY_S[0]
        self._usual = self._watches.usual()
        if offer.bundle != activation.stored.active:
            self._shadow.end(*GIVES_WAY)
        job = activation.install(
            client, offer, self._cancel, again=wish.again, activate=wish.activate, in_window=wish.polled
        )
        self._polled = ""
        if job is None:
            if activation.stored.working is None and not wish.polled:
                bundle, already = offer.bundle, "it is active already"
                self._board.show(UpdateStatus(bundle.label, "confirmed", bundle.sha256, None, "active", already))
        elif self._may_activate(job):
            self._activate()

    def _may_activate(self, job: Job) -> bool:
        return job.state == "warming" and job.activate and (self._schedule.open or not job.in_window)

    def _go_on(self) -> None:
        """With a job that was left under way: by a crash, a stop, or a line that broke."""
        activation = self._at_work()
        job = activation.stored.working
        if job is None or job.state not in BEFORE:
            return
        if job.state == "downloading" and time.monotonic() < self._retry_at:
            activation.wait(LOOK_S)
            return
        if job.state != "warming":
            self._board.show(None)
            offer = Offer(job.bundle, 0, "")
            job = activation.run(Again(lambda: open_repository(self._config), job.bundle), offer, self._cancel)
        if self._may_activate(job):
            self._activate()

    def _activate(self) -> None:
        activation = self._at_work()
        job = activation.stored.working
        assert job is not None
        usual = self._usual or self._what_is_usual()
        candidate, compare = self._candidate(job.bundle), self._config.ota.probation.compare
        job = activation.activate(Swap(self._serves, candidate, usual, self._watches.memory_mb, compare))
        if job.state == "probation":
            self._begin_watching()
            self._board.changed()  # what serves is another one now
        elif self._serves.now.bundle != activation.stored.active:
            self._serve(self._at_work().stored.active)

    def _troubled(self, error: EdgeAgentError, wish: _Wish | None) -> None:
        """It did not come about, or not yet."""
        job = self._at_work().stored.working
        if error.retriable and job is not None and job.state == "downloading" and not isinstance(error, Busy):
            log.warning("%s: %s; tried again in %.0f s", job.bundle.label, error, self._retry_s)
            self._retry_at = time.monotonic() + self._retry_s
            self._retry_s = min(2 * self._retry_s, RETRY_S[1])
            self._board.trouble(job, getattr(error, "code", "failed"), str(error)[:500])
        else:
            self._refused(wish or _Wish(), error)

    def _refused(self, wish: _Wish, error: EdgeAgentError) -> None:
        """Nothing of it was begun. What the box finds by itself again and again is told once."""
        code, detail, asked = getattr(error, "code", "failed"), str(error)[:500], wish.model or self._default_name()
        if wish.polled and self._polled == code:
            return
        self._polled = code if wish.polled else self._polled
        log.error("update to %s refused: %s", asked, error)
        self._board.show(UpdateStatus(asked, "refused", reason=code, detail=detail))
        self._tell("refused", asked, None, code, detail)

    # ---- probation

    def _what_is_usual(self) -> Measures | None:
        """For the model at work, after an agent that has just started has seen something of it."""
        until = time.monotonic() + SETTLE_S + WINDOW_S
        while time.monotonic() < until and self._watches.delivering:
            self._watches.look()
            if self._cancel.wait(LOOK_S):
                raise Interrupted("stopped before it took over")
        return self._watches.usual()

    def _compare_again(self) -> None:
        """With the model before, after a restart on probation."""
        job, share = self._stored.working, self._config.ota.probation.compare
        if self._pinned or job is None or job.state != "probation" or not share or self._serves.agreement is not None:
            return
        before = self._stored.previous
        try:
            self._serves.compare_with(Candidate() if before is None else self._candidate(before), share)
        except EdgeAgentError as error:
            log.warning("the model before is not compared with: %s", error)

    def _begin_watching(self) -> None:
        job = self._stored.working
        on_trial = job is not None and job.state == "probation" and job.bundle == self._serves.now.bundle
        self._watches.begin((job.probation if on_trial and job is not None else None) or Probation())
        self._usual = None

    def _watch_probation(self) -> None:
        fault = self._watches.look()
        activation, config = self._at_work(), self._config.ota.probation
        job = activation.stored.working
        if job is None or job.state != "probation" or job.bundle != self._serves.now.bundle:
            return
        seen, now, agreement = self._watches.probation, time.monotonic(), self._serves.agreement
        fault = fault or (None if agreement is None else agreement.fault(config))
        if fault is not None:
            try:
                activation.watched(seen)
            except UpdateError as error:  # a full disk keeps no bad model at work
                log.error("%s", error)
            self._take_back(*fault)
        elif seen.passed(config):
            activation.watched(seen)
            activation.confirm()
            self._serves.forget()
        elif seen.over(config):
            activation.watched(seen)
            activation.confirm("unobserved", f"its self-test alone decided: {seen.words(config)} until its deadline")
            self._serves.forget()
        elif now - self._kept_at >= KEEP_S:
            self._kept_at = now
            activation.watched(seen)
        self._board.progressed(seen.share(config))

    def _take_back(self, reason: str, detail: str) -> None:
        job, before = self._stored.working, self._stored.previous
        assert job is not None
        self._board.trouble(job, reason, detail)  # until the one before serves, this one is not gone
        self._write_off(reason, detail)
        if reason == "hung":
            log.error("the model on probation hangs: the agent starts again with the one before")
            self._restart()
            return
        self._serve(before)

    def _write_off(self, reason: str, detail: str) -> None:
        try:
            self._at_work().roll_back(reason, detail)
        except UpdateError as error:  # it cannot be written down: the next start tries it once more
            log.error("%s", error)

    def _serve(self, bundle: Bundle | None) -> None:
        if self._serves.now.bundle != bundle:
            try:
                self._serves.take(Candidate() if bundle is None else self._candidate(bundle))
            except EdgeAgentError as error:
                log.error("the model before cannot take over: %s; the agent starts again", error)
                self._restart()
                return
        self._begin_watching()
        self._board.show(None)

    # ---- the end

    def died(self, reason: str) -> bool:
        """The agent must end; whether a model on probation is at fault, which is taken back: the next start has the one before."""
        self.end()
        ended, job = self._done.wait(2.0), self._stored.working
        if (
            not ended
            or self._activation is None
            or job is None
            or job.state != "probation"
            or not reason.startswith("worker detect:")
        ):
            return False
        self._write_off("errors", reason)
        return True

    def end(self) -> None:
        """Let the worker end; does not wait for it."""
        self._ended.set()
        self._cancel.set()
        self._shadow.ask_end(*INTERRUPTED)
        self._news.set()

    def close(self, *, in_order: bool) -> None:
        """At the end. ``in_order``: this was no crash. Safe to call unstarted."""
        self.end()
        if self._done.wait(CLOSE_S) and self._activation is not None:
            job = self._stored.working
            if job is not None and job.state == "probation" and self._watch is not None:
                self._activation.watched(self._watch.probation)
            if in_order:
                self._activation.ended()
            self._shadow.close()
        self._held.close()

    # ---- what they share

    def _join(self) -> bool:
        """Become the one who changes the store, unless another process is at it or the disk is broken."""
        try:
            self._held.enter_context(self._store.lock())
            workshop = BoxWorkshop(self._config, lambda manifest: check_labels(self._config, manifest))
            self._activation = Activation(self._store, workshop, boot=kernel_boot(), tell=self._board.heard)
        except UpdateError as error:
            self._held.close()
            if not self._waits:
                log.warning("no updates of models for now: %s", error)
                self._waits, self._board.stored = True, self._store.read()
            return False
        self._board.stored = self._activation.stored
        if self._serving is not None:  # what another process did meanwhile
            self._serve(self._stored.active)
        return True

    def _at_work(self) -> Activation:
        assert self._activation is not None
        return self._activation

    def _announce(self) -> None:
        """The last step of the job, if it was not yet told: also what an earlier run or another process did."""
        activation = self._at_work()
        job = activation.stored.job
        if job is None or job.told == job.state or job.state not in ("probation", "confirmed", "rolled_back"):
            return
        self._tell(job.state, job.bundle.label, job.bundle.sha256, job.reason, job.detail)
        activation.announced()

    def _tell(self, state: Any, model: str, bundle: str | None, reason: str, detail: str) -> None:
        facts = ModelFacts(model=model, bundle=bundle, state=state, active=self._serves.now.label)
        if reason:
            facts["reason"], facts["detail"] = reason, detail
        self._tell_event("model", facts)

    def _default_name(self) -> str:
        return self._serves.now.model.manifest.name

    def _candidate(self, bundle: Bundle) -> Candidate:
        return Candidate(bundle, self._store.place(bundle), "by update")
