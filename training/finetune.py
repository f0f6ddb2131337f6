"""Settings for adapting a trained model to a user's own labelled images."""

from __future__ import annotations

from pathlib import Path

from training.adapters import DataError
from training.checkpoint import load_model
from training.settings import Augment, Schedule, Settings, Source


def settings_for(
    images: Path, weights: Path, *, name: str, version: str, labels: tuple[str, ...] | None, images_seen: int
) -> Settings:
    """A short, gentle run: trunk nearly still, batch norm still. Every fifth image is kept for measuring.

    ``images`` holds ``samples.jsonl``, or ``images/`` and ``labels/``. Raises DataError, ValueError.
    """
    trained = load_model(weights)[1]
    if trained.task != "detect":
        raise ValueError(f"{weights}: {trained.name} is a classifier; only detectors can be fine-tuned")
    kind = "samples" if (images / "samples.jsonl").exists() else "yolo"
    if kind == "yolo" and not (images / "images").is_dir():
        raise DataError(f"{images}: neither samples.jsonl nor a folder 'images' in it")
    whole = Source(kind=kind, path=images.resolve(), origin="own images", licence="the owner's")
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
            warmup=min(400, images_seen),
            decay=0.6,
            ema=0.995,
        ),
        start_from=weights.resolve(),
    )
