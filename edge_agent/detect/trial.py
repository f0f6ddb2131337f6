"""Load a network and run it once in a child process: what a vendor library does to a process, it does to that one."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent.detect.child import Say, run_child, serve
from edge_agent.errors import HardwareError, InferenceError, ModelError, UsageError

if TYPE_CHECKING:
    from edge_agent.detect.backends import LoadRequest
    from edge_agent.types import Detections

REPEAT = 9
REPEAT_S = 1.0
"""Inferences that are timed: nine, or as many as fit into a second."""


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """An input or output as the runner takes or gives it."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Seen:
    """An object in the picture: ``box`` xyxy in its pixels."""

    label: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What a network did. ``inference_ms`` is the median of one call after the first, without pre- and postprocessing."""

    device: str
    input: TensorFacts
    outputs: tuple[TensorFacts, ...]
    load_s: float
    inference_ms: float
    seen: tuple[Seen, ...] | None
    """What was found, best score first; None where no picture was given, and for a classifier."""
    golden: tuple[tuple[Seen, ...], ...] = ()
    """What was found in each of the golden pictures."""
    scores: dict[str, float] | None = None
    """What a classifier says of the picture, by label."""
    finite: bool = True
    """Whether all outputs were numbers."""


def trial(
    backend: str,
    request: LoadRequest,
    *,
    timeout_s: float = 120.0,
    image: Path | None = None,
    golden: Sequence[Path] = (),
    memory_mb: int | None = None,
    cancel: threading.Event | None = None,
) -> TrialResult:
    """Load ``request`` with ``backend`` in a child process, run it on ``image`` (or on grey) and ``golden``, and say how it went.

    ``memory_mb`` limits the child's address space: for CPU backends only. Raises ModelError and HardwareError as the backend
    does, ModelError where the network loads and does not run, HardwareError where the child crashed (it names the signal),
    hung or ran out of memory, UsageError for a picture that cannot be read.
    """
    network = request.network
    asked = {
        "backend": backend,
        **request.to_json(),
        "image": None if image is None else str(image.absolute()),
        "golden": [str(path.absolute()) for path in golden],
    }
    what = f"trial of {network.label} with {backend}"
    try:
        reply = run_child(
            "edge_agent.detect.trial", asked, what=what, timeout_s=timeout_s, memory_mb=memory_mb, cancel=cancel
        )
    except InferenceError as error:
        raise ModelError(f"{what}: it loads and does not run: {error}") from error
    if reply is None:  # only a cancelled one
        raise HardwareError(f"{what}: cancelled")
    return _result(reply)


def _result(reply: dict[str, Any]) -> TrialResult:
    """The child's JSON as values."""
    seen = reply["seen"]

    def each(found: list[dict[str, Any]]) -> tuple[Seen, ...]:
        return tuple(Seen(s["label"], s["score"], tuple(s["box"])) for s in found)

    return TrialResult(
        device=reply["device"],
        input=_facts(reply["input"]),
        outputs=tuple(_facts(o) for o in reply["outputs"]),
        load_s=reply["load_s"],
        inference_ms=reply["inference_ms"],
        seen=None if seen is None else each(seen),
        golden=tuple(map(each, reply["golden"])),
        scores=reply["scores"],
        finite=reply["finite"],
    )


def _facts(reply: dict[str, Any]) -> TensorFacts:
    return TensorFacts(reply["name"], tuple(reply["shape"]), reply["dtype"])


def _perform(asked: dict[str, Any], say: Say) -> dict[str, Any]:
    """The child's part."""
    import numpy as np

    from edge_agent.detect.backends import LoadRequest
    from edge_agent.detect.classifier import ModelClassifier
    from edge_agent.detect.detector import ModelDetector
    from edge_agent.types import Frame

    request = LoadRequest.from_json(asked)
    network = request.network
    picture = _picture(asked["image"], network.input.size)
    say("loading the network")
    began = time.monotonic()
    model = (ModelClassifier if network.manifest.is_classifier else ModelDetector)(asked["backend"], request)
    load_s = time.monotonic() - began
    say("running it for the first time")
    scores: dict[str, float] | None = None
    seen: tuple[Seen, ...] | None = None
    golden: tuple[tuple[Seen, ...], ...] = ()
    if isinstance(model, ModelClassifier):
        scores = dict(zip(model.labels, map(float, model.classify(picture)), strict=True))
    else:
        found = model.detect(Frame("trial", 0, 0.0, 0.0, picture))
        seen = None if asked["image"] is None else seen_of(found)
        say("running it on the golden pictures")
        golden = tuple(
            seen_of(model.detect(Frame("trial", number, 0.0, 0.0, _golden(path))))
            for number, path in enumerate(asked["golden"], 1)
        )
    say("running it again")
    outputs, inference_ms = _time_inference(model, picture)
    wanted = model.backend.input
    result = TrialResult(
        device=model.backend.device,
        input=TensorFacts(network.input.name, tuple(wanted.shape), wanted.dtype.name),
        outputs=tuple(TensorFacts(n, o.shape, o.dtype.name) for n, o in zip(network.outputs, outputs, strict=True)),
        load_s=load_s,
        inference_ms=inference_ms,
        seen=seen,
        golden=golden,
        scores=scores,
        finite=all(bool(np.isfinite(output).all()) for output in outputs),
    )
    say("closing it")
    model.close()
    return asdict(result)


def seen_of(found: Detections) -> tuple[Seen, ...]:
    """One by one."""
    return tuple(
        Seen(found.labels[c], float(s), (float(b[0]), float(b[1]), float(b[2]), float(b[3])))
        for b, s, c in zip(found.boxes, found.scores, found.classes, strict=True)
    )


def _picture(path: str | None, size: tuple[int, int]) -> Any:
    import cv2
    import numpy as np

    if path is None:
        return np.full((size[1], size[0], 3), 128, np.uint8)
    picture = cv2.imread(path, cv2.IMREAD_COLOR)
    if picture is None:
        raise UsageError(f"{path}: not a picture that OpenCV can read")
    return picture


def _golden(path: str) -> Any:
    try:
        return _picture(path, (0, 0))
    except UsageError as error:
        raise ModelError(f"golden picture {error}") from error


def _time_inference(model: Any, picture: Any) -> tuple[list[Any], float]:
    """The outputs, and milliseconds of one call to the runner."""
    from edge_agent.detect.preprocess import Preprocessor

    run = model.backend.runner()
    tensor, _ = Preprocessor(model.network.input, model.backend.input)(picture)
    outputs = list(run(tensor))
    times: list[float] = []
    end = time.monotonic() + REPEAT_S
    while not times or (len(times) < REPEAT and time.monotonic() < end):
        began = time.perf_counter()
        outputs = list(run(tensor))
        times.append(time.perf_counter() - began)
    return outputs, statistics.median(times) * 1000


if __name__ == "__main__":
    serve(_perform)
