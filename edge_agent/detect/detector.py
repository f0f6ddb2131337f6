"""Detector = preprocess + backend + decoder + suppression."""

from __future__ import annotations

import threading

import numpy as np

from edge_agent.detect.backends import BACKENDS, Backend, LoadRequest, Runner
from edge_agent.detect.decoders import FAMILIES
from edge_agent.detect.manifest import refuse_classifier
from edge_agent.detect.nms import best, nms
from edge_agent.detect.preprocess import Preprocessor
from edge_agent.errors import HardwareError, InferenceError
from edge_agent.types import NO_CLOCK, Detections, Frame, ModelTag, StageClock


class _Workspace(threading.local):
    """What each calling thread has of its own."""

    preprocess: Preprocessor | None = None
    run: Runner


class ModelDetector:
    """Fulfils the ``Detector`` seam for one network; ``detect`` may be called from several threads at once.

    Raises ModelError or HardwareError at construction, InferenceError from ``detect``.
    """

    def __init__(self, backend: str, request: LoadRequest) -> None:
        refuse_classifier(request.network.manifest)
        self.network = request.network
        self.labels = request.network.labels
        manifest = request.network.manifest
        self.tag = ModelTag(manifest.name, manifest.version, request.network.file.sha256)
        self.backend_name = backend
        self.backend: Backend = BACKENDS[backend](request)
        self._family = FAMILIES[request.network.family]
        self._config = request.config
        self._local = _Workspace()
        if self.backend.concurrency > 1:
            import cv2

            # The cores belong to the workers: OpenCV's own threads would take turns with them.
            cv2.setNumThreads(1)

    def detect(self, frame: Frame, clock: StageClock = NO_CLOCK) -> Detections:
        """Boxes in source pixels, best score first."""
        local = self._local
        preprocess = local.preprocess or self._enter(local)
        clock.start()
        tensor, letterbox = preprocess(frame.image)
        clock.lap("preprocess")
        outputs = local.run(tensor)
        clock.lap("inference")
        config = self._config
        boxes, scores, classes = self._family.decode(outputs, self.network, config.score_threshold)
        if self._family.suppress:
            keep = nms(boxes, scores, classes, config.nms_iou, config.max_detections)
        else:
            keep = best(boxes, scores, config.max_detections)
        placed = letterbox.to_source(boxes[keep])
        # What lay wholly in the letterbox's border has no area left.
        seen = np.flatnonzero((placed[:, 2:] > placed[:, :2]).all(axis=1))
        found = Detections(placed, scores[keep], classes[keep], self.labels, self.tag).select(seen)
        clock.lap("postprocess")
        return found

    def _enter(self, local: _Workspace) -> Preprocessor:
        """Give the calling thread what it needs. Raises InferenceError: short of memory now, the device may have some later."""
        try:
            local.run = self.backend.runner()
            local.preprocess = Preprocessor(self.network.input, self.backend.input)
        except HardwareError as error:
            raise InferenceError(f"{self.backend_name}: another thread cannot join in: {error}") from error
        return local.preprocess

    def close(self) -> None:
        """Release the backend."""
        self.backend.close()
