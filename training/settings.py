"""A training run's settings, read from a file: everything that decides its outcome, the seed included."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_BYTES = 256 * 1024
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Network(_Strict):
    """See ``network.NetworkSpec``; ``hidden`` None is the whole trunk. A classifier has ``hidden`` and ``width`` only."""

    hidden: tuple[Count, ...] | None = None
    top: Annotated[int, Field(ge=0)] = 1280
    width: Count = 96
    neck_depth: Count = 2
    head_depth: Count = 2
    kernel: Literal[3, 5] = 3


Attributes = dict[str, Literal[0, 1]]


class Heads(_Strict):
    """For a classifier: how boxes become heads whose attributes are known. See ``heads.py``."""

    boxes: Literal["head", "person"] = Field("head", description="what the labelled boxes enclose")
    attributes: dict[int, Attributes] = Field(
        default_factory=dict, description="what a box's class says about its head"
    )
    grey: bool = Field(
        False, description="train on it in grey: where one side of an attribute is grey, colour must not tell the other"
    )
    found_persons: bool = Field(
        False,
        description="cut out the heads of persons that `training persons` found, and look which boxes lie in them",
    )
    without: Attributes = Field(
        default_factory=dict, description="found_persons: what a head without any box in it has"
    )


class Source(_Strict):
    """A data set. ``weight`` is how often an image of it is drawn, against 1."""

    kind: Literal["yolo", "coco"] = "yolo"
    path: Path
    prefixes: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = Field((), description="images whose names begin so are not in it")
    annotations: Path | None = Field(None, description="coco: the JSON file; path is then the folder of the images")
    categories: dict[str, int] = Field(default_factory=dict, description="coco: its names to our classes")
    part: Literal["all", "train", "held_out"] = Field("all", description="every fifth image is held out of train")
    weight: Positive = 1.0
    labelled: bool = Field(True, description="false: its labels say nothing of our classes, only a teacher does")
    licence: str = Field("", description="for the model card")
    origin: str = Field("", description="for the model card")
    name: str = Field("", description="for tables; those of one name are measured together by a classifier")
    heads: Heads | None = Field(None, description="classify: needed")

    @property
    def title(self) -> str:
        """Short name, for tables."""
        if self.name:
            return self.name
        return self.prefixes[0].rstrip("_") if self.prefixes else f"{self.path.name} {self.part}".removesuffix(" all")


class Augment(_Strict):
    """How images are changed before the network sees them."""

    mosaic: Fraction = 0.35
    scale: tuple[Positive, Positive] = (0.35, 1.6)
    colour: Fraction = 0.8
    degrade: Fraction = Field(0.2, description="blur, noise, low light, JPEG: what surveillance cameras do")
    grey: Fraction = 0.05


class Crops(_Strict):
    """How head crops are changed before a classifier sees them."""

    shift: Fraction = Field(
        0.12, description="of the crop's side, up to, in any direction: detectors' boxes are not exact"
    )
    scale: tuple[Positive, Positive] = (0.75, 1.3)
    coarse: Fraction = Field(0.4, description="share that is made as coarse as a small head is")
    coarsest: Count = Field(10, description="pixels of a crop's side there, at least")
    colour: Fraction = 0.8
    degrade: Fraction = 0.3
    grey: Fraction = 0.35
    tint: Fraction = Field(0.5, description="share of grey crops that get some colour: grey must not tell the data set")


class Schedule(_Strict):
    """Warm up, constant, then linearly to nothing over the last ``decay`` of ``images``: can be lengthened at any time."""

    images: Count = 100_000
    batch: Count = 16
    sizes: tuple[Annotated[int, Field(ge=64, le=2048, multiple_of=32)], ...] = (320, 352, 384, 416)
    lr: Positive = 1.2e-3
    trunk_lr: Fraction = Field(0.05, description="the trunk's share of lr")
    frozen_blocks: Annotated[int, Field(ge=0, le=17)] = 6
    frozen_norms: bool = Field(False, description="keep batch norm as it is: for few images, and for weights from ONNX")
    weight_decay: Annotated[float, Field(ge=0)] = 0.02
    warmup: Count = 4_000
    decay: Fraction = 0.35
    ema: Fraction = 0.9995


class Settings(_Strict):
    """A run."""

    task: Literal["detect", "classify"] = "detect"
    name: str
    version: str = "1.0.0"
    labels: tuple[str, ...] = ("person",)
    seed: int = 1
    size: Annotated[int, Field(ge=64, le=2048, multiple_of=32)] = 416
    network: Network = Network()
    train: tuple[Source, ...]
    validate_on: tuple[Source, ...] = Field(
        min_length=1, description="the first one picks the best weights, of a classifier the first one of each label"
    )
    augment: Augment = Augment()
    crops: Crops = Field(Crops(), description="classify: in place of `augment`")
    schedule: Schedule = Schedule()
    notes: str = Field(
        "", description="classify: Markdown for the model card, after its limits: what this data leaves out"
    )
    teacher: Path | None = Field(None, description="a checkpoint to distil from")
    start_from: Path | None = Field(None, description="a checkpoint to begin with, in place of Google's trunk")

    @model_validator(mode="after")
    def _fits_its_task(self) -> Settings:
        sources = (*self.train, *self.validate_on)
        if self.task == "detect":
            if any(s.heads for s in sources):
                raise ValueError("heads: are for task: classify")
            return self
        if any(s.heads is None for s in sources):
            raise ValueError("task: classify needs heads: in every source")
        if self.teacher is not None:
            raise ValueError("task: classify knows no teacher; distil is for detectors")
        named = {n for s in sources if s.heads for a in (*s.heads.attributes.values(), s.heads.without) for n in a}
        if strange := sorted(named - set(self.labels)):
            raise ValueError(f"attributes {', '.join(strange)} are none of the labels {', '.join(self.labels)}")
        return self


def load_settings(path: Path, data: Path | None = None) -> Settings:
    """Read a file; relative data paths are below ``data`` or, without it, the file's folder. Raises ValueError, OSError."""
    with path.open("rb") as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise ValueError(f"{path}: larger than {MAX_BYTES} bytes")
    settings = Settings.model_validate(yaml.safe_load(text))
    root = (data or path.parent).resolve()

    def rooted(source: Source) -> Source:
        paths = {"path": root / source.path, "annotations": source.annotations and root / source.annotations}
        return source.model_copy(update=paths)

    return settings.model_copy(
        update={
            "train": tuple(map(rooted, settings.train)),
            "validate_on": tuple(map(rooted, settings.validate_on)),
        }
    )
