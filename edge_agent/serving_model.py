"""The model at work: which one the agent starts with, and how another takes its place while frames come.

Models that came by update are before the one that the configuration names. The next one is loaded and run beside the one
that serves, by a thread that stands back for cameras and workers; then frames go to it, one pointer later.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from edge_agent.chains import check_labels
from edge_agent.config import Config
from edge_agent.detect.default_model import take_model
from edge_agent.detect.detector import ModelDetector
from edge_agent.detect.loading import DetectorLoader
from edge_agent.detect.manifest import Model, list_models, load_model, refuse_classifier
from edge_agent.detect.serving import ServingDetector
from edge_agent.errors import HardwareError
from edge_agent.health.status import ModelStatus
from edge_agent.model_beside import Beside
from edge_agent.ota.offer import Bundle
from edge_agent.ota.probation import Agreement
from edge_agent.types import NO_CLOCK, Frame, StageClock

log = logging.getLogger(__name__)
T = TypeVar("T")
NICENESS = 10
WARM_RUNS = 3
"""The first run allocates, the second may still tune itself."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model to start with. ``bundle`` and ``folder`` are None for the one that the configuration names."""

    bundle: Bundle | None = None
    folder: Path | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Served:
    """What serves, and why it is this one."""

    model: Model
    loader: DetectorLoader
    why: str
    bundle: Bundle | None

    @property
    def label(self) -> str:
        """``name@version``."""
        return f"{self.model.manifest.name}@{self.model.manifest.version}"


class ServingModel:
    """Takes the first of ``candidates`` that loads; ``failed(candidate, error)`` is told of each that does not.

    Raises ConfigError (use cases wait for labels that the model has not), HardwareError, ModelError where none loads. ``now``
    is replaced as a whole and read by any thread; everything else is for one thread at a time.
    """

    def __init__(
        self,
        config: Config,
        candidates: Sequence[Candidate],
        *,
        stop: threading.Event,
        failed: Callable[[Candidate, HardwareError], None] = lambda _candidate, _error: None,
        clock: StageClock = NO_CLOCK,
    ) -> None:
        self._config, self._stop, self._clock = config, stop, clock
        self._next: tuple[Served, ModelDetector] | None = None
        self._beside: tuple[Served, Beside[ModelDetector]] | None = None
        self.trouble = ""
        """Why another model serves than should; "" where all is as it should be."""
        self.now, self.detector = self._first_that_loads(candidates, failed)

    def _first_that_loads(
        self, candidates: Sequence[Candidate], failed: Callable[[Candidate, HardwareError], None]
    ) -> tuple[Served, ServingDetector]:
        candidate, *others = candidates
        try:
            served = self._prepare(candidate)
            return served, served.loader.load()
        except HardwareError as error:
            failed(candidate, error)
            if not others:
                raise
            label = "the configured model" if candidate.bundle is None else candidate.bundle.label
            log.error("%s does not load: %s", label, error)
            self.trouble = self.trouble or f"{label} does not load: {error}"
        return self._first_that_loads(others, failed)

    @functools.cached_property
    def configured(self) -> str:
        """``name@version`` of the model that the configuration names; as it is written there where it is not to be found."""
        config = self._config
        try:
            manifest = take_model(config.model, config.models_dir, config.detect).model.manifest
        except HardwareError:
            return config.model
        return f"{manifest.name}@{manifest.version}"

    @property
    def words(self) -> str:
        """Which model, which of its files and on what, for the log."""
        now, detector = self.now, self.detector.current
        chosen = f" ({now.why})" if now.why else ""
        label, file = detector.network.label, detector.network.file.path
        return f"{label}{chosen}: {file} on {detector.backend_name} ({detector.backend.device})"

    @property
    def status(self) -> ModelStatus:
        """Of the moment; from any thread."""
        now, detector = self.now, self.detector.current
        manifest, loaded = now.model.manifest, now.loader.loaded
        return ModelStatus(
            name=manifest.name,
            version=manifest.version,
            sha256=detector.network.file.sha256,
            backend=f"{detector.backend_name} ({detector.backend.device})",
            precision=detector.network.file.precision,
            active=True,
            why=now.why,
            error=self.trouble or loaded.trouble,
            not_taken=loaded.not_taken,
            bundle="" if now.bundle is None else now.bundle.sha256,
        )

    def known(self) -> list[dict[str, object]]:
        """For REST: the models that came with the agent and the one at work."""
        now = self.now
        seeds = [model for model in list_models(self._config.models_dir) if model != now.model.manifest]
        return [
            {
                "name": manifest.name,
                "version": manifest.version,
                "family": manifest.family,
                "labels": list(manifest.labels),
                "licence": manifest.licence,
                "active": manifest is now.model.manifest,
            }
            for manifest in (now.model.manifest, *seeds)
        ]

    # ---- another one

    def warm(self, candidate: Candidate) -> None:
        """Load the model beside the one that serves, at low priority, and run it. Raises ConfigError, HardwareError, ModelError,
        InferenceError; then nothing has changed.
        """
        self._give_up_next()
        served = self._prepare(candidate)
        detector = _standing_back(lambda: _warmed(served))
        self._next = served, detector

    def swap(self, compare: float = 0.0) -> None:
        """Let the next frame go to what was warmed. The one before stays, and looks at that share of the frames too."""
        assert self._next is not None
        (served, detector), self._next = self._next, None
        self.forget()
        former = self.now
        # First the frames: who reads `now` in between names a model whose detector is a moment old.
        if compare > 0:
            self._compare(former, self.detector.exchange(detector), compare)
        else:
            self.detector.swap(detector)
        self.now, self.trouble = served, ""
        log.info("model %s", self.words)

    def take(self, candidate: Candidate) -> None:
        """Both at once, and quickly: the one that serves is no good. Raises as ``warm``."""
        self._give_up_next()
        if self._beside is not None and self._beside[0].bundle == candidate.bundle:
            (served, beside), self._beside = self._beside, None
            self.detector.observer = None
            self._next = served, beside.end()
        else:
            served = self._prepare(candidate)
            self._next = served, _warmed(served)
        self.swap()

    # ---- two that look at the same frames

    @property
    def agreement(self) -> Agreement | None:
        """Of the model at work and the one that looks at a share of its frames; None where there is none. Any thread."""
        beside = self._beside
        return None if beside is None else beside[1].agreement

    def compare_with(self, candidate: Candidate, share: float) -> None:
        """Load ``candidate`` beside the model at work, and let it look at that share of the frames. Raises as ``warm``."""
        self.forget()
        served = self._prepare(candidate)
        self._compare(served, _standing_back(lambda: _warmed(served)), share)

    def forget(self) -> None:
        """Let go of the second model. Safe to call when there is none."""
        if self._beside is not None:
            (_, beside), self._beside = self._beside, None
            self.detector.observer = None
            beside.close()

    def _compare(self, served: Served, detector: ModelDetector, share: float) -> None:
        beside = Beside(detector, share, self._config.track)
        self._beside, self.detector.observer = (served, beside), beside.offer

    def _prepare(self, candidate: Candidate) -> Served:
        config = self._config
        if candidate.folder is None:
            taken = take_model(config.model, config.models_dir, config.detect)
            model, why = taken.model, taken.why
        else:
            model, why = load_model(candidate.folder), candidate.why
            refuse_classifier(model.manifest)
        check_labels(config, model.manifest)
        loader = DetectorLoader(model, config.detect, config.state_dir / "cache", stop=self._stop, clock=self._clock)
        return Served(model, loader, why, candidate.bundle)

    def _give_up_next(self) -> None:
        if self._next is not None:
            self._next[1].close()
            self._next = None


