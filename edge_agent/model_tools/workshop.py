"""What a model that came by update must do on this box before it may serve: be built for its accelerator, run, and see."""

from __future__ import annotations

import importlib
import logging
import platform
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_agent.config import Config
from edge_agent.detect.backends import BACKENDS, LoadRequest
from edge_agent.detect.backends.choice import Choice, choose
from edge_agent.detect.manifest import ONNX_READERS, Manifest, Model, load_model, refuse_classifier
from edge_agent.detect.trial import trial
from edge_agent.errors import ActivationFailed, HardwareError, Interrupted
from edge_agent.model_tools.golden import judge, unpack, usual_thresholds
from edge_agent.model_tools.sight import TIMEOUT_S, memory_limit
from edge_agent.ota.activation import Progress
from edge_agent.ota.offer import Box

log = logging.getLogger(__name__)


def this_box(config: Config) -> Box:
    """What bundles must fit here: the backends whose package and device are there, and the names of the hardware."""
    backends = {
        name
        for name in BACKENDS
        if not importlib.import_module(f"edge_agent.detect.backends.{name}").available(config.detect)
    }
    if backends & ONNX_READERS:
        backends.add("onnxruntime")  # whose files they take
    return Box(frozenset(backends), frozenset({platform.machine(), *config.ota.hardware}))


@dataclass(frozen=True, slots=True)
class BoxWorkshop:
    """Fulfils ``ota.activation.Workshop``. ``accept`` raises where the agent's use cases cannot work with a model."""

    config: Config
    accept: Callable[[Manifest], None]

    def compile(self, folder: Path, progress: Progress, cancel: threading.Event) -> None:
        """See ``Workshop``."""
        choice, _ = self._choose(folder)
        if choice.backend != "tensorrt":
            return
        from edge_agent.detect.backends.tensorrt import build, engine_ready

        request = self._request(choice)
        if not engine_ready(request) and not build(request, progress, cancel=cancel):
            raise Interrupted("stopped while its engine was being built")

    def self_test(self, folder: Path, progress: Progress, cancel: threading.Event) -> None:
        """See ``Workshop``. Judges the one file that this box would take, by the thresholds that every model is judged by."""
        choice, model = self._choose(folder)
        progress("testing itself", None)
        golden, label = model.manifest.golden, f"{model.manifest.name}@{model.manifest.version} with {choice.name}"
        with tempfile.TemporaryDirectory(prefix="edge-agent-golden-") as work:
            pictures = [] if golden is None else unpack(folder, golden, Path(work))
            try:
                sight = trial(
                    choice.backend,
                    self._request(choice),
                    timeout_s=TIMEOUT_S,
                    golden=pictures,
                    memory_mb=self._memory_mb(choice),
                    cancel=cancel,
                )
            except HardwareError as error:
                if cancel.is_set():
                    raise Interrupted("stopped while it was testing itself") from error
                raise ActivationFailed(str(error)) from error
        if not sight.finite:
            raise ActivationFailed(f"{label}: its outputs are no numbers")
        if golden is None:
            log.warning("%s has no golden pictures: that it runs is known, what it sees is not", label)
        elif not (result := judge(golden, model.manifest.labels, sight.golden)).passed:
            raise ActivationFailed(f"{label}: {result.text}")
        limit = self.config.ota.max_inference_ms
        if limit is not None and sight.inference_ms > limit:
            raise ActivationFailed(
                f"{label}: {sight.inference_ms:.0f} ms a picture, more than {limit:g} (ota.max_inference_ms)"
            )

    def _choose(self, folder: Path) -> tuple[Choice, Model]:
        model = load_model(folder)
        refuse_classifier(model.manifest)
        self.accept(model.manifest)
        return choose(model, self.config.detect), model

    def _request(self, choice: Choice) -> LoadRequest:
        return LoadRequest(choice.network, usual_thresholds(choice.config), self.config.state_dir / "cache")

    def _memory_mb(self, choice: Choice) -> int | None:
        usual = memory_limit(choice.network, choice.backend, choice.config)
        return usual and (self.config.ota.max_memory_mb or usual)
