"""What is told about the model at work and its updates: for status, REST and the topic ``model``. Any thread may read."""

from __future__ import annotations

import time
from dataclasses import replace

from edge_agent.config_ota import ProbationConfig
from edge_agent.health.status import ModelStatus, UpdateStatus
from edge_agent.ota.job import Job, State, Stored
from edge_agent.ota.offer import Bundle
from edge_agent.ota.probation import Agreement

PROGRESS_S = 5.0
"""Progress is told no more often."""


class ModelBoard:
    """Written by the thread that drives the activation, and by those who ask for something (``show``)."""

    def __init__(self, config: ProbationConfig) -> None:
        self._config = config
        self._shown: UpdateStatus | None = None
        self._progress: float | None = None
        self._told_at = 0.0
        self.stored = Stored()
        """What is remembered; replaced as a whole."""
        self.revision = 0
        """Grows with everything that is worth telling."""

    def heard(self, stored: Stored, progress: float | None) -> None:
        """The activation has come further; see ``Activation``'s ``tell``."""
        before, self.stored = self.stored, stored
        if _stage(stored) != _stage(before):
            self._shown = None
        if stored != before:
            self._progress = None
            self.changed()
        if progress is not None:
            self.progressed(progress)

    def progressed(self, progress: float) -> None:
        """Fraction of what is under way."""
        self._progress = progress
        if time.monotonic() - self._told_at >= PROGRESS_S:
            self._told_at = time.monotonic()
            self.changed()

    def changed(self) -> None:
        """Something else is to be told."""
        self.revision += 1

    def show(self, attempt: UpdateStatus | None) -> None:
        """In the place of the stored job, which does not know of it; None, or the job's next state: the job again."""
        self._shown = attempt
        self.changed()

    def trouble(self, job: Job, code: str, detail: str) -> None:
        """The job goes on later."""
        self.show(replace(self._of(job), reason=code, detail=detail))

    @property
    def update(self) -> UpdateStatus | None:
        """What is under way, or was last; None where nothing ever was."""
        return self._shown or (None if self.stored.job is None else self._of(self.stored.job))

    def status(self, model: ModelStatus, configured: str, agreement: Agreement | None) -> ModelStatus:
        """``model`` with what is before it and what is under way; ``configured``: the label of the model of the configuration."""
        stored, before = self.stored, None
        if stored.active is not None:
            before = stored.previous
            model = replace(model, previous=configured if before is None else before.label)
        update = self.update
        if update is not None and agreement is not None:
            update = replace(update, agreement=agreement.share, compared=agreement.frames)
        return replace(model, previous_bundle="" if before is None else before.sha256, update=update)

    def _of(self, job: Job) -> UpdateStatus:
        progress = self._progress
        if job.state == "probation" and job.probation is not None and progress is None:
            progress = job.probation.share(self._config)
        if job.state in ("confirmed", "rolled_back"):
            progress = None
        bundle = job.bundle
        return UpdateStatus(bundle.label, job.state, bundle.sha256, progress, job.reason, job.detail)


def _stage(stored: Stored) -> tuple[Bundle, State] | None:
    return None if stored.job is None else (stored.job.bundle, stored.job.state)
