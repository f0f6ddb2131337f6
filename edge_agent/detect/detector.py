"""Detector = preprocess + backend + decoder + suppression."""

from __future__ import annotations

import threading

from edge_agent.config import DetectConfig
from edge_agent.detect.backends import BACKENDS, Backend, Runner
from edge_agent.detect.decoders import DECODERS
from edge_agent.detect.manifest import Model
from edge_agent.detect.nms import nms
from edge_agent.detect.preprocess import Preprocessor
from edge_agent.types import Detections, Frame


class _Workspace(threading.local):
    """What each calling thread has of its own."""

    preprocess: Preprocessor | None = None
    run: Runner


class ModelDetector:
    """Fulfils the ``Detector`` seam for one model; ``detect`` may be called from several threads at once.

    Raises ModelError or HardwareError at construction, InferenceError from ``detect``.
    """

    def __init__(self, model: Model, config: DetectConfig) -> None:
        self.model = model
        self.labels = model.manifest.labels
        self.backend: Backend = BACKENDS[config.backend](model)
        self._decode = DECODERS[model.manifest.family]
        self._config = config
        self._local = _Workspace()
        if self.backend.parallel:
            import cv2

            # The cores belong to the workers: OpenCV's own threads would take turns with them.
            cv2.setNumThreads(1)

    def detect(self, frame: Frame) -> Detections:
        """Boxes in source pixels, best score first."""
        local = self._local
        if local.preprocess is None:
            local.run = self.backend.runner()
            local.preprocess = Preprocessor(self.model.manifest.input)
        tensor, letterbox = local.preprocess(frame.image)
        config = self._config
        boxes, scores, classes = self._decode(local.run(tensor), config.score_threshold)
        keep = nms(boxes, scores, classes, config.nms_iou, config.max_detections)
        return Detections(letterbox.to_source(boxes[keep]), scores[keep], classes[keep], self.labels)

    def close(self) -> None:
        """Release the backend."""
        self.backend.close()
