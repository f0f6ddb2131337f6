"""Real networks of each family, from picture to boxes, against what an independent implementation made of them.

The networks are small and untrained; decoder_networks/make.py says where they come from and who answered.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_agent.cli import main
from edge_agent.config import DetectConfig
from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.decoders import FAMILIES
from edge_agent.detect.detector import ModelDetector
from edge_agent.detect.manifest import Network, find_model
from edge_agent.types import F32, Frame

NETWORKS = Path(__file__).parent / "decoder_networks"
NAMES = sorted(path.parent.parent.name for path in NETWORKS.glob("*/1/manifest.yaml"))


def detect(name: str, tmp_path: Path) -> tuple[Any, dict[str, Any], tuple[int, int]]:
    """What the agent finds, what the reference found, (width, height)."""
    reference = json.loads((NETWORKS / name / "1" / "reference.json").read_text(encoding="utf-8"))
    model = find_model(name, NETWORKS)
    backend = model.manifest.files[0].backend
    config = DetectConfig.model_validate(
        {"score_threshold": reference["threshold"], "nms_iou": reference["iou"], "max_detections": 300}
    )
    detector = ModelDetector(backend, LoadRequest(model.network(backend), config, tmp_path))
    image = cv2.imread(str(NETWORKS / "picture.png"))
    assert image is not None
    found = detector.detect(Frame("c", 0, 0.0, 0.0, image))
    detector.close()
    return found, reference, (image.shape[1], image.shape[0])


def inside(boxes: F32, size: tuple[int, int]) -> F32:
    """Clipped to the picture, as detections are."""
    return np.clip(boxes, 0, np.array([*size, *size], np.float32))


def pairs(found: Any, boxes: F32, scores: F32, classes: list[int]) -> list[tuple[int, int]]:
    """Each reference box with the nearest found one of its class whose score is the same."""
    free, matched = set(range(len(found))), []
    for i, box in enumerate(boxes):
        fit = [k for k in free if found.classes[k] == classes[i] and abs(float(found.scores[k] - scores[i])) < 2e-3]
        if fit:
            nearest = min(fit, key=lambda k: float(np.abs(found.boxes[k] - box).max()))
            free.remove(nearest)
            matched.append((i, nearest))
    return matched


@pytest.mark.parametrize("name", NAMES)
def test_the_agent_finds_what_an_independent_implementation_finds(
    name: str, tmp_path: Path, record_property: Any
) -> None:
    found, reference, size = detect(name, tmp_path)
    boxes = inside(np.array(reference["boxes"], np.float32).reshape(-1, 4), size)
    # torchvision gives boxes that it clipped to nothing; nobody could follow such an object.
    seen = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    boxes, scores = boxes[seen], np.array(reference["scores"], np.float32)[seen]
    assert len(scores) >= 10
    matched = pairs(found, boxes, scores, np.array(reference["classes"])[seen].tolist())
    assert len(matched) == len(scores) == len(found)
    ours, theirs = found.boxes[[k for _, k in matched]], boxes[[i for i, _ in matched]]
    apart = float(np.abs(ours - theirs).max())
    scores_apart = float(np.abs(found.scores[[k for _, k in matched]] - scores[[i for i, _ in matched]]).max())
    record_property("apart_px", apart)
    record_property("scores_apart", scores_apart)
    print(f"{name:18s} {len(matched)}/{len(scores)} objects, boxes {apart:.5f} px, scores {scores_apart:.1e} apart")
    assert apart <= reference["tolerance_px"]
    assert scores_apart <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_import_guesses_how_each_is_to_be_read(name: str, tmp_path: Path) -> None:
    known = find_model(name, NETWORKS)
    path = known.folder / known.manifest.files[0].path
    command = ["model", "import", str(path), "--name", "guessed", "--labels", ",".join(known.manifest.labels)]
    assert main([*command, "--models-dir", str(tmp_path), "--json"]) == 0
    guessed, manifest = find_model("guessed", tmp_path).manifest, known.manifest
    assert (guessed.family, guessed.outputs, guessed.decode) == (manifest.family, manifest.outputs, manifest.decode)
    assert (guessed.input.layout, guessed.input.size) == (manifest.input.layout, manifest.input.size)


def test_what_is_found_only_in_the_border_of_the_letterbox_is_no_detection(tmp_path: Path) -> None:
    model = find_model("yolov4", NETWORKS)
    spec = model.manifest.input.model_copy(update={"fit": "letterbox"})
    network = Network(model.manifest.model_copy(update={"input": spec}), model.manifest.files[0], model.folder)
    config = DetectConfig.model_validate({"score_threshold": 0.3, "max_detections": 300})
    detector = ModelDetector("onnxruntime", LoadRequest(network, config, tmp_path))
    image = cv2.imread(str(NETWORKS / "picture.png"))
    assert image is not None
    boxes = detector.detect(Frame("c", 0, 0.0, 0.0, np.ascontiguousarray(image[:40]))).boxes
    assert len(boxes) > 10 and (boxes[:, 2:] > boxes[:, :2]).all()


def test_each_family_has_a_network() -> None:
    # Nobody else writes logarithmic distances: that family is this project's own networks, with a test of its own.
    assert {find_model(name, NETWORKS).manifest.family for name in NAMES} == set(FAMILIES) - {"fcos"}
