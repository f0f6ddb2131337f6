"""``model import``: from a file of somebody else's to a model of ours, or to a reason why not; nothing half-done stays behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.config import DetectConfig, OpenVinoConfig
from edge_agent.detect.manifest import Model, Network, load_model
from edge_agent.detect.trial import TrialResult
from edge_agent.errors import EdgeAgentError, ModelError, UsageError
from edge_agent.model_tools import sandbox
from edge_agent.model_tools.facts import MAX_OUTPUT_BYTES, Facts
from edge_agent.model_tools.guess import BACKENDS, Choices, Draft, Question, Reason, guess
from edge_agent.model_tools.merge import choices_of, copy_files, doubts, merged
from edge_agent.model_tools.sight import look, warnings
from edge_agent.model_tools.staging import free_place, publish, sha256, staging_folder, write_manifest

ON_CPU = DetectConfig(openvino=OpenVinoConfig(device="CPU"))
"""Where a file of somebody else's is tried: there its memory is limited, and no driver is reached."""
Ask = Callable[[list[Question], Choices], Choices]
"""Gets answers from whoever sits there. Raises UsageError where nobody does."""


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What to import and how to call it. ``overrides`` are dotted manifest keys that the user sets himself."""

    source: Path
    name: str
    version: str
    models_dir: Path
    choices: Choices = field(default_factory=Choices)
    licence: str | None = None
    overrides: tuple[tuple[str, Any], ...] = ()
    image: Path | None = None
    replace: bool = False
    base: Model | None = None
    """A version to add the file to; what comes of it is a new version with this one's files as well."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of it. ``sight`` is None where it could not be run here (``why_not``)."""

    model: Model
    reasons: tuple[Reason, ...]
    sight: TrialResult | None
    why_not: str
    warnings: tuple[str, ...]


def import_model(request: ImportRequest, ask: Ask) -> Imported:
    """Raises ModelError (a file that cannot be used), UsageError (what was asked for cannot be), HardwareError."""
    target = free_place(request.models_dir, request.name, request.version, replace=request.replace)
    try:
        return _import(request, ask, target)
    except ModelError as error:
        raise ModelError(f"{request.source.name}: {error}") from error


def _import(request: ImportRequest, ask: Ask, target: Path) -> Imported:
    with staging_folder(request.models_dir) as staging:
        folder = staging / request.name / request.version
        facts, draft = _understand(request, ask, folder, staging / "work")
        reasons = _with_overrides(draft.reasons, request)
        _write(folder, facts, Draft(reasons), request)
        model = load_model(folder)
        sight, why_not = _try(model, facts, request, staging / "work")
        publish(folder, target, staging, replace=request.replace)
    notes = [*draft.warnings, *(warnings(sight) if sight else ())]
    if request.base is not None:
        notes += doubts(request.base, Draft(reasons).fields)
    return Imported(load_model(target), tuple(reasons), sight, why_not, tuple(notes))


def _understand(request: ImportRequest, ask: Ask, folder: Path, work: Path) -> tuple[Facts, Draft]:
    """Inspect and guess until nothing is open."""
    choices = request.choices if request.base is None else choices_of(request.base, request.choices)
    looked_at: tuple[int, int] | None = None
    facts = None
    while True:
        if facts is None or choices.size != looked_at:
            for place in (folder, work):
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir(parents=True)
            looked_at = choices.size
            facts = sandbox.inspect_apart(request.source, folder, work, looked_at, request.image)
        draft = guess(facts, _outputs(work, facts), choices)
        if not draft.questions:
            return facts, draft
        choices = ask(draft.questions, choices)


def _outputs(work: Path, facts: Facts) -> list[NDArray[Any]]:
    if facts.not_run:
        return []
    paths = [work / f"output-{number}.npy" for number in range(len(facts.outputs))]
    if sum(path.stat().st_size for path in paths) > 2 * MAX_OUTPUT_BYTES:
        raise ModelError("its outputs are too large: refused")
    return [np.load(path, allow_pickle=False) for path in paths]


def _with_overrides(reasons: list[Reason], request: ImportRequest) -> list[Reason]:
    by_key = {reason.key: reason for reason in reasons}
    for key, value in request.overrides:
        by_key[key] = Reason(key, value, "--set")
    return list(by_key.values())


def _write(folder: Path, facts: Facts, draft: Draft, request: ImportRequest) -> None:
    fields = draft.fields
    main, *parts = facts.files
    entry: dict[str, Any] = {
        "backend": BACKENDS[facts.format],
        "path": main,
        "sha256": sha256(folder / main),
        "precision": facts.precision,
    }
    if facts.device != "any":
        entry["device"] = facts.device
    if parts:
        entry["parts"] = [{"path": part, "sha256": sha256(folder / part)} for part in parts]
    if request.base is not None:
        copy_files(request.base, folder)
        write_manifest(folder, merged(request.base, request.version, entry, fields))
        return
    manifest = {
        "manifest": 1,
        "name": request.name,
        "version": request.version,
        "family": fields.pop("family"),
        "description": fields.pop("description", facts.hints.description),
        "licence": request.licence or facts.hints.licence or "not stated",
        "labels": fields.pop("labels"),
        **fields,
        "files": [entry],
    }
    write_manifest(folder, manifest)


def _try(model: Model, facts: Facts, request: ImportRequest, work: Path) -> tuple[TrialResult | None, str]:
    """Run the whole detector on a picture. A file that its own backend cannot run is refused."""
    if facts.not_run:
        return None, facts.not_run
    network = Network(model.manifest, model.manifest.files[-1], model.folder)
    try:
        return look(network, network.file.backend, ON_CPU, request.image, work), ""
    except UsageError:
        raise
    except EdgeAgentError as error:
        raise ModelError(f"it does not run as the manifest describes it: {error}") from error
