"""What a model is, written down beside it (``models/<name>/<version>/manifest.yaml``). Nothing is guessed at run time."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from edge_agent.errors import ModelError

MAX_MANIFEST_BYTES = 256 * 1024
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Channels = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InputSpec(_Strict):
    """The one image input. A pixel becomes ``(value - mean) / std`` in the order of ``colour``."""

    name: str
    size: tuple[Annotated[int, Field(ge=16, le=4096)], Annotated[int, Field(ge=16, le=4096)]] = Field(
        description="[width, height]"
    )
    layout: Literal["NCHW"] = "NCHW"
    dtype: Literal["float32"] = "float32"
    colour: Literal["RGB", "BGR"]
    mean: Channels = (0.0, 0.0, 0.0)
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    fit: Literal["letterbox"] = "letterbox"
    position: Literal["top_left", "centre"] = Field("top_left", description="where the picture lies in the letterbox")
    pad: Annotated[int, Field(ge=0, le=255)] = 114


class ModelFile(_Strict):
    """One file that a backend can load."""

    backend: Literal["onnxruntime"]
    path: FileName = Field(description="in the manifest's own folder")
    sha256: Sha256
    precision: Literal["fp32", "fp16", "int8"]


class Manifest(_Strict):
    """A model version."""

    manifest: Literal[1]
    name: str
    version: str
    family: Literal["yolov8"]
    licence: str
    labels: tuple[Annotated[str, StringConstraints(min_length=1, max_length=64)], ...] = Field(
        min_length=1, max_length=10_000
    )
    input: InputSpec
    outputs: tuple[str, ...] = Field(min_length=1, max_length=16)
    files: tuple[ModelFile, ...] = Field(min_length=1, max_length=64)
    description: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """A manifest and the folder it was found in."""

    manifest: Manifest
    folder: Path

    def file_for(self, backend: str) -> ModelFile:
        """The file for a backend. Raises ModelError where the model has none."""
        for entry in self.manifest.files:
            if entry.backend == backend:
                return entry
        have = ", ".join(sorted({f.backend for f in self.manifest.files}))
        raise ModelError(
            f"model {self.manifest.name}@{self.manifest.version} has no file for backend {backend!r} (it has: {have})"
        )

    @contextlib.contextmanager
    def verified(self, entry: ModelFile) -> Iterator[str]:
        """A path to the file's content, checked against its SHA-256; it stays valid inside the ``with`` block.

        The path leads to the open file: one that is put in its place meanwhile is not what gets loaded. Raises ModelError.
        """
        path = self.folder / entry.path
        try:
            file = path.open("rb")
        except OSError as error:
            raise ModelError(
                f"{path}: {error.strerror}; the manifest names this file, is the model complete?"
            ) from error
        with file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
            if digest.hexdigest() != entry.sha256:
                raise ModelError(
                    f"{path}: SHA-256 is {digest.hexdigest()}, the manifest says {entry.sha256}: "
                    "the file is damaged or was replaced"
                )
            yield f"/proc/self/fd/{file.fileno()}"


def load_model(folder: Path) -> Model:
    """Read ``folder/manifest.yaml``. Raises ModelError that says what is wrong."""
    path = folder / "manifest.yaml"
    try:
        with path.open("rb") as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
        if len(text) > MAX_MANIFEST_BYTES:
            raise ModelError(f"{path}: larger than {MAX_MANIFEST_BYTES} bytes, this is no manifest")
        manifest = Manifest.model_validate(yaml.safe_load(text))
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ModelError(f"{path}: no valid YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise ModelError(f"{path}: {faults}") from error
    if folder.name != manifest.version or folder.parent.name != manifest.name:
        raise ModelError(
            f"{path}: says {manifest.name}@{manifest.version} but lies in {folder.parent.name}/{folder.name}"
        )
    return Model(manifest, folder)


def _version_key(text: str) -> list[tuple[int, int, str]]:
    # Numbers after names, the end between them: 1.0.0-rc1 comes before 1.0.0, and that before 1.0.0.1.
    parts = text.replace("-", ".").split(".")
    return [(2, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts] + [(1, 0, "")]


def find_model(reference: str, models_dir: Path) -> Model:
    """The model named ``NAME`` (its newest version) or ``NAME@VERSION``. Raises ModelError that lists what there is."""
    name, _, version = reference.partition("@")
    if not name or "/" in reference or reference.startswith("."):
        raise ModelError(f"model {reference!r}: give NAME or NAME@VERSION")
    versions = sorted((p.parent.name for p in models_dir.glob(f"{name}/*/manifest.yaml")), key=_version_key)
    if not versions or (version and version not in versions):
        there = sorted(f"{p.parent.parent.name}@{p.parent.name}" for p in models_dir.glob("*/*/manifest.yaml"))
        raise ModelError(f"model {reference!r} is not in {models_dir} (there: {', '.join(there) or 'none'})")
    return load_model(models_dir / name / (version or versions[-1]))


def list_models(models_dir: Path) -> list[Manifest]:
    """Every readable manifest, by name and version. One that is broken is left out: its use would say why."""
    found = []
    for path in models_dir.glob("*/*/manifest.yaml"):
        with contextlib.suppress(ModelError):
            found.append(load_model(path.parent).manifest)
    return sorted(found, key=lambda m: (m.name, _version_key(m.version)))