def _warmed(served: Served) -> ModelDetector:
    detector = served.loader.beside()
    try:
        width, height = served.model.manifest.input.size
        grey = np.full((height, width, 3), 128, np.uint8)
        for number in range(WARM_RUNS):
            detector.detect(Frame("warm-up", number, 0.0, 0.0, grey))
    except BaseException:
        detector.close()
        raise
    return detector


def _standing_back(work: Callable[[], ModelDetector]) -> ModelDetector:
    """Do it in a thread of low priority, and what it raises is raised here.

    A library's own threads inherit the priority, and only root may lift it again. Where they cannot be lifted the model would
    serve at low priority for ever: then it is loaded once more as usual.
    """
    before = _tasks()
    detector, own = _in_thread(work, NICENESS)
    held = [task for task in _tasks() - before if task != own and _niceness(task) == NICENESS]
    try:
        for task in held:
            os.setpriority(os.PRIO_PROCESS, task, 0)
    except ProcessLookupError:
        pass
    except PermissionError:
        detector.close()
        return _in_thread(work, 0)[0]
    return detector


def _tasks() -> set[int]:
    """The kernel's numbers of our threads."""
    return {int(path.name) for path in Path("/proc/self/task").iterdir()}


def _niceness(task: int) -> int:
    try:
        return os.getpriority(os.PRIO_PROCESS, task)
    except ProcessLookupError:
        return 0


def _in_thread(work: Callable[[], T], niceness: int) -> tuple[T, int]:
    """What it returns, and the kernel's number of the thread, which has ended."""
    done: Future[T] = Future()

    def enter() -> None:
        try:
            if niceness:
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - the entry point of a thread; it is raised where it was asked for
            done.set_exception(error)

    thread = threading.Thread(target=enter, name="model-loader", daemon=True)
    thread.start()
    thread.join()
    assert thread.native_id is not None
    return done.result(), thread.native_id
