"""Second stage: a classifier is shown the crops of tracks, a few in each frame, each track every now and then."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_agent.config import CameraConfig, Config
from edge_agent.config_classifiers import ClassifierConfig
from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.backends.choice import choose
from edge_agent.detect.classifier import ModelClassifier
from edge_agent.detect.manifest import Model, find_model
from edge_agent.errors import ConfigError, InferenceError
from edge_agent.types import Frame, Look, Tracks

log = logging.getLogger(__name__)

_INSIDE = 0.6
"""Share of a crop that must lie in the frame: of less nothing can be told."""


def classifier_model(config: ClassifierConfig, models_dir: Path) -> Model:
    """The model that is named. Raises ModelError (no such model) and ConfigError (a detector)."""
    model = find_model(config.model, models_dir)
    if not model.manifest.is_classifier:
        name = f"{model.manifest.name}@{model.manifest.version}"
        raise ConfigError([f"classifiers: model {name} is a detector (family {model.manifest.family}), no classifier"])
    return model


class Looker:
    """One classifier on one camera. Not thread-safe: called in frame order, by the worker that brings the frame."""

    def __init__(self, config: ClassifierConfig, model: Model, detect: Config, cache: Path) -> None:
        assert model.manifest.crop is not None
        self._config, self._crop = config, model.manifest.crop
        settings = detect.detect.model_copy(update={"backend": config.backend, "precision": "auto"})
        choice = choose(model, settings)
        self._classifier = ModelClassifier(choice.backend, LoadRequest(choice.network, choice.config, cache))
        self._looked: dict[int, float] = {}
        self._trouble = ""

    def look(self, frame: Frame, tracks: Tracks) -> list[Look]:
        """What the crops of this frame show: of those that were not looked at for the longest time."""
        if self._crop.label not in tracks.labels:
            return []
        mine = (tracks.classes == tracks.labels.index(self._crop.label)) & ~tracks.predicted
        rows = np.flatnonzero(mine).tolist()
        ids = tracks.ids.tolist()
        never = -float("inf")
        due = [r for r in rows if frame.t - self._looked.get(ids[r], never) >= self._config.every_s - 1e-6]
        due.sort(key=lambda r: self._looked.get(ids[r], never))
        looks: list[Look] = []
        for row in due:
            if len(looks) == self._config.max_crops:
                break
            box = tracks.boxes[row].tolist()
            crop = self._cut(frame, (box[0], box[1], box[2], box[3]))
            if crop is None:
                continue
            self._looked[ids[row]] = frame.t
            try:
                scores = self._classifier.classify(crop).tolist()
            except InferenceError as error:
                if str(error) != self._trouble:  # told once, not for each frame
                    log.warning("camera %s: frame %d: %s", frame.camera, frame.index, error)
                self._trouble = str(error)
                break
            looks.append(
                Look((box[0], box[1], box[2], box[3]), dict(zip(self._classifier.labels, scores, strict=True)))
            )
        if len(self._looked) > 4 * len(ids) + 64:
            self._looked = {ident: self._looked[ident] for ident in ids if ident in self._looked}
        return looks

    def _cut(self, frame: Frame, box: tuple[float, float, float, float]) -> np.ndarray | None:
        """A view of the crop's part in the frame; None where it is too small or mostly outside."""
        width, height = frame.size
        x1, y1, x2, y2 = self._crop.square(box)
        if x2 - x1 < self._config.min_crop_px:
            return None
        left, top, right, bottom = max(round(x1), 0), max(round(y1), 0), min(round(x2), width), min(round(y2), height)
        if right <= left or bottom <= top or (right - left) * (bottom - top) < _INSIDE * (x2 - x1) * (y2 - y1):
            return None
        part: np.ndarray = frame.image[top:bottom, left:right]
        return part

    def close(self) -> None:
        """Release the backend."""
        self._classifier.close()


class SecondStage:
    """All classifiers of one camera; see ``Looker``. Raises ModelError, HardwareError and ConfigError at construction."""

    def __init__(self, config: Config, camera: CameraConfig, cache: Path) -> None:
        self._lookers = [
            Looker(one, classifier_model(one, config.models_dir), config, cache)
            for one in config.classifiers
            if one.cameras is None or camera.id in one.cameras
        ]

    def __call__(self, frame: Frame, tracks: Tracks) -> Sequence[Look]:
        """What the crops of this frame show."""
        return [look for looker in self._lookers for look in looker.look(frame, tracks)]
