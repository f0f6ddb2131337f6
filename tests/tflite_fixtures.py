"""The committed TensorFlow Lite networks (light 8x8 squares in a picture of 64x48) and a stand-in for an Edge TPU."""

from __future__ import annotations

import atexit
import functools
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from edge_agent.config import DetectConfig
from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.backends.tflite import TfliteBackend
from edge_agent.detect.manifest import FilePart, InputSpec, Manifest, ModelFile, Network
from edge_agent.detect.preprocess import Preprocessor
from edge_agent.types import F32, U8

HERE = Path(__file__).parent
NETWORKS = HERE / "tflite_networks"
BARE = "serving_default_images:0"
"""Name of the image in files without a signature, as a compiler leaves them."""
BARE_OUTPUTS = ("PartitionedCall:0", "PartitionedCall:1")
SEGMENTS = tuple(f"int8_segment_{number}_of_3" for number in range(3))
SPLIT = ("boxes", "scores")


def squares_manifest(folder: Path, *names: str, version: str = "1.0.0") -> dict[str, Any]:
    """``squares``: the manifest of committed files (``float``, ``int8``), which are copied to ``folder``."""
    files = []
    for name in names:
        path = Path(shutil.copy(NETWORKS / f"{name}.tflite", folder))
        real = name == "float"
        entry: dict[str, Any] = {
            "backend": "tflite",
            "path": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "precision": "fp32" if real else "int8",
            "input": {"dtype": "float32" if real else "int8"},
        }
        files.append(entry | ({"outputs": [BARE_OUTPUTS[0]]} if real else {}))
    return {
        "manifest": 1,
        "name": "squares",
        "version": version,
        "family": "yolov8",
        "licence": "Apache-2.0",
        "labels": ["square"],
        "input": {
            "name": BARE,
            "size": [64, 48],
            "layout": "NHWC",
            "colour": "RGB",
            "mean": [127.5] * 3,
            "std": [127.5] * 3,
        },
        "outputs": list(BARE_OUTPUTS),
        "files": files,
    }


def make_network(*names: str, outputs: Sequence[str] = SPLIT, folder: Path = NETWORKS, **change: Any) -> Network:
    """Committed files (the second and later ones as parts) under a manifest; ``change`` goes into file, input and manifest."""
    files = [folder / f"{name}.tflite" for name in names]
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    file = ModelFile(
        backend="tflite",
        path=files[0].name,
        sha256=digests[0],
        precision="int8",
        device=change.pop("on", "any"),
        parts=tuple(FilePart(path=f.name, sha256=d) for f, d in zip(files[1:], digests[1:], strict=True)),
    )
    family = change.pop("family", "yolov8")
    spec: dict[str, Any] = {"name": "images", "size": (64, 48), "layout": "NHWC", "dtype": "float32", "colour": "RGB"}
    spec |= {"mean": (127.5,) * 3, "std": (127.5,) * 3}
    manifest = Manifest(
        manifest=1,
        name="cells",
        version="1",
        family=family,
        licence="Apache-2.0",
        labels=("light",),
        input=InputSpec.model_validate(spec | change),
        outputs=tuple(outputs),
        files=(file,),
    )
    return Network(manifest, file, folder)


def bare(*names: str, **change: Any) -> Network:
    """An int8 network without a signature."""
    return make_network(*names, **({"name": BARE, "outputs": BARE_OUTPUTS, "dtype": "int8"} | change))


_loaded: list[TfliteBackend] = []


def load(network: Network, **tflite: Any) -> TfliteBackend:
    """With this ``detect.tflite``. Whoever loads has ``close_all`` called after the test."""
    config = DetectConfig.model_validate({"tflite": tflite})
    _loaded.append(TfliteBackend(LoadRequest(network, config, network.folder)))
    return _loaded[-1]


def close_all() -> None:
    """Closes what a test has loaded, once more where it did so itself."""
    while _loaded:
        _loaded.pop().close()


def run(network: Network, image: U8, **tflite: Any) -> list[F32]:
    """Load, run one picture, close."""
    backend = load(network, **tflite)
    try:
        tensor, _ = Preprocessor(network.input, backend.input)(image)
        return [output.copy() for output in backend.runner()(tensor)]
    finally:
        backend.close()


def picture(seed: int = 0, light: Sequence[int] = (9, 29)) -> U8:
    """Dark noise, and these cells (numbered by rows of eight) light."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 140, (48, 64, 3), np.uint8)
    for cell in light:
        y, x = cell // 8 * 8, cell % 8 * 8
        image[y : y + 8, x : x + 8] = 250
    return image


def expected_scores(image: U8) -> F32:
    """What all of the networks calculate, in float."""
    mean = ((image.astype(np.float64) - 127.5) / 127.5).reshape(6, 8, 8, 8, 3).mean((1, 3, 4))
    scores: F32 = (1 / (1 + np.exp(12 - 8 * (mean + 1)))).reshape(1, 1, 48).astype(np.float32)
    return scores


@functools.cache
def delegated(folder: Path, library: str, how: str) -> dict[str, Any]:
    """Configuration for a model that runs on a delegate which breaks; the model is put into ``folder``."""
    place = folder / "squares" / "1.0.0"
    place.mkdir(parents=True)
    manifest = squares_manifest(place, "edgetpu") | {"labels": ["person"]}
    manifest["files"] = [file | {"device": "edgetpu"} for file in manifest["files"]]
    (place / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    tflite = {"delegate": library, "devices": ["usb"], "delegate_options": {"break": how}}
    return {"model": "squares", "detect": {"backend": "tflite", "tflite": tflite}}


def stand_in(name: str = "libedgetpu.so.1", soname: str = "") -> str:
    """Path to a library that does what ``tflite_delegates/edgetpu.c`` says, under a name of the caller's wish.

    With ``soname`` the process that loads it finds it by that name from then on: for child processes only.
    """
    folder = tempfile.mkdtemp(prefix="edge-agent-delegate-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target = Path(folder, name)
    compile_c("edgetpu.c", target, *([f"-Wl,-soname,{soname}"] if soname else []))
    return str(target)


def compile_c(source: str, target: Path, *flags: str) -> None:
    """A shared library, with gcc."""
    gcc = shutil.which("gcc")
    assert gcc, "the tests of delegates build one in C: install gcc"
    command = [gcc, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", *flags, "-o", str(target)]
    done = subprocess.run(
        [*command, str(HERE / "tflite_delegates" / source), "-lm"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
