"""``model pull``: a detector of the catalogue from its makers, a mirror or a file to a model of ours; whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_agent.detect.manifest import Model, Network, load_model
from edge_agent.errors import DownloadError, ModelError, UsageError
from edge_agent.model_tools.catalogue import Entry
from edge_agent.model_tools.download import download, take_file
from edge_agent.model_tools.guess import Choices, Question
from edge_agent.model_tools.importer import Imported, ImportRequest, import_model
from edge_agent.model_tools.staging import staging_folder


def _silent(_: int) -> None:
    """Nobody looks."""


@dataclass(frozen=True, slots=True)
class PullRequest:
    """What to fetch. ``source`` is another place for the same file: an address or a path; None: its makers' address."""

    entry: Entry
    models_dir: Path
    source: str | Path | None = None
    replace: bool = False
    progress: Callable[[int], None] = _silent
    """Called with the number of bytes that are here."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """What became of it. ``imported`` is None where the model was there already."""

    model: Model
    source: str
    imported: Imported | None


def pull(request: PullRequest) -> Pulled:
    """Fetch, check and import. Raises DownloadError, ModelError, UsageError, HardwareError; then nothing of it stays."""
    entry = request.entry
    if not request.replace and (model := already_here(entry, request.models_dir)) is not None:
        return Pulled(model, "", None)
    with staging_folder(request.models_dir) as staging:
        file = staging / entry.file.name
        source = _fetch(request, file)
        imported = import_model(_import_request(request, file), _cannot_ask)
    return Pulled(imported.model, source, imported)


def already_here(entry: Entry, models_dir: Path) -> Model | None:
    """The model that was made of this very file. Raises ModelError (damaged) and UsageError (the name is taken by another)."""
    folder = models_dir / entry.name / entry.version
    if not folder.exists():
        return None
    try:
        model = load_model(folder)
        for file in model.manifest.files:
            if file.sha256 == entry.file.sha256:
                with Network(model.manifest, file, folder).verified():
                    return model
    except ModelError as error:
        raise ModelError(f"{entry.label} is there but damaged: {error}; --replace fetches it anew") from error
    raise UsageError(f"{entry.label} is there but made of another file: --replace puts the catalogue's in its place")


def _fetch(request: PullRequest, target: Path) -> str:
    entry = request.entry
    source = entry.url if request.source is None else request.source
    if isinstance(source, Path):
        take_file(source, target, entry.file, request.progress)
        return str(source)
    try:
        download(source, target, entry.file, request.progress)
    except DownloadError as error:
        raise DownloadError(
            f"{error}. Without internet here: fetch {entry.url} on another machine, bring the file, and "
            f"`edge-agent model pull {entry.name} --file {entry.file.name}`; --url takes the same file from a mirror"
        ) from error
    return source


def _import_request(request: PullRequest, file: Path) -> ImportRequest:
    entry = request.entry
    return ImportRequest(
        source=file,
        name=entry.name,
        version=entry.version,
        models_dir=request.models_dir,
        choices=Choices(entry.family, entry.labels, "the catalogue", entry.size),
        licence=entry.licence,
        overrides=(*entry.facts, ("description", f"{entry.note}; from {entry.url}")),
        replace=request.replace,
    )


def _cannot_ask(questions: list[Question], _: Choices) -> Choices:
    raise ModelError("the catalogue leaves open: " + "; ".join(question.text for question in questions))
