"""From a model to the detector that serves: which backend takes it, and what serves while an engine is being built.

A TensorRT engine belongs to one GPU, driver and version: after an upgrade of JetPack or of the model there is none that
fits. Cameras do not wait for it: a CPU backend serves until the engine is built, then the two change places.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from edge_agent.config import DetectConfig
from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.backends.choice import Choice, choose
from edge_agent.detect.detector import ModelDetector
from edge_agent.detect.manifest import Model
from edge_agent.detect.serving import ServingDetector
from edge_agent.detect.trial import trial
from edge_agent.errors import HardwareError
from edge_agent.types import NO_CLOCK, StageClock

log = logging.getLogger(__name__)

TRIAL_S = 120.0
"""For the first start of a vendor's driver after boot, with room."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What serves and why, for status."""

    name: str = ""
    """The candidate that was taken, see ``choice.CANDIDATES``."""
    not_taken: Mapping[str, str] = field(default_factory=dict)
    """Why each of the others was not."""
    trouble: str = ""
    """Why something lesser serves than was meant to; "" when all is as it should be."""


class DetectorLoader:
    """Loads one model. ``load`` first, in the thread that composes; ``finish`` then in a thread of its own where ``pending``."""

    def __init__(
        self,
        model: Model,
        config: DetectConfig,
        cache: Path,
        *,
        stop: threading.Event,
        clock: StageClock = NO_CLOCK,
    ) -> None:
        self._model, self._config, self._cache = model, config, cache
        self._stop, self._clock = stop, clock
        self._pending: Choice | None = None
        self._serving: ServingDetector | None = None
        self.loaded = Loaded()
        """Replaced as a whole when it changes: read it from any thread."""

    @property
    def pending(self) -> bool:
        """Whether a better detector than the one that serves has yet to be built."""
        return self._pending is not None

    def load(self) -> ServingDetector:
        """The detector to begin with.

        Raises HardwareError (nothing here can run the model), ModelError (a damaged file, one that is not as its manifest says).
        With ``backend: auto`` a candidate that does not load makes room for the next one, and status says why.
        """
        choice = choose(self._model, self._config)
        if self._lacks_engine(choice):
            return self._stand_in(choice)
        serving, taken = self._first_that_loads(choice)
        if taken is not choice and self._lacks_engine(choice):
            # The one that was there did not fit after all, and is gone: this is the same as none.
            self._pending, self._serving = choice, serving
        self.loaded = self._told(taken, choice)
        return serving

    def beside(self) -> ModelDetector:
        """A detector beside the one that serves: what fits this box best and nothing less, ready to run.

        Raises HardwareError, ModelError.
        """
        choice = choose(self._model, self._config)
        detector = self._open(choice)
        self.loaded = self._told(choice, choice)
        return detector

    def _lacks_engine(self, choice: Choice) -> bool:
        """Whether an engine has yet to be built. False where that cannot be found out: loading it says why."""
        if choice.backend != "tensorrt":
            return False
        from edge_agent.detect.backends.tensorrt import engine_ready

        try:
            return not engine_ready(self._request(choice))
        except HardwareError:
            return False

    def finish(self, tell: Callable[[], object] = lambda: None) -> None:
        """Build what is pending and let it take over; blocks for minutes, ends early on ``stop``.

        ``tell`` is called after each step of progress. Raises HardwareError, ModelError; then the stand-in goes on serving.
        """
        choice, serving = self._pending, self._serving
        if choice is None or serving is None:
            return
        before, stand_in = self.loaded, serving.current
        try:
            if not self._build(choice, tell) or self._stop.is_set():
                return
            taken = serving.swap(self._open(choice), instead_of=stand_in)
        except HardwareError as error:
            self.loaded = Loaded(before.name, before.not_taken, f"{choice.name} cannot take over: {error}")
            raise
        self._pending = None
        if not taken:
            return  # another model has taken over meanwhile
        self.loaded = Loaded(choice.name, choice.reasons)
        log.info("%s took over from %s", choice.name, before.name)

    def _build(self, choice: Choice, tell: Callable[[], object]) -> bool:
        from edge_agent.detect.backends.tensorrt import build

        before = self.loaded

        def progress(doing: str, done: float | None) -> None:
            share = "" if done is None else f", {done:.0%}"
            self.loaded = Loaded(before.name, before.not_taken, f"{before.trouble} ({doing}{share})")
            tell()

        return build(self._request(choice), progress, cancel=self._stop)

    def _stand_in(self, choice: Choice) -> ServingDetector:
        """Serve from another backend, until ``choice`` has the engine it lacks."""
        failed = {choice.name: "its engine is not built yet"}
        try:
            other = choose(self._model, self._config.model_copy(update={"backend": "auto"}), failed=failed)
        except HardwareError as error:
            # Nothing else is installed: there is nothing to serve with meanwhile.
            log.warning("no detection until the TensorRT engine is built: %s", error)
            self._build(choice, lambda: None)
            self.loaded = self._told(choice, choice)
            return ServingDetector(self._open(choice), self._clock)
        self._serving, taken = self._first_that_loads(other, failed)
        self._pending = choice
        self.loaded = self._told(taken, choice)
        log.warning("%s", self.loaded.trouble)
        return self._serving

    def _told(self, taken: Choice, meant: Choice) -> Loaded:
        trouble = ""
        if self.pending:
            trouble = f"{taken.name} serves while the engine for {meant.name} is being built"
        elif taken is not meant:
            trouble = f"{taken.name} serves, as {meant.name} does not load: {taken.reasons[meant.name]}"
        return Loaded(taken.name, taken.reasons, trouble)

    def _first_that_loads(
        self, choice: Choice, failed: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[ServingDetector, Choice]:
        """``choice``, or the next one that loads, unless it was named; ``failed`` are out already."""
        out, first = dict(failed), None
        auto = self._config.model_copy(update={"backend": "auto"})
        while True:
            try:
                return ServingDetector(self._open(choice), self._clock), choice
            except HardwareError as error:
                first = first or error
                if choice.backend == self._config.backend and not self._lacks_engine(choice):
                    raise
                log.error("%s does not load: %s", choice.name, error)
                out[choice.name] = str(error)
            try:
                choice = choose(self._model, auto, failed=out)
            except HardwareError:
                # Why the best candidate did not load says more than that none of the others is there.
                raise first from None

    def _open(self, choice: Choice) -> ModelDetector:
        """Load in this process; what may take it down has to do well in a child process first."""
        request = self._request(choice)
        section = choice.config.tflite
        foreign = choice.network.file.device == "edgetpu" or section.delegate is not None
        if choice.backend == "tensorrt" or (choice.backend == "tflite" and foreign):
            trial(choice.backend, request, timeout_s=TRIAL_S)
        return ModelDetector(choice.backend, request)

    def _request(self, choice: Choice) -> LoadRequest:
        return LoadRequest(choice.network, choice.config, self._cache)
