"""Classifier = preprocess + backend + a score for each label. It is shown the crop of one object, not a frame."""

from __future__ import annotations

import numpy as np

from edge_agent.detect.backends import BACKENDS, Backend, LoadRequest
from edge_agent.detect.decoders.parts import probability
from edge_agent.detect.manifest import CLASSIFIER
from edge_agent.detect.preprocess import Preprocessor
from edge_agent.errors import InferenceError, ModelError
from edge_agent.types import F32, U8


class ModelClassifier:
    """One network of family ``classifier``, for one thread.

    Raises ModelError (also for a detector) or HardwareError at construction, InferenceError from ``classify``.
    """

    def __init__(self, backend: str, request: LoadRequest) -> None:
        self.network = request.network
        if self.network.family != CLASSIFIER:
            raise ModelError(f"model {self.network.label} is no classifier: its family is {self.network.family}")
        self.labels = self.network.labels
        self.backend: Backend = BACKENDS[backend](request)
        self._run = self.backend.runner()
        self._preprocess = Preprocessor(self.network.input, self.backend.input)

    def classify(self, crop: U8) -> F32:
        """Scores (C,) in [0,1], in the order of ``labels``, for ``crop`` (H,W,3) uint8 BGR; each label by itself."""
        tensor, _ = self._preprocess(crop)
        (output,) = self._run(tensor)
        if output.shape != (1, len(self.labels)):
            raise InferenceError(
                f"{self.network.label}: family classifier expects [1, {len(self.labels)}], the network gave {list(output.shape)}"
            )
        if not np.isfinite(output).all():
            raise InferenceError(f"{self.network.label}: a score is no number")
        return probability(self.network, output[0].astype(np.float32))

    def close(self) -> None:
        """Release the backend."""
        self.backend.close()
