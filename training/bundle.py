"""From a trained network to a folder the agent takes as a model: files for each runtime, manifest, labels, card, reports."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from training import edge_tpu, golden_set
from training.card import History, model_card
from training.checkpoint import SETTINGS_KEY, load_checkpoint, load_model
from training.data import letterbox, read_image, read_source
from training.equalise import equalise
from training.evaluation import Predict, measure
from training.export_classifier import classifier_manifest, crop_calibration, measure_crops
from training.export_onnx import BOXES, SCORES, export_onnx
from training.export_tflite import export_tflite
from training.graph import IMAGE_MEAN, IMAGE_STD, INPUT, Graph, to_input, trace
from training.head_card import head_card
from training.latency import Timing
from training.quantise import Quantised, centred, layer_report, quantise, report_table, worst
from training.runtimes import onnx_predictor, tflite_predictor
from training.settings import Settings

CALIBRATION_IMAGES = 96
FILES = {"fp32.onnx": "onnxruntime", "int8.onnx": "onnxruntime", "fp32.tflite": "tflite", "int8.tflite": "tflite"}
SAID_ANEW = ("name", "version", "size", "train", "validate_on", "notes")
"""Settings that are no part of how the weights came to be."""


@dataclass
class Bundle:
    """A folder ``<out>/<name>/<version>`` in the making."""

    settings: Settings
    folder: Path
    graph: Graph
    quantised: Quantised
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By file, then by data set: ``Scores``, a classifier's ``Verdict``."""
    history: History | None = None

    def path(self, kind: str) -> Path:
        """The file of a kind: ``fp32.onnx``, ``int8.tflite``, …"""
        return self.folder / f"{self.settings.name}-{self.settings.size}-{kind}"


def calibration(settings: Settings) -> list[Any]:
    """Training pictures as the agent would show them, one to a batch; a fixed choice by the run's seed."""
    if settings.task == "classify":
        return crop_calibration(settings)
    samples = [s for source in settings.train for s in read_source(source)]
    order = np.random.default_rng(settings.seed).permutation(len(samples))[:CALIBRATION_IMAGES]
    return [to_input(letterbox(read_image(samples[i]), settings.size)[0][None]) for i in order]


def write_files(weights: Path, settings: Settings | None, out: Path) -> Bundle:
    """Export ``weights`` (a checkpoint or our FP32 ONNX) in every format.

    ``settings`` says anew what the model is called and where the data lie; how it was trained the weights know by themselves.
    """
    model, trained = load_model(weights)
    settings = trained.model_copy(update={key: getattr(settings or trained, key) for key in SAID_ANEW})
    pictures = calibration(settings)
    graph = trace(model)
    quantised = quantise(equalise(graph, pictures), pictures)
    if settings.task == "classify":  # its scores are held against 0.5, a detector's are ranked
        quantised = centred(quantised, pictures)
    folder = out / settings.name / settings.version
    folder.mkdir(parents=True, exist_ok=True)
    bundle = Bundle(settings, folder, graph, quantised, history=_history(weights, settings))
    about = {SETTINGS_KEY: _public(settings).model_dump_json()}
    export_onnx(graph, settings.size, bundle.path("fp32.onnx"), None, about)
    export_onnx(quantised.graph, settings.size, bundle.path("int8.onnx"), quantised)
    export_tflite(graph, settings.size, bundle.path("fp32.tflite"))
    export_tflite(quantised.graph, settings.size, bundle.path("int8.tflite"), quantised)
    if wrong := edge_tpu.faults(edge_tpu.inspect(bundle.path("int8.tflite"))):
        raise ValueError(f"what an Edge TPU does not run: {'; '.join(wrong)}")
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in settings.labels), encoding="utf-8")
    _write_quantisation(bundle, pictures)
    return bundle


def _history(weights: Path, settings: Settings) -> History:
    images = tuple(len(read_source(source)) for source in settings.train)
    if weights.suffix == ".onnx":
        return History(None, None, images)
    state = load_checkpoint(weights)
    return History(int(state["seen"]), float(state["seconds"]), images)


def _public(settings: Settings) -> Settings:
    """Without the paths of the machine it was trained on."""

    def plain(source: Any) -> Any:
        return source.model_copy(update={"path": Path(source.path.name), "annotations": None})

    return settings.model_copy(
        update={
            "train": tuple(map(plain, settings.train)),
            "validate_on": tuple(map(plain, settings.validate_on)),
            "teacher": settings.teacher and Path(settings.teacher.name),
            "start_from": settings.start_from and Path(settings.start_from.name),
        }
    )


