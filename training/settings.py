"""A training run's settings, read from a file: everything that decides its outcome, the seed included."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

MAX_BYTES = 256 * 1024
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Network(_Strict):
    """See ``network.NetworkSpec``; ``hidden`` None is the whole trunk."""

    hidden: tuple[Count, ...] | None = None
    top: Annotated[int, Field(ge=0)] = 1280
    width: Count = 96
    neck_depth: Count = 2
    head_depth: Count = 2
    kernel: Literal[3, 5] = 3


class Source(_Strict):
    """A data set. ``weight`` is how often an image of it is drawn, against 1."""

    kind: Literal["yolo", "coco", "samples"] = "yolo"
    path: Path
    prefixes: tuple[str, ...] = ()
    annotations: Path | None = Field(None, description="coco: the JSON file; path is then the folder of the images")
    categories: dict[str, int] = Field(default_factory=dict, description="coco: its names to our classes")
    part: Literal["all", "train", "held_out"] = Field("all", description="every fifth image is held out of train")
    weight: Positive = 1.0
    labelled: bool = Field(True, description="false: its labels say nothing of our classes, only a teacher does")
    licence: str = Field("", description="for the model card")
    origin: str = Field("", description="for the model card")

    @property
    def title(self) -> str:
        """Short name, for tables."""
        return self.prefixes[0].rstrip("_") if self.prefixes else f"{self.path.name} {self.part}".removesuffix(" all")


class Augment(_Strict):
    """How images are changed before the network sees them."""

    mosaic: Fraction = 0.35
    scale: tuple[Positive, Positive] = (0.35, 1.6)
    colour: Fraction = 0.8
    degrade: Fraction = Field(0.2, description="blur, noise, low light, JPEG: what surveillance cameras do")
    grey: Fraction = 0.05


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

    name: str
    version: str = "1.0.0"
    labels: tuple[str, ...] = ("person",)
    seed: int = 1
    size: Annotated[int, Field(ge=64, le=2048, multiple_of=32)] = 416
    network: Network = Network()
    train: tuple[Source, ...]
    validate_on: tuple[Source, ...] = Field(min_length=1, description="the first one picks the best weights")
    augment: Augment = Augment()
    schedule: Schedule = Schedule()
    teacher: Path | None = Field(None, description="a checkpoint to distil from")
    start_from: Path | None = Field(None, description="a checkpoint to begin with, in place of Google's trunk")


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
