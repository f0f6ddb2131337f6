"""The configured model: there, whole, fit for the rules, and does it run."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_agent.chains import check_labels
from edge_agent.config import Config, DetectConfig
from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.manifest import AUTO, Model, Network, find_detector, load_model
from edge_agent.detect.trial import trial
from edge_agent.doctor.box import Box, RunningAgent
from edge_agent.doctor.finding import Check, Outcome, fail, ok, skip, warn
from edge_agent.doctor.probes import ask
from edge_agent.errors import ConfigError, EdgeAgentError, HardwareError, ModelError

AREA = "model"
_TRIAL_S = 12.0
_BROKEN = "a driver's package is broken: see the accelerators; until it is mended name the model"
_NO_CONFIG = "no configuration that names one"


def checks(_: Box) -> list[Check]:
    """Of this area."""
    return [
        Check(AREA, "manifest and labels", manifest),
        Check(AREA, "files and hashes", hashes),
        Check(AREA, "backend", backend),
        Check(AREA, "inference", inference, timeout_s=_TRIAL_S + 1.0),
    ]


def _model(config: Config) -> Model:
    """The model that the agent would take. Raises HardwareError, ModelError."""
    if config.model != AUTO:
        return find_detector(config.model, config.models_dir)
    return load_model(Path(ask("model", **_question(config))["folder"]))


def _question(config: Config) -> dict[str, Any]:
    detect = config.detect.model_dump(mode="json")
    return {"reference": config.model, "models_dir": str(config.models_dir.absolute()), "config": detect}


def manifest(box: Box) -> Outcome:
    """The manifest, and whether the rules look for labels that the model has."""
    if box.config is None:
        return skip(_NO_CONFIG)
    try:
        found = _model(box.config).manifest
        check_labels(box.config, found)
    except ModelError as error:
        return fail(str(error), "correct `model` or `models_dir`, or import the model: edge-agent model import")
    except HardwareError as error:
        return fail(f"which model `auto` means cannot be told: {error}", _BROKEN)
    except ConfigError as error:
        return fail(str(error), "name a label of the model")
    names = ", ".join(found.labels[:3]) + (" …" if len(found.labels) > 3 else "")
    files = ", ".join(sorted({file.backend for file in found.files}))
    chosen = " (model: auto)" if box.config.model == AUTO else ""
    return ok(
        f"{found.name}@{found.version}{chosen}, {found.family}, {len(found.labels)} label(s): {names}; for {files}"
    )


def hashes(box: Box) -> Outcome:
    """Every file against the SHA-256 in the manifest."""
    if box.config is None:
        return skip(_NO_CONFIG)
    try:
        model = _model(box.config)
        for file in model.manifest.files:
            with Network(model.manifest, file, model.folder).verified():
                pass
    except ModelError as error:
        return fail(str(error), "copy the model's folder again, or install it anew")
    except HardwareError:
        return skip("which model cannot be told, see above")
    return ok(f"{len(model.manifest.files)} file(s) as the manifest says")


def backend(box: Box) -> Outcome:
    """What the model runs on here, and why not on something better."""
    if box.config is None:
        return skip(_NO_CONFIG)
    if box.agent is not None and box.agent.part("model", "active"):
        return _at_work(box.agent)
    try:
        choice = _choose(box.config)
    except ModelError as error:
        return fail(str(error), "see `manifest and labels`; or correct detect.backend")
    except HardwareError as error:
        return fail(str(error), "install what it names, or correct detect.backend")
    return ok(f"{choice['name']}, {_network(choice).file.precision}" + _others(choice["reasons"]))


def _at_work(agent: RunningAgent) -> Outcome:
    text = f"the running agent uses {agent.part('model', 'backend')}"
    if error := agent.part("model", "error"):
        return warn(f"{text}, for want of a better one: {error}", "see its log")
    return ok(text + _others(agent.part("model", "not_taken") or {}))


def _others(reasons: Mapping[str, str]) -> str:
    """The heads of the reasons against the others; what to do about each stands in the area of accelerators."""
    heads = {
        name: re.split(r"[:(;]", why)[0].strip() for name, why in reasons.items() if not why.endswith("comes first")
    }
    return "".join(f"; not {name}: {head}" for name, head in heads.items())


def inference(box: Box) -> Outcome:
    """Load it and run it once, in a child process; what a running agent has at work is not touched."""
    if box.config is None:
        return skip(_NO_CONFIG)
    if box.agent is not None:
        return _from_agent(box.agent)
    try:
        choice = _choose(box.config)
        return _try(_network(choice), choice)
    except HardwareError:
        return skip("no backend or no model, see above")


def _from_agent(agent: RunningAgent) -> Outcome:
    if agent.status is None:
        return skip(f"a running agent has it at work, and {agent.why}")
    if not agent.part("model", "active"):
        return fail(f"the running agent has no model: {agent.part('model', 'error')}", "see its log")
    failed = sum(camera.get("failed", 0) for camera in agent.part("cameras") or [])
    text = f"{agent.part('model', 'name')}@{agent.part('model', 'version')} is at work in the running agent"
    return warn(f"{text}; {failed} frames failed", "see its log") if failed else ok(text)


def _choose(config: Config) -> dict[str, Any]:
    """What the agent would take, asked in a child process. Raises HardwareError, ModelError."""
    return ask("choice", **_question(config))


def _network(choice: Mapping[str, Any]) -> Network:
    model = load_model(Path(choice["folder"]))
    return Network(model.manifest, model.manifest.files[choice["file"]], model.folder)


def _try(network: Network, choice: dict[str, Any]) -> Outcome:
    backend = choice["backend"]
    if backend == "tensorrt":
        return skip(
            "its engine is built at the first start, which takes minutes: edge-agent model compile --target tensorrt"
        )
    try:
        with tempfile.TemporaryDirectory() as cache:
            request = LoadRequest(network, DetectConfig.model_validate(choice["config"]), Path(cache))
            result = trial(backend, request, timeout_s=_TRIAL_S)
    except EdgeAgentError as error:
        return fail(f"{choice['name']}: {error}", "reinstall the runtime, or choose another detect.backend")
    return ok(f"{backend} on {result.device}: {result.inference_ms:.1f} ms, loaded in {result.load_s:.1f} s")
