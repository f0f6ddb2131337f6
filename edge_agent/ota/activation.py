"""Drives a job from step to step, each written down before and after: a crash or a power cut goes on where it was."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from edge_agent.errors import EdgeAgentError, Interrupted, UpdateError
from edge_agent.ota import job as jobs
from edge_agent.ota.client import Offer
from edge_agent.ota.job import Job, Stored
from edge_agent.ota.probation import Measures, Probation
from edge_agent.ota.store import ModelStore

log = logging.getLogger(__name__)
Progress = Callable[[str, float | None], None]
"""Called with what is being done, and the fraction of it where that is known; in the thread that runs the job."""


class Repository(Protocol):
    """Where bundles come from; see ``RepositoryClient``."""

    def look(self, name: str, version: str | None = None) -> Offer:
        """What is offered."""

    def fetch(self, offer: Offer, progress: Callable[[float], None], cancel: threading.Event) -> Path:
        """The bundle, complete and checked."""


class Workshop(Protocol):
    """What this box makes of a model before it may serve. Both run beside the serving model, block, and end early on ``cancel``.

    Whatever a vendor's library does must not reach this process: it happens in a child with limits. Raise EdgeAgentError where
    the model is no good here, Interrupted where it was cancelled.
    """

    def compile(self, folder: Path, progress: Progress, cancel: threading.Event) -> None:
        """Build what the box's accelerator needs (a TensorRT engine); nothing where it needs none."""

    def self_test(self, folder: Path, progress: Progress, cancel: threading.Event) -> None:
        """Load it, run it, and judge it by its golden pictures."""


class Serving(Protocol):
    """Where the detector works."""

    def warm(self, folder: Path) -> Measures | None:
        """Load the model beside the one that serves, and run it once. Raises EdgeAgentError.

        What the one that serves has done lately; None where no frame came.
        """

    def swap(self) -> None:
        """Let the next frame go to what was warmed; the old one is let go of behind it. Raises EdgeAgentError."""


