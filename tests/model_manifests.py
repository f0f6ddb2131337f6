"""Models that are a manifest and nothing else, shaped as the bundled ones: for what only chooses and loads nothing."""

from __future__ import annotations

from pathlib import Path

import yaml

from edge_agent.detect.manifest import Model, load_model

FILES = (
    ("onnxruntime", "fp32", "any"),
    ("onnxruntime", "int8", "any"),
    ("tflite", "fp32", "any"),
    ("tflite", "int8", "any"),
)
"""What a bundled model has, in its manifest's order."""
COMPILED = ("tflite", "int8", "edgetpu")
IR = ("openvino", "int8", "any")


def write_model(models: Path, name: str, files: tuple[tuple[str, str, str], ...] = FILES) -> Model:
    """A manifest; the files themselves are not there, as nothing here may load them."""
    folder = models / name / "1.0.0"
    folder.mkdir(parents=True)
    kinds = {"onnxruntime": "onnx", "tflite": "tflite", "openvino": "xml"}
    manifest = {
        "manifest": 1,
        "name": name,
        "version": "1.0.0",
        "family": "fcos",
        "licence": "Apache-2.0",
        "labels": ["person"],
        "input": {"name": "images", "size": [416, 416], "colour": "RGB"},
        "outputs": ["boxes", "scores"],
        "files": [
            {
                "backend": backend,
                "precision": precision,
                "device": device,
                "path": f"{precision}-{device}.{kinds[backend]}",
                "sha256": "0" * 64,
            }
            for backend, precision, device in files
        ],
    }
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest), encoding="utf-8")
    return load_model(folder)
