"""What a model is, written down beside it (``models/<name>/<version>/manifest.yaml``). Nothing is guessed at run time."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from edge_agent.detect.crop import CropSpec
from edge_agent.errors import ModelError

MAX_MANIFEST_BYTES = 256 * 1024
AUTO = "auto"
"""As a reference to a model: the one that is right for the box. No model is called so."""
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Channels = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]
Coordinate = Annotated[float, Field(ge=0, le=65_536)]
Layout = Literal["NCHW", "NHWC"]
DType = Literal["float32", "float16", "uint8", "int8"]
OutputNames = Annotated[tuple[str, ...], Field(min_length=1, max_length=16)]
BackendName = Literal["onnxruntime", "tflite", "openvino", "tensorrt"]
FamilyName = Literal[
    "yolov8", "yolox", "yolov5", "ssd", "yolov10", "boxes_labels_scores", "yolov4", "rtdetr", "yolonas", "fcos"
]
"""Output families of detectors; which networks belong to which, and what `decode` means to each: docs/decoders.md."""
CLASSIFIER = "classifier"
"""Family of a network that is shown one crop and gives a score for each label: [1, C], each by itself, none excluding another."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InputSpec(_Strict):
    """The one image input. A pixel becomes ``(value - mean) / std`` in the order of ``colour``.

    A network with integer input is fed that number quantised by the tensor's own scale and zero point.
    """

    name: str
    size: tuple[Annotated[int, Field(ge=16, le=4096)], Annotated[int, Field(ge=16, le=4096)]] = Field(
        description="[width, height]"
    )
    layout: Layout = "NCHW"
    dtype: DType = "float32"
    colour: Literal["RGB", "BGR"]
    mean: Channels = (0.0, 0.0, 0.0)
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    fit: Literal["letterbox", "stretch"] = Field("letterbox", description="keep the picture's proportions, or not")
    position: Literal["top_left", "centre"] = Field("top_left", description="where the picture lies in the letterbox")
    pad: Annotated[int, Field(ge=0, le=255)] = 114


class InputOverride(_Strict):
    """What one file has otherwise than ``input`` says."""

    name: str | None = None
    layout: Layout | None = None
    dtype: DType | None = None


class DecodeSpec(_Strict):
    """How the outputs are written, where a family leaves it open."""

    boxes: Literal["pixels", "normalised"] = Field("pixels", description="pixels of the input, or fractions of it")
    box_format: Literal["cxcywh", "xyxy", "yxyx", "xywh"] | None = Field(None, description="default: the family's own")
    scores: Literal["probability", "logit"] = Field("probability", description="a logit is put through a sigmoid")
    transposed: bool = Field(False, description="the two last axes are the other way round than usual for the family")
    decoded: bool = Field(False, description="yolox: the file applies grid and strides itself")
    strides: tuple[Annotated[int, Field(ge=1, le=256)], ...] = Field((8, 16, 32), min_length=1, max_length=8)
    background: bool = Field(False, description="the scores begin with a background class that `labels` does not name")
    label_offset: Annotated[int, Field(ge=0, le=1000)] = Field(
        0, description="a class number less this is the place in `labels`"
    )


class FilePart(_Strict):
    """A further file that a model file needs."""

    path: FileName
    sha256: Sha256


class ModelFile(_Strict):
    """One file that a backend can load, and what it has otherwise than the manifest says for all."""

    backend: BackendName
    path: FileName = Field(description="in the manifest's own folder")
    sha256: Sha256
    precision: Literal["fp32", "fp16", "int8"]
    device: Literal["any", "edgetpu"] = Field("any", description="what it was compiled for")
    parts: tuple[FilePart, ...] = Field(
        (), max_length=64, description="an IR's weights, external data, the next segments of a pipelined Edge TPU model"
    )
    input: InputOverride | None = None
    outputs: OutputNames | None = None
    decode: DecodeSpec | None = None


class GoldenObject(_Strict):
    """Something to be found in a golden picture: ``box`` xyxy in its pixels."""

    box: tuple[Coordinate, Coordinate, Coordinate, Coordinate]
    label: str

    @model_validator(mode="after")
    def _has_area(self) -> GoldenObject:
        if self.box[2] <= self.box[0] or self.box[3] <= self.box[1]:
            raise ValueError(f"box {list(self.box)} has no area: give [x1, y1, x2, y2] with x1 < x2 and y1 < y2")
        return self


class GoldenImage(_Strict):
    """A picture whose content is known. Without objects it shows what must not be found."""

    path: FileName = Field(description="in the manifest's own folder")
    sha256: Sha256
    objects: tuple[GoldenObject, ...] = Field((), max_length=200)


class Golden(_Strict):
    """Pictures by which every box can tell that this model still sees on its accelerator; see ``model verify``."""

    min_ap50: float = Field(gt=0, le=1, description="average precision at IoU 0.5 that every file must reach on them")
    images: tuple[GoldenImage, ...] = Field(min_length=1, max_length=16)

    @model_validator(mode="after")
    def _something_to_find(self) -> Golden:
        if not any(image.objects for image in self.images):
            raise ValueError("none of the images has an object: average precision would not be defined")
        if len({image.path for image in self.images}) < len(self.images):
            raise ValueError("an image is listed twice")
        return self


