"""What a model sees on a picture, and whether that is plausible."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_agent.config import DetectConfig
from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.manifest import Network
from edge_agent.detect.trial import Seen, TrialResult, trial
from edge_agent.errors import HardwareError
from edge_agent.model_tools.sandbox import MEMORY_MB

SURE = 0.25
"""Score from which a box counts as seen."""
TIMEOUT_S = 300.0
"""For a driver that starts for the first time, on a small box."""


def look(  # noqa: PLR0917
    network: Network,
    backend: str,
    config: DetectConfig,
    image: Path | None,
    work: Path,
    cache: Path | None = None,
    golden: Sequence[Path] = (),
) -> TrialResult:
    """Load and run ``network`` in a child process on ``image``, or on the drawn sample (a classifier on a crop of it), and on ``golden``.

    Raises as ``trial``.

    ``work`` is a folder to write into; ``cache`` the agent's own where what it holds is to be used.
    """
    import cv2

    from edge_agent.model_tools.sample import drawn_crop, read_picture

    picture, crop = work / "picture.png", network.manifest.crop
    if not cv2.imwrite(str(picture), read_picture(image) if image or crop is None else drawn_crop(crop)):
        raise HardwareError(f"{work}: the sample picture cannot be written")
    request = LoadRequest(network, config, cache or work)
    limit = memory_limit(network, backend, config)
    return trial(backend, request, timeout_s=TIMEOUT_S, image=picture, golden=golden, memory_mb=limit)


def memory_limit(network: Network, backend: str, config: DetectConfig) -> int | None:
    """Megabytes of address space, on the CPU only: the driver of an accelerator maps far more than it uses."""
    plain = {
        "onnxruntime": config.onnxruntime.providers == ["CPUExecutionProvider"],
        "openvino": config.openvino.device == "CPU",
        "tflite": config.tflite.delegate is None and network.file.device == "any",
    }
    return MEMORY_MB if plain.get(backend) else None


def sure(sight: TrialResult) -> list[Seen]:
    """What counts as seen."""
    return [seen for seen in sight.seen or () if seen.score >= SURE]


def warnings(sight: TrialResult) -> tuple[str, ...]:
    """What looks wrong, in sentences."""
    if sight.scores is not None:  # of a drawing nothing is expected; scores that are no numbers were an error
        return ()
    seen = sight.seen or ()
    found = []
    best = max((s.score for s in seen), default=0.0)
    if best > 1.001:
        found.append(f"the best score is {best:.3g}, beyond 1: perhaps logits; try --set decode.scores=logit")
    flat = sum(1 for s in seen if s.box[2] - s.box[0] < 1 or s.box[3] - s.box[1] < 1)
    if seen and flat > len(seen) / 2:
        found.append(f"{flat} of {len(seen)} boxes are narrower than a pixel: check decode.boxes and decode.box_format")
    if not sure(sight):
        # Boxes are clipped to the picture, and what lies outside is none.
        found.append(
            f"nothing seen from score {SURE} on (best: {best:.2f}): wrong scaling or colours (input.mean, input.std, "
            "input.colour), boxes outside the picture (decode.boxes, decode.box_format), or nothing in the picture "
            "that it knows; --image gives another one"
        )
    elif len(sure(sight)) > 100:
        found.append(f"{len(sure(sight))} objects seen in one picture: scores or family look wrong")
    return tuple(found)
