"""Shadow mode: a candidate looks at a share of the frames beside the model at work, and nothing comes of it but a report.

It runs in a process of its own, at low priority: what it does there does not reach the agent. Whether it may is decided as for an
update: it came signed or with the agent, and has tested itself on this box.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from edge_agent.chains import check_labels
from edge_agent.config import Config
from edge_agent.detect.apart import DetectorApart
from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.backends.choice import choose
from edge_agent.detect.manifest import find_model, load_model
from edge_agent.device_facts import shadow_facts
from edge_agent.durable import write_file
from edge_agent.errors import CommandError, EdgeAgentError, ModelError
from edge_agent.health.shadow import AT_WORK, ShadowStatus
from edge_agent.health.status import AgentStatus
from edge_agent.model_activation import open_repository
from edge_agent.model_beside import NICENESS, Beside, Told
from edge_agent.model_tally import Tally
from edge_agent.model_tools.sight import memory_limit
from edge_agent.model_tools.workshop import BoxWorkshop
from edge_agent.ota.job import DEADLINE_S, Stored
from edge_agent.ota.probation import AT_ONCE
from edge_agent.ota.store import ModelStore
from edge_agent.serving_model import ServingModel

log = logging.getLogger(__name__)

FREE_MB = 300
"""Must be free before it begins: it takes a second process with the vendor's libraries."""
LOW_MB = 100
"""Where less than that is left while it runs, it makes room."""
INTERRUPTED = "interrupted", "the agent ended while it was in shadow"
KEEP_S = 30.0
"""So often it is written down how it goes, and told."""
MAX_BYTES = 1 << 20
_REPORT: TypeAdapter[ShadowStatus] = TypeAdapter(ShadowStatus)


