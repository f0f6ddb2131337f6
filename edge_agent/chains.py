"""Builds a camera's chain from the configuration: for a run, for a replay, and for a check that starts nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edge_agent.acting import Actuators, Rehearsal
from edge_agent.codes.naming import check_keys
from edge_agent.config import CameraConfig, Config, DetectConfig
from edge_agent.config_classifiers import ClassifierConfig
from edge_agent.detect.backends.choice import usable_files
from edge_agent.detect.default_model import take_model
from edge_agent.detect.manifest import Manifest, Model
from edge_agent.detect.second_stage import classifier_model
from edge_agent.errors import ConfigError, ModelError
from edge_agent.pipeline import CameraChain, FrameResult, UseCase, no_codes, no_looks
from edge_agent.sinks.build import batch_sinks
from edge_agent.track import MultiObjectTracker
from edge_agent.types import (
    NO_CLOCK,
    Code,
    Frame,
    Look,
    NewId,
    Output,
    SensorValue,
    StageClock,
    Tracks,
    uuid7_factory,
)
from edge_agent.usecases.attention import Attention
from edge_agent.usecases.attributes import Attributes
from edge_agent.usecases.codes_seen import CodesSeen
from edge_agent.usecases.dispenser import Dispenser
from edge_agent.usecases.ground import CameraGround
from edge_agent.usecases.guest import Guest
from edge_agent.usecases.intrusion import Intrusion
from edge_agent.usecases.line_count import LineCount
from edge_agent.usecases.loitering import Loitering
from edge_agent.usecases.occupancy import Occupancy
from edge_agent.usecases.ppe import Ppe
from edge_agent.usecases.scene import Places
from edge_agent.usecases.social_distancing import SocialDistancing
from edge_agent.usecases.sop import Sop
from edge_agent.usecases.touchless import Touchless

USE_CASES: Mapping[str, Callable[[Any, CameraConfig, NewId, Places], UseCase]] = {
    "social_distancing": lambda section, camera, new_id, _: SocialDistancing(section, camera, new_id),
    "sop": Sop,
    "occupancy": Occupancy,
    "line_count": LineCount,
    "intrusion": Intrusion,
    "loitering": Loitering,
    "ppe": Ppe,
    "attributes": Attributes,
    "attention": Attention,
}
"""What makes each, from its section of ``use_cases``, for one camera. Those that look at scenes share its places."""
ACTING: Mapping[str, Callable[[Any, CameraConfig, NewId, Places, Actuators], UseCase]] = {
    "touchless": Touchless,
    "dispenser": Dispenser,
    "guest": Guest,
}
"""Those that order something of others."""


def build_chain(
    config: Config,
    camera: CameraConfig,
    *,
    new_id: NewId,
    emit: Callable[[Sequence[Output]], None],
    on_result: Callable[[FrameResult], None] | None = None,
    sensors: Callable[[], Mapping[str, SensorValue]] = dict,
    looks: Callable[[Frame, Tracks], Sequence[Look]] = no_looks,
    codes: Callable[[Frame], Sequence[Code]] = no_codes,
    clock: StageClock = NO_CLOCK,
    actuators: Actuators | None = None,
) -> CameraChain:
    """Tracker, ground plane and use cases of one camera. Raises ConfigError (no such ground plane) and ModelError (no such classifier)."""
    distancing = config.use_cases.social_distancing
    label = distancing.label if distancing is not None else "person"
    places, acts = Places(camera, judges(config, camera)), actuators or Rehearsal()
    use_cases = [
        ACTING[name](section, camera, new_id, places, acts)
        if name in ACTING
        else USE_CASES[name](section, camera, new_id, places)
        for name, section in config.use_cases.at_work()
        if section.runs_on(camera.id)
    ]
    if config.codes is not None and config.codes.enabled and config.codes.events:
        use_cases.append(CodesSeen(config.codes, camera, new_id))
    return CameraChain(
        camera.id,
        tracker=MultiObjectTracker(config.track),
        ground=CameraGround(camera, label),
        use_cases=use_cases,
        emit=emit,
        on_result=on_result,
        sensors=sensors,
        looks=looks,
        codes=codes,
        label=label,
        clock=clock,
    )


def judges(config: Config, camera: CameraConfig | None = None) -> dict[str, ClassifierConfig]:
    """The attributes that classifiers know, of one camera or of all. Raises ModelError and ConfigError (none, or two that know one)."""
    found: dict[str, ClassifierConfig] = {}
    for one in config.classifiers:
        if camera is not None and one.cameras is not None and camera.id not in one.cameras:
            continue
        for label in classifier_model(one, config.models_dir).manifest.labels:
            if camera is not None and label in found:
                raise ConfigError([f"classifiers: {found[label].model} and {one.model} both judge {label!r}; keep one"])
            found[label] = one
    return found


def check_labels(config: Config, model: Manifest) -> None:
    """Refuse use cases that wait for what the model cannot say. Raises ConfigError."""
    wanted = [
        (f"{name}.{where}", label)
        for name, section in config.use_cases.at_work()
        for where, label in section.wanted_labels()
    ]
    wanted = [(f"use_cases.{where}", label) for where, label in wanted if label not in judges(config)]
    for i, one in enumerate(config.classifiers):
        crop = classifier_model(one, config.models_dir).manifest.crop
        wanted += [(f"classifiers[{i}].model: shown crops of", crop.label)] if crop is not None else []
    known = ", ".join(model.labels[:20]) + (" …" if len(model.labels) > 20 else "")
    name = f"{model.name}@{model.version}"
    problems = [
        f"{where}: given {label!r}, which model {name} does not know; it knows: {known}"
        for where, label in wanted
        if label not in model.labels
    ]
    if problems:
        raise ConfigError(problems)


def _check_files(model: Model, detect: DetectConfig) -> None:
    """Refuse a model without a file for the backend and precision that are named, or whose file is not there. Raises ModelError."""
    files = [network.path for network in usable_files(model, detect)]
    if not files:
        if detect.backend != "auto":
            model.network(detect.backend)  # says what the model has instead
        name, have = f"{model.manifest.name}@{model.manifest.version}", {f.precision for f in model.manifest.files}
        raise ModelError(
            f"model {name} has no {detect.precision} file for detect.backend {detect.backend} "
            f"(all its files: {', '.join(sorted(have))}): correct detect.precision, or name another model"
        )
    if not any(file.is_file() for file in files):
        raise ModelError(f"{files[0]}: no such file; the manifest names it, is the model complete?")


def check(config: Config) -> list[str]:
    """Build what can be built of a configuration without starting anything; facts worth knowing. Raises as a start would."""
    facts: list[str] = []
    problems: list[str] = []
    for camera in config.cameras:
        try:
            build_chain(config, camera, new_id=uuid7_factory(), emit=lambda _: None)
            plane = CameraGround(camera).plane
        except ConfigError as error:
            problems += error.problems
            continue
        if plane is None:
            facts.append(f"camera {camera.id}: no ground plane, distances are estimates from person height")
        else:
            points = len(plane.errors_m)
            facts.append(f"camera {camera.id}: ground plane from {points} points, RMS error {plane.rms_m:.3f} m")
    if config.codes is not None and config.codes.enabled:
        try:
            check_keys(config.codes)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    taken = take_model(config.model, config.models_dir, config.detect)
    model = taken.model.manifest
    check_labels(config, model)
    _check_files(taken.model, config.detect)
    facts += [f"{name}: {sink.address}" for name, sink in batch_sinks(config).items()]
    size = f"{model.input.size[0]}x{model.input.size[1]}"
    why = f" ({taken.why})" if taken.why else ""
    return [f"model {model.name}@{model.version}: {', '.join(model.labels[:5])}, input {size}{why}", *facts]
