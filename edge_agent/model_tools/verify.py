"""``model verify``: every file's hash, and a run of each file that this box can run: on a picture, and on the golden ones."""

from __future__ import annotations

import dataclasses
import importlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_agent.config import DetectConfig
from edge_agent.detect.backends import BACKENDS
from edge_agent.detect.manifest import Model, Network, load_model
from edge_agent.detect.trial import TrialResult
from edge_agent.errors import EdgeAgentError, HardwareError, ModelError, UsageError
from edge_agent.model_tools.golden import GoldenResult, judge, unpack, usual_thresholds
from edge_agent.model_tools.sight import look, warnings

State = Literal["ok", "warn", "skip", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One file: its hash, its run on one backend, or what it finds in the golden pictures. ``what`` says which of them:
    ``sha256``, the backend, or ``golden``.
    """

    model: str
    file: str
    what: str
    state: State
    text: str
    sight: TrialResult | None = None
    golden: GoldenResult | None = None


def everything(models_dir: Path) -> Iterator[Model | Check]:
    """Every model version in a folder; a Check that failed for one whose manifest cannot be read."""
    yield from map(_read, sorted(models_dir.glob("*/*/manifest.yaml")))


def _read(path: Path) -> Model | Check:
    try:
        return load_model(path.parent)
    except ModelError as error:
        name = f"{path.parent.parent.name}@{path.parent.name}"
        return Check(name, path.name, "manifest", "fail", str(error))


def verify(model: Model, config: DetectConfig, image: Path | None) -> Iterator[Check]:
    """The checks of one model, as they are made. Raises UsageError for a picture that is none; all else is a result."""
    config = usual_thresholds(config)
    golden = model.manifest.golden
    with tempfile.TemporaryDirectory(prefix="edge-agent-golden-") as place:
        pictures: list[Path] = []
        if golden is not None:
            label, what = f"{model.manifest.name}@{model.manifest.version}", "golden pictures"
            try:
                pictures = unpack(model.folder, golden, Path(place))
                yield Check(label, what, "sha256", "ok", f"{len(pictures)} file(s) as the manifest says")
            except ModelError as error:
                yield Check(label, what, "sha256", "fail", str(error))
        yield from _files(model, config, image, pictures)


def _files(model: Model, config: DetectConfig, image: Path | None, pictures: list[Path]) -> Iterator[Check]:
    for file in model.manifest.files:
        network = Network(model.manifest, file, model.folder)
        try:
            with network.verified() as paths:
                count = len(paths)
        except ModelError as error:
            yield Check(network.label, file.path, "sha256", "fail", str(error))
            continue
        yield Check(network.label, file.path, "sha256", "ok", f"{count} file(s) as the manifest says")
        ran = _run(network, config, image, pictures)
        if ran.sight is None or model.manifest.golden is None or not pictures:
            yield ran
        else:
            yield dataclasses.replace(ran, sight=dataclasses.replace(ran.sight, golden=()))
            result = judge(model.manifest.golden, network.labels, ran.sight.golden)
            state: State = "ok" if result.passed else "fail"
            yield Check(network.label, file.path, "golden", state, result.text, golden=result)


def _run(network: Network, config: DetectConfig, image: Path | None, pictures: list[Path]) -> Check:
    backend = network.file.backend

    def check(state: State, text: str, sight: TrialResult | None = None) -> Check:
        return Check(network.label, network.file.path, backend, state, text, sight)

    reason = why_not(backend, network, config)
    if reason:
        return check("skip", reason)
    with tempfile.TemporaryDirectory(prefix="edge-agent-verify-") as work:
        try:
            sight = look(network, backend, config, image, Path(work), golden=pictures)
        except UsageError:  # of the picture, which is the user's: nothing is wrong with the model
            raise
        except (ModelError, HardwareError) as error:
            return check("fail", str(error))
        except EdgeAgentError as error:
            return check("fail", f"{type(error).__name__}: {error}")
    doubts = warnings(sight)
    seen = f"{sight.device}, {sight.inference_ms:.1f} ms, {_found(sight, drawn=image is None)}"
    return check("warn" if doubts else "ok", "; ".join([seen, *doubts]), sight)


def _found(sight: TrialResult, *, drawn: bool) -> str:
    if sight.scores is None:
        return f"{len(sight.seen or ())} boxes"
    scores = ", ".join(f"{label} {score:.2f}" for label, score in sight.scores.items())
    return f"{scores} (of a drawing: it runs, no more is shown; --image takes a crop)" if drawn else scores


def why_not(backend: str, network: Network, config: DetectConfig) -> str:
    """Why this box cannot run the file; empty: it can."""
    if backend not in BACKENDS:
        return f"this version has no backend {backend}"
    if network.file.device == "edgetpu":
        from edge_agent.detect.backends.tflite_delegates import accelerator

        return accelerator(config)
    # Each backend's module says by itself whether its package and device are here.
    return str(importlib.import_module(f"edge_agent.detect.backends.{backend}").available(config))