class Activation:
    """The only one that changes the store while it lives: whoever makes it holds the store's lock. One thread.

    ``boot`` is the kernel's boot id, given by the agent that starts and is to serve; by nobody else.
    """

    def __init__(
        self,
        store: ModelStore,
        workshop: Workshop,
        *,
        boot: str | None = None,
        tell: Callable[[Stored, float | None], None] = lambda _stored, _progress: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._workshop = store, workshop
        self._boot, self._tell, self._clock = boot, tell, clock
        self._since = clock()
        self.stored = store.recover()
        """What holds now. Replaced as a whole: read it from any thread."""
        if boot is not None:
            self._keep(jobs.starting(self.stored, boot))

    # ---- from the offer to a model that is ready

    def install(
        self,
        repository: Repository,
        offer: Offer,
        cancel: threading.Event,
        *,
        again: bool = False,
        activate: bool = False,
        in_window: bool = False,
    ) -> Job | None:
        """Fetch, check, compile and test; the job, ``warming`` where it may serve now. None: it is active already.

        Raises Busy, Rejected; and what can be taken up again: DownloadError, NoRoom, Interrupted. What cannot ends the job.
        """
        if offer.bundle == self.stored.active:
            return None
        begun = jobs.begin(self.stored, offer.bundle, again=again, activate=activate, in_window=in_window)
        self._keep(begun)
        return self.run(repository, offer, cancel)

    def run(self, repository: Repository, offer: Offer, cancel: threading.Event) -> Job:
        """Go on with the job until it is ``warming`` or has come to its end. Raises as ``install``."""
        steps: dict[str, Callable[[Job], None]] = {
            "downloading": lambda _: self._download(repository, offer, cancel),
            "verified": lambda _: None,
            "compiling": lambda job: self._workshop.compile(self._folder(job), self._progress, cancel),
            "self_testing": lambda job: self._workshop.self_test(self._folder(job), self._progress, cancel),
        }
        while (job := self._job()).state in steps:
            self._step(steps[job.state])
        return job

    def _download(self, repository: Repository, offer: Offer, cancel: threading.Event) -> None:
        archive = repository.fetch(offer, lambda done: self._progress("downloading", done), cancel)
        self._store.add(archive, offer.bundle)
        archive.unlink(missing_ok=True)

    def _step(self, work: Callable[[Job], None]) -> None:
        self._keep(jobs.attempt(self.stored))
        if (job := self._job()).state in jobs.TERMINAL:
            return
        self._since = self._clock()
        try:
            work(job)
        except EdgeAgentError as error:
            self._spend()
            if isinstance(error, Interrupted) or (error.retriable and job.state == "downloading"):
                if self._job().state not in jobs.TERMINAL:
                    self._keep(jobs.unattempt(self.stored))
                raise
            self._end(error)
            return
        self._spend()
        if self._job().state not in jobs.TERMINAL:
            self._keep(jobs.advance(self.stored))

    # ---- from there to the end

    def activate(self, serving: Serving | None) -> Job:
        """Let what is ready take over: in ``serving``, or where that is None at the next start. The job."""
        if serving is None or self._job().state != "warming":
            self._keep(jobs.switch(self.stored, ""))
            return self._job()
        self._keep(jobs.attempt(self.stored))
        if (job := self._job()).state in jobs.TERMINAL:
            return job
        try:
            before = serving.warm(self._folder(job))
            # Before the frames go there: should it take the box down, the next start knows what it was.
            self._keep(jobs.switch(self.stored, self._boot or "", before))
            serving.swap()
        except EdgeAgentError as error:
            self._end(error)
        return self._job()

    def wait(self, seconds: float) -> None:
        """Time went by in which nothing could be done for the job; past its deadline it is over."""
        if self.stored.working is not None:
            self._keep(jobs.spend(self.stored, seconds))

    def watched(self, probation: Probation) -> None:
        """So much was seen of the model on probation; remembered over restarts."""
        self._keep(jobs.watched(self.stored, probation))

    def announced(self) -> None:
        """The present state of the job was told to whom it concerns."""
        self._keep(jobs.told(self.stored))

    def confirm(self, reason: str = "", detail: str = "") -> None:
        """The probation is passed."""
        self._keep(jobs.confirm(self.stored, reason, detail))
        self._store.collect(self.stored)

    def roll_back(self, reason: str, detail: str) -> None:
        """The job has failed; who serves lets the active model take over again."""
        self._keep(jobs.roll_back(self.stored, reason, detail))
        self._store.collect(self.stored)

    def go_back(self) -> None:
        """By an operator's command. Raises UsageError."""
        self._keep(jobs.go_back(self.stored))
        self._store.collect(self.stored)

    def ended(self) -> None:
        """The agent ends in order."""
        self._keep(jobs.ended(self.stored))

    def retry(self) -> None:
        """The probation is being judged once more, after a crash of who judged it. Too often: rolled back."""
        self._keep(jobs.attempt(self.stored))

    def unretry(self) -> None:
        """That was stopped by us."""
        self._keep(jobs.unattempt(self.stored))

    # ---- what they share

    def _end(self, error: EdgeAgentError) -> None:
        code = error.code if isinstance(error, UpdateError) else self._job().state
        log.error("%s is not activated: %s", self._job().bundle.label, error)
        self.roll_back(code, str(error))

    def _job(self) -> Job:
        assert self.stored.job is not None
        return self.stored.job

    def _folder(self, job: Job) -> Path:
        return self._store.place(job.bundle)

    def _progress(self, _doing: str, done: float | None) -> None:
        self._tell(self.stored, done)

    def _spend(self) -> None:
        now = self._clock()
        self._keep(jobs.spend(self.stored, now - self._since))
        self._since = now

    def _keep(self, stored: Stored) -> None:
        if stored != self.stored:
            self._store.write(stored)
            self.stored = stored
            self._tell(stored, None)