class ModelShadow:
    """One at a time. ``begin`` and ``ask_end`` are for any thread; all else is for the one that drives the updates.

    ``models``: what came by update. What a shadow alone needs is fetched into a store of its own, and goes with it.
    """

    def __init__(self, config: Config, models: ModelStore, wake: Callable[[], None]) -> None:
        self._config, self._models, self._wake = config, models, wake
        self._own = ModelStore(config.state_dir / "shadow")
        self._path = config.state_dir / "shadow" / "report.json"
        self.status: ShadowStatus | None = self._remembered()
        """The last one; replaced as a whole."""
        self.revision = 0
        """Grows with everything that is worth telling."""
        self._cancel = threading.Event()
        self._end_asked: tuple[str, str] | None = None
        self._apart: DetectorApart | None = None
        self._beside: Beside[DetectorApart] | None = None
        self._tally: Tally | None = None
        self._since = self._kept_at = 0.0

    def start(
        self,
        serving: ServingModel,
        status: Callable[[], AgentStatus],
        tell: Callable[[str, Mapping[str, Any]], None],
        seen: Told | None = None,
    ) -> None:
        """``tell`` emits an event about the box, ``seen`` is told of each frame that it has looked at.

        One that an earlier run did not bring to its end ends here.
        """
        self._serving, self._agent, self._tell, self._seen = serving, status, tell, seen
        self.end(*INTERRUPTED)

    @property
    def at_work(self) -> bool:
        """Whether it has not come to its end."""
        return self.status is not None and self.status.state in AT_WORK

    # ---- any thread

    def begin(self, model: str, fraction: float, minutes: float) -> None:
        """Let ``NAME@VERSION`` look at that fraction of the frames for so long. Raises CommandError."""
        if self.at_work and self.status is not None:
            raise CommandError("busy", f"{self.status.model} is in shadow; end it first")
        if model == self._serving.now.label:
            raise CommandError("not_available", f"{model} is the model at work itself")
        free = self._free_mb()
        if free is not None and free < FREE_MB:
            raise CommandError(
                "not_available", f"{free:.0f} MB of memory are free, {FREE_MB} are needed for a second model"
            )
        self._cancel, self._end_asked = threading.Event(), None
        self._show(ShadowStatus(model, "preparing", fraction, minutes, time.time()))
        self._wake()

    def ask_end(self, reason: str, detail: str) -> None:
        """End it soon; whatever it waits for, it waits no longer."""
        if self.at_work:
            self._end_asked = self._end_asked or (reason, detail)
            self._cancel.set()
            self._wake()

    # ---- the thread of the updates

    def turn(self) -> None:
        """Do what is next; about once a second. Blocks while it is made ready, until ``ask_end``."""
        if not self.at_work or self.status is None:
            return
        try:
            if self._end_asked is not None:
                self._finish(*self._end_asked)
            elif self._beside is None:
                self._prepare(self.status)
            else:
                self._look()
        except EdgeAgentError as error:
            self._finish(*(self._end_asked or (getattr(error, "code", "failed"), str(error))))
        except Exception as error:  # a fault of ours must not keep the updates from their work
            log.exception("the shadow has a fault")
            self._finish("failed", f"{type(error).__name__}: {error}")

    def end(self, reason: str, detail: str) -> None:
        """End it now."""
        if self.at_work:
            self._finish(reason, detail)

    def close(self) -> None:
        """The agent ends. What it came to is told by the next start."""
        if self._tally is not None and self.status is not None:
            self.status = self._measured(self.status.progress)
            self._keep()
        self._let_go()

    # ---- making ready

    def _prepare(self, status: ShadowStatus) -> None:
        self._keep()
        overdue = threading.Timer(
            DEADLINE_S, self.ask_end, ("deadline", f"not ready after {DEADLINE_S / 3600:g} hours")
        )
        overdue.daemon = True
        overdue.start()
        try:
            folder, bundle = self._find(status.model)
            workshop = BoxWorkshop(self._config, lambda manifest: check_labels(self._config, manifest))
            workshop.compile(folder, lambda _doing, done: self._progressed(done), self._cancel)
            workshop.self_test(folder, lambda *_: None, self._cancel)
            self._apart = self._load(folder)
        finally:
            overdue.cancel()
        before = self._serving.detector.meter()
        self._tally = Tally(self._config.track, status.fraction, before, self._seen)
        self._beside = Beside(self._apart, status.fraction, self._config.track, self._tally.told)
        self._since = time.monotonic()
        self._show(
            replace(status, state="running", bundle=bundle, beside=self._serving.now.label, progress=0.0),
        )
        self._keep()
        self._serving.detector.observer = self._beside.offer
        log.info("%s is in shadow of %s for %g min", status.model, self._serving.now.label, status.minutes)

    def _find(self, label: str) -> tuple[Path, str]:
        """The model's folder and the digest of its bundle: of those that are here already, else from the repository."""
        stored = self._models.read()
        for bundle in (stored.candidate, stored.previous, stored.active):
            if bundle is not None and bundle.label == label and self._models.is_whole(bundle):
                return self._models.place(bundle), bundle.sha256
        try:
            return find_model(label, self._config.models_dir).folder, ""
        except ModelError:
            if self._config.ota.repository is None:
                raise
        client = open_repository(self._config)
        name, _, version = label.partition("@")
        offer = client.look(name, version)
        archive = client.fetch(offer, self._progressed, self._cancel)
        self._own.add(archive, offer.bundle)
        archive.unlink(missing_ok=True)
        return self._own.place(offer.bundle), offer.bundle.sha256

    def _load(self, folder: Path) -> DetectorApart:
        config = self._config
        choice = choose(load_model(folder), config.detect)
        return DetectorApart(
            choice.backend,
            LoadRequest(choice.network, choice.config, config.state_dir / "cache"),
            niceness=NICENESS,
            growth_mb=config.ota.probation.max_growth_mb,
            memory_mb=memory_limit(choice.network, choice.backend, choice.config),
            cancel=self._cancel,
        )

    def _progressed(self, done: float | None) -> None:
        if self.status is not None:
            self.status = replace(self.status, progress=done)

    # ---- while it runs

    def _look(self) -> None:
        assert self._apart is not None and self._tally is not None and self.status is not None
        passed, whole = time.monotonic() - self._since, 60 * self.status.minutes
        self.status = self._measured(min(1.0, passed / whole))
        free = self._free_mb()
        if self._apart.trouble is not None:
            self._finish(*self._apart.trouble)
        elif self._tally.failing >= AT_ONCE:
            self._finish("errors", f"it failed on {self._tally.failing} frames in a row: {self._tally.fault}")
        elif free is not None and free < LOW_MB:
            self._finish("memory", f"only {free:.0f} MB of memory were left on the box")
        elif self.status.beside != self._serving.now.label:
            self._finish("update", f"{self._serving.now.label} is at work now")
        elif passed >= whole:
            self._finish()
        elif time.monotonic() - self._kept_at >= KEEP_S:
            self._keep()
            self.revision += 1

    def _measured(self, progress: float | None) -> ShadowStatus:
        assert self._tally is not None and self.status is not None
        return replace(self._tally.into(self.status, self._serving.detector.meter()), progress=progress)

    def _free_mb(self) -> float | None:
        free = self._agent().host.ram_available_bytes
        return None if free is None else free / 2**20

    # ---- its end

    def _finish(self, reason: str = "", detail: str = "") -> None:
        assert self.status is not None
        if self._tally is not None and self.status.beside == self._serving.now.label:
            self.status = self._measured(self.status.progress)
        self._let_go()
        progress = self.status.progress if reason else 1.0
        status = replace(
            self.status,
            state="ended" if reason else "completed",
            ended=time.time(),
            progress=progress,
            reason=reason,
            detail=detail[:500],
        )
        self._show(status)
        self._keep()
        self._own.collect(Stored())
        log.info("%s in shadow: %s", status.model, f"ended ({reason}: {status.detail})" if reason else "completed")
        self._tell("model_shadow", shadow_facts(status))

    def _let_go(self) -> None:
        """Of the second model; what it did not finish is not waited for."""
        beside, apart = self._beside, self._apart
        self._beside, self._apart, self._tally = None, None, None
        if beside is not None and self._serving.detector.observer == beside.offer:
            self._serving.detector.observer = None
        if apart is not None:
            apart.close()  # first: a frame that is inside comes out with it
        if beside is not None:
            beside.close()

    # ---- what is told and remembered

    def _show(self, status: ShadowStatus) -> None:
        self.status = status
        self.revision += 1

    def _keep(self) -> None:
        """On disk, for the next start. A disk that is full costs what was seen since the last time, and nothing else."""
        self._kept_at = time.monotonic()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_file(self._path, _REPORT.dump_json(self.status, indent=1))  # type: ignore[arg-type]
        except OSError as error:
            log.error("%s: how the shadow goes cannot be written down: %s", self._path, error.strerror)

    def _remembered(self) -> ShadowStatus | None:
        try:
            with self._path.open("rb") as file:
                return _REPORT.validate_json(file.read(MAX_BYTES))
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            log.warning("%s cannot be read, so nothing is known of the last shadow: %s", self._path, error)
            return None