def _write_quantisation(bundle: Bundle, pictures: Sequence[Any]) -> None:
    import torch

    operations = edge_tpu.inspect(bundle.path("int8.tflite"))
    losses = layer_report(bundle.quantised, torch.cat(list(pictures[:4])))
    (bundle.folder / "quantisation.md").write_text(
        f"# {bundle.settings.name} {bundle.settings.version}: integers\n\n"
        f"Ranges from {len(pictures)} training pictures.\n\n"
        f"## Operations of {bundle.path('int8.tflite').name}\n\nAgainst Google's list of what an Edge TPU runs and its known limitations "
        f"({edge_tpu.SOURCE}). Maps and weights are int8, biases int32; all sizes are fixed, and no map has more than three "
        "dimensions above 1.\n\n"
        f"{edge_tpu.table(operations)}\n"
        "## Layer by layer\n\n`SQNR`: signal against the noise of everything up to there; `own`: of this layer's rounding alone; in dB, "
        "6 dB is a bit. `kernel spread`: the largest of a kernel's scales over the smallest.\n\n"
        f"Least signal: {worst(losses)}.\n\n{report_table(losses)}",
        encoding="utf-8",
    )


def predictors(bundle: Bundle) -> dict[str, Predict]:
    """Every file, in its own runtime."""
    size = bundle.settings.size
    return {
        kind: onnx_predictor(bundle.path(kind), size)
        if backend == "onnxruntime"
        else tflite_predictor(bundle.path(kind), size)
        for kind, backend in FILES.items()
    }


def measure_files(bundle: Bundle, kinds: Sequence[str], rounds: int = 1000) -> None:
    """Evaluate files on the run's validation sets, into ``measured``."""
    if bundle.settings.task == "classify":
        bundle.measured.update(measure_crops(bundle.settings, {kind: bundle.path(kind) for kind in kinds}, rounds))
        return
    run = predictors(bundle)
    for source in bundle.settings.validate_on:
        samples, name = read_source(source), source.title
        for kind in kinds:
            scores = measure(run[kind], samples, bundle.settings.size, bundle.settings.labels, rounds)
            bundle.measured.setdefault(kind, {})[name] = scores


def finish(
    bundle: Bundle,
    timings: Sequence[Timing] = (),
    curves: Sequence[str] = (),
    pictures: golden_set.Pictures | None = None,
) -> Path:
    """Write manifest and card; gives the folder. ``pictures``: golden ones to carry; a file that fails on them is a ValueError."""
    s = bundle.settings
    manifest: dict[str, Any] = {
        "manifest": 1,
        "name": s.name,
        "version": s.version,
        "family": "fcos",
        "description": f"{', '.join(s.labels)}; {s.size} px; trained by this project's own pipeline",
        "licence": "Apache-2.0",
        "labels": list(s.labels),
        "input": {
            "name": INPUT,
            "size": [s.size, s.size],
            "layout": "NCHW",
            "dtype": "float32",
            "colour": "RGB",
            "mean": [IMAGE_MEAN] * 3,
            "std": [IMAGE_STD] * 3,
            "fit": "letterbox",
            "position": "top_left",
            "pad": 114,
        },
        "outputs": [BOXES, SCORES],
        "decode": {"scores": "logit"},
        "files": [_file(bundle, kind, backend) for kind, backend in FILES.items()],
    }
    if s.task == "classify":
        manifest |= classifier_manifest(s)
    golden = golden_set.attach(bundle.folder, manifest, pictures) if pictures else None
    text = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True)
    (bundle.folder / "manifest.yaml").write_text(text, encoding="utf-8")
    document = {
        "scores": {k: {n: v.as_dict() for n, v in sets.items()} for k, sets in bundle.measured.items()},
        "latency": [timing.as_dict() for timing in timings],
        "golden": dataclasses.asdict(golden) if golden else None,
    }
    (bundle.folder / "metrics.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if s.task == "classify":
        card = head_card(s, bundle.measured, timings, curves, history=bundle.history)
    else:
        card = model_card(s, bundle.measured, timings, curves, golden=golden, history=bundle.history)
    (bundle.folder / "README.md").write_text(card, encoding="utf-8")
    return bundle.folder


def _file(bundle: Bundle, kind: str, backend: str) -> dict[str, Any]:
    path = bundle.path(kind)
    integers = kind.startswith("int8")
    entry: dict[str, Any] = {
        "backend": backend,
        "path": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "precision": "int8" if integers else "fp32",
    }
    if backend == "tflite":
        entry["input"] = {"layout": "NHWC", "dtype": "int8" if integers else "float32"}
        if bundle.graph.boxes:
            entry["decode"] = {"scores": "logit", "transposed": True}
    return entry