class Manifest(_Strict):
    """A model version."""

    manifest: Literal[1]
    name: str
    version: str
    family: FamilyName | Literal["classifier"]
    licence: str
    labels: tuple[Annotated[str, StringConstraints(min_length=1, max_length=64)], ...] = Field(
        min_length=1, max_length=10_000
    )
    input: InputSpec
    outputs: OutputNames
    decode: DecodeSpec = DecodeSpec()
    files: tuple[ModelFile, ...] = Field(min_length=1, max_length=64)
    description: str = ""
    golden: Golden | None = None
    crop: CropSpec | None = Field(None, description="classifier: what it is shown")

    @property
    def is_classifier(self) -> bool:
        """Whether it judges crops, and finds nothing."""
        return self.family == CLASSIFIER

    @model_validator(mode="after")
    def _golden_labels(self) -> Manifest:
        for image in self.golden.images if self.golden else ():
            for found in image.objects:
                if found.label not in self.labels:
                    raise ValueError(f"golden image {image.path}: label {found.label!r} is none of `labels`")
        return self

    @model_validator(mode="after")
    def _fits_its_family(self) -> Manifest:
        if self.is_classifier != (self.crop is not None):
            raise ValueError("`crop` is for family classifier, which needs it")
        if not self.is_classifier:
            return self
        if any(len(outputs) != 1 for outputs in (self.outputs, *(f.outputs for f in self.files if f.outputs))):
            raise ValueError("a classifier has one output: a score for each label")
        if self.golden is not None:
            raise ValueError("`golden` is for detectors: its pictures say which objects are to be found")
        return self


ONNX_READERS = frozenset({"onnxruntime", "openvino", "tensorrt"})
"""Backends that take an ONNX file, which a manifest lists under ``onnxruntime``."""


@dataclass(frozen=True, slots=True)
class Network:
    """One file of a model, with everything the manifest says about it: what a backend loads and a decoder reads."""

    manifest: Manifest
    file: ModelFile
    folder: Path

    @property
    def label(self) -> str:
        """``name@version``, for messages."""
        return f"{self.manifest.name}@{self.manifest.version}"

    @property
    def path(self) -> Path:
        """The file itself, for messages; what is loaded comes from ``verified``."""
        return self.folder / self.file.path

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names."""
        return self.manifest.labels

    @property
    def family(self) -> str:
        """Output family, a key of ``decoders.FAMILIES``."""
        return self.manifest.family

    @property
    def input(self) -> InputSpec:
        """The image input of this file."""
        own = self.file.input
        return (
            self.manifest.input
            if own is None
            else self.manifest.input.model_copy(update=own.model_dump(exclude_none=True))
        )

    @property
    def outputs(self) -> tuple[str, ...]:
        """Output tensors of this file, in the order the family's decoder takes them."""
        return self.file.outputs or self.manifest.outputs

    @property
    def decode(self) -> DecodeSpec:
        """How this file writes its outputs."""
        return self.file.decode or self.manifest.decode

    @contextlib.contextmanager
    def verified(self) -> Iterator[list[str]]:
        """Paths to the contents of the file and its parts, each checked against its SHA-256, valid inside the ``with``.

        A path leads to the open file: one that is put in its place meanwhile is not what gets loaded. Raises ModelError.
        """
        with contextlib.ExitStack() as stack:
            paths = []
            wanted = [(self.file.path, self.file.sha256), *((part.path, part.sha256) for part in self.file.parts)]
            for name, sha256 in wanted:
                file = stack.enter_context(_open_verified(self.folder / name, sha256))
                paths.append(f"/proc/self/fd/{file.fileno()}")
            yield paths


def _open_verified(path: Path, sha256: str) -> BinaryIO:
    try:
        file = path.open("rb")
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}; the manifest names this file, is the model complete?") from error
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    if digest.hexdigest() != sha256:
        file.close()
        raise ModelError(
            f"{path}: SHA-256 is {digest.hexdigest()}, the manifest says {sha256}: the file is damaged or was replaced"
        )
    return file


@dataclass(frozen=True, slots=True)
class Model:
    """A manifest and the folder it was found in."""

    manifest: Manifest
    folder: Path

    def networks(self, backend: str) -> list[Network]:
        """The files a backend can load, in manifest order, its own format before ONNX."""
        own = [f for f in self.manifest.files if f.backend == backend]
        if backend in ONNX_READERS and backend != "onnxruntime":
            own += [f for f in self.manifest.files if f.backend == "onnxruntime"]
        return [Network(self.manifest, file, self.folder) for file in own]

    def network(self, backend: str) -> Network:
        """The first file for a backend. Raises ModelError where the model has none."""
        for network in self.networks(backend):
            return network
        name, have = self.manifest.name, ", ".join(sorted({f.backend for f in self.manifest.files}))
        raise ModelError(
            f"model {name}@{self.manifest.version} has no file for backend {backend!r} (it has: {have}); "
            f"name another backend, or add a file: edge-agent model import FILE --add-to {name} --version NEW"
        )


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


def find_detector(reference: str, models_dir: Path) -> Model:
    """The same, for a model that is to find objects. Raises ModelError for a classifier too."""
    model = find_model(reference, models_dir)
    refuse_classifier(model.manifest)
    return model


def refuse_classifier(manifest: Manifest) -> None:
    """Raises ModelError where a detector is needed and this is none."""
    if manifest.crop is not None:
        raise ModelError(
            f"model {manifest.name}@{manifest.version} is a classifier: it judges {', '.join(manifest.labels)} on crops of a "
            f"{manifest.crop.label} that a detector found, and finds nothing itself; name a detector as `model` "
            "(edge-agent model list shows the family of each)"
        )


def list_models(models_dir: Path) -> list[Manifest]:
    """Every readable manifest, by name and version. One that is broken is left out: its use would say why."""
    found = []
    for path in models_dir.glob("*/*/manifest.yaml"):
        with contextlib.suppress(ModelError):
            found.append(load_model(path.parent).manifest)
    return sorted(found, key=lambda m: (m.name, _version_key(m.version)))
