"""Settings for adapting a trained model to a user's own labelled images."""

from __future__ import annotations

import shutil
from pathlib import Path

from training.adapters import DataError, check_classes
from training.checkpoint import load_checkpoint, load_model
from training.data import own_images, read_source
from training.settings import Augment, Schedule, Settings, Source


def settings_for(
    images: Path, weights: Path, *, name: str, version: str, labels: tuple[str, ...] | None, images_seen: int
) -> Settings:
    """A short, gentle run: trunk nearly still, batch norm still. Every fifth image is kept for measuring.

    ``images`` holds ``images/``, and ``annotations.json`` (COCO) or ``labels/`` (YOLO text). Raises DataError, ValueError.
    """
    trained = load_model(weights)[1]
    if trained.task != "detect":
        raise ValueError(f"{weights}: {trained.name} is a classifier; only detectors can be fine-tuned")
    whole = own_images(images, labels or trained.labels)
    _check(whole, labels or trained.labels)
    return Settings(
        name=name,
        version=version,
        labels=labels or trained.labels,
        seed=trained.seed,
        size=trained.size,
        network=trained.network,
        train=(whole.model_copy(update={"part": "train"}),),
        validate_on=(whole.model_copy(update={"part": "held_out"}),),
        augment=Augment(mosaic=0.3, scale=(0.6, 1.4)),
        schedule=Schedule(
            images=images_seen,
            batch=8,
            sizes=(trained.size,),
            lr=2e-4 if labels in (None, trained.labels) else 6e-4,  # new score layers begin at nothing
            frozen_blocks=10,
            frozen_norms=True,
            warmup=max(1, min(400, images_seen // 4)),
            decay=0.6,
            ema=0.995,
        ),
        start_from=weights.resolve(),
    )


def fresh_run(folder: Path, settings: Settings) -> Path:
    """``folder``, empty but where an interrupted run of the same settings lies in it, which is to go on.

    A finished one would not learn from pictures that were added since: it starts anew. Raises ValueError where that would
    remove the weights to begin with.
    """
    last = folder / "last.pt"
    if last.exists():
        state = load_checkpoint(last)
        same = Settings.model_validate_json(state["settings"]) == settings
        if not same or state["seen"] >= settings.schedule.images:
            if settings.start_from is not None and settings.start_from.is_relative_to(folder.resolve()):
                raise ValueError(
                    f"{settings.start_from}: lies in the folder of this run, which begins anew: copy it, or give another name"
                )
            shutil.rmtree(folder)
    return folder


def _check(whole: Source, labels: tuple[str, ...]) -> None:
    """Raises DataError where there would be nothing to learn from or nothing to measure on."""
    found = list(check_classes(read_source(whole), len(labels)))
    held_out = read_source(whole.model_copy(update={"part": "held_out"}))
    if not any(len(sample.boxes) for sample in held_out):
        objects = sum(len(sample.boxes) for sample in found)
        raise DataError(
            f"{whole.path}: {len(found)} images with {objects} labelled objects; every fifth image is held out for measuring, and "
            "among these there must be objects: add images, or look whether labels/ has a .txt for each"
        )
