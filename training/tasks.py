"""What a run trains: a detector of boxes or a classifier of heads. The loop around both is the same."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_agent.detect.backends.cpu import multiplies_bfloat16
from training.attributes import Held, Judge, measure_heads, read_held, score_of
from training.classifier import Classifier, attribute_losses
from training.crops import CropBatch, HeadCrops, crop_batches
from training.data import Batch, Pictures, batches, read_source
from training.evaluation import Predict, measure
from training.loss import assign, detection_loss, distillation_loss
from training.network import Detector, decode
from training.settings import Heads, Settings, Source

PRUNING = 32
"""Pictures a slimmer trunk is fitted on."""
PRUNING_CROPS = 512


def to_input(images: NDArray[np.uint8]) -> Tensor:
    """(B,H,W,3) uint8 to the network's (B,3,H,W), channels last in memory."""
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() - 127.5) / 127.5


def _mixed_precision() -> torch.autocast:
    """bfloat16 where the CPU has instructions for it: without them it takes ten times as long as float32, by measurement."""
    return torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bfloat16())


def predictor(model: Detector) -> Predict:
    """A detector as something to evaluate."""

    def predict(canvas: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with torch.inference_mode():  # in full precision: bfloat16 costs one to three points of AP50
            logits, boxes, _, _ = decode(model(to_input(canvas[None])))
        return boxes[0].numpy(), logits[0].sigmoid().numpy()

    return predict


def judge_of(model: Classifier) -> Judge:
    """A classifier as something to evaluate."""

    def judge(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return model(to_input(crops))[0][0].flatten(1).sigmoid().numpy()

    return judge


class Task(Protocol):
    """One kind of training, for a run's settings."""

    @property
    def losses(self) -> tuple[str, ...]:
        """Names of what ``step`` gives."""

    def batches(self, seen: int) -> Generator[Any, None, None]:
        """Batches without end from that image on, each with ``images``. Close it at the end."""

    def step(self, model: Any, batch: Any, teacher: Any) -> tuple[Tensor, ...]:
        """The losses of a batch; their sum is minimised."""

    def pruning_pictures(self) -> list[Tensor]:
        """Some training pictures as input for the trunk, in batches."""

    def judge(self, model: Any) -> tuple[dict[str, float], float]:
        """Figures on the validation set for the log, and the one that picks the best weights."""


class Detection:
    """Boxes and their scores."""

    losses = ("score", "box", "taught")

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._held: list[Any] | None = None

    def batches(self, seen: int) -> Generator[Batch, None, None]:
        """See ``Task``."""
        return batches(self._settings, seen)

    def step(self, model: Detector, batch: Batch, teacher: Detector | None) -> tuple[Tensor, ...]:
        """See ``Task``."""
        x = to_input(batch.images)
        with _mixed_precision():
            maps = model(x)
        logits, boxes, centres, _ = decode(maps)
        targets = [
            assign(logits[i], boxes[i], centres, *(torch.from_numpy(a) for a in truth))
            for i, truth in enumerate(
                zip(batch.boxes, (c.astype(np.int64) for c in batch.classes), batch.ignore, strict=True)
            )
        ]
        score, box = detection_loss(logits, boxes, targets)
        if teacher is None:
            return score, box, torch.zeros(())
        with torch.no_grad(), _mixed_precision():
            teacher_logits, teacher_boxes, _, _ = decode(teacher(x))
        taught = sum(distillation_loss(logits, boxes, teacher_logits, teacher_boxes), torch.zeros(()))
        return score, box, taught

    def pruning_pictures(self) -> list[Tensor]:
        """See ``Task``."""
        s = self._settings
        rng, pictures = np.random.default_rng(s.seed), Pictures(s.train, s.labels)
        size = min(s.size, 320)
        return [to_input(pictures.batch(8, size, s.augment, rng).images) for _ in range(PRUNING // 8)]

    def judge(self, model: Detector) -> tuple[dict[str, float], float]:
        """See ``Task``."""
        s = self._settings
        if self._held is None:
            self._held = read_source(s.validate_on[0])
        scores = measure(predictor(model), self._held, s.size, s.labels, rounds=0)
        return {"ap50": scores.ap50, "ap": scores.ap, "ap_small": scores.ap_small}, scores.ap50


class Classification:
    """Attributes of heads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._crops: HeadCrops | None = None
        self._held: dict[str, Held] | None = None

    @property
    def losses(self) -> tuple[str, ...]:
        """See ``Task``."""
        return self._settings.labels

    def _all(self) -> HeadCrops:
        if self._crops is None:
            self._crops = HeadCrops(self._settings.train, self._settings.labels)
        return self._crops

    def batches(self, seen: int) -> Generator[CropBatch, None, None]:
        """See ``Task``."""
        return crop_batches(self._settings, self._all(), seen)

    def step(self, model: Classifier, batch: CropBatch, _teacher: None) -> tuple[Tensor, ...]:
        """See ``Task``."""
        with _mixed_precision():
            ((logits,),) = model(to_input(batch.images))
        known, shares = torch.from_numpy(batch.attributes), torch.from_numpy(self._all().shares)
        return tuple(attribute_losses(logits.flatten(1).float(), known, shares))

    def pruning_pictures(self) -> list[Tensor]:
        """See ``Task``."""
        s, rng = self._settings, np.random.default_rng(self._settings.seed)
        return [to_input(self._all().batch(64, s.size, s.crops, rng).images) for _ in range(PRUNING_CROPS // 64)]

    def judge(self, model: Classifier) -> tuple[dict[str, float], float]:
        """See ``Task``."""
        s = self._settings
        if self._held is None:
            self._held = read_held(_watched(s), s.labels, s.size)
        found = measure_heads(judge_of(model), self._held, s.labels, rounds=0)
        return {name: round(v.accuracy, 4) for name, v in found.items()}, score_of(found)


def _watched(settings: Settings) -> list[Source]:
    """What a run is followed by: of each attribute the first data set that tells of it."""
    titles = []
    for label in settings.labels:
        told = (s.title for s in settings.validate_on if s.heads and label in _told(s.heads))
        titles += list(told)[:1]
    return [s for s in settings.validate_on if s.title in titles]


def _told(heads: Heads) -> set[str]:
    return {name for attributes in (*heads.attributes.values(), heads.without) for name in attributes}


def task_of(settings: Settings) -> Task:
    """The task that the settings name."""
    return Classification(settings) if settings.task == "classify" else Detection(settings)
