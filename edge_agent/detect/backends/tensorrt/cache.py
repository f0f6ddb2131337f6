"""Engines that were built, one file each: a header that says what for, then the engine. A file is whole or not there.

An engine fits one TensorRT version and one GPU; after an upgrade of either it must not be loaded, and can never be used
again on this box: it is deleted when the next one is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import mmap
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.backends.fit import expected_input
from edge_agent.detect.backends.tensorrt.vendor import installed_version, missing
from edge_agent.detect.cuda_probe import Gpu, probe_gpu
from edge_agent.detect.manifest import Network
from edge_agent.errors import HardwareError, ModelError

log = logging.getLogger(__name__)

MAGIC = b"edge-agent TensorRT engine 1\n"
MAX_HEADER_BYTES = 64 * 1024
KEPT = 6
"""Engines on a box: of the active and the previous model, in more than one precision."""
LEFTOVER_AGE_S = 24 * 3600.0
MAX_PICTURES = 5000
PICTURES = {".jpg", ".jpeg", ".png", ".bmp"}


@dataclass(frozen=True, slots=True)
class EngineKey:
    """All that an engine depends on."""

    model: str
    """SHA-256 over the digests of the model file and its parts."""
    tensorrt: str
    gpu: str
    capability: str
    driver: str
    precision: str
    shape: tuple[int, ...]
    max_batch: int
    outputs: tuple[str, ...]
    calibration: str
    """Digest of the list of calibration pictures, empty without."""

    @property
    def box(self) -> tuple[str, str, str, str]:
        """What changes with an upgrade of the box and voids every engine."""
        return self.tensorrt, self.gpu, self.capability, self.driver

    def text(self) -> str:
        """As it is written into the file."""
        return json.dumps(asdict(self), sort_keys=True)

    def path(self, cache: Path) -> Path:
        """The engine's file."""
        return engine_folder(cache) / f"{hashlib.sha256(self.text().encode()).hexdigest()[:32]}.engine"


def engine_folder(cache: Path) -> Path:
    """Where engines lie in the cache that a backend was given."""
    return cache / "tensorrt"


def key_for(request: LoadRequest) -> EngineKey:
    """The key of the engine that ``request`` needs. Asks the GPU in a child process, once. Raises HardwareError, ModelError."""
    version = installed_version()
    if not version:
        raise HardwareError(missing() or "the tensorrt package does not say which version it is")
    return make_key(request, version, probe_gpu(request.config.tensorrt.device))


def make_key(request: LoadRequest, version: str, gpu: Gpu) -> EngineKey:
    """The key for a TensorRT version and a GPU."""
    network, config = request.network, request.config.tensorrt
    needs_pictures = config.precision == "int8" and network.file.precision != "int8" and config.calibration_images
    return EngineKey(
        model=model_digest(network),
        tensorrt=version,
        gpu=gpu.name,
        capability=gpu.capability,
        driver=gpu.driver,
        precision=config.precision,
        shape=expected_input(network).shape[1:],
        max_batch=config.max_batch,
        outputs=network.outputs,
        calibration=pictures_digest(pictures_in(config.calibration_images))
        if needs_pictures and config.calibration_images
        else "",
    )


def model_digest(network: Network) -> str:
    """Changes with the model's file and with each of its parts."""
    digests = [network.file.sha256, *(part.sha256 for part in network.file.parts)]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def pictures_in(folder: Path) -> list[Path]:
    """The calibration pictures, by name. Raises ModelError where there are none."""
    try:
        found = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES and p.is_file())[:MAX_PICTURES]
    except OSError as error:
        raise ModelError(f"tensorrt.calibration_images: {folder}: {error.strerror}") from error
    if not found:
        raise ModelError(f"tensorrt.calibration_images: {folder} holds no pictures ({', '.join(sorted(PICTURES))})")
    return found


def pictures_digest(pictures: list[Path]) -> str:
    """Changes when a picture is added, removed or replaced; their content is not read."""
    facts = [f"{p.name} {(s := p.stat()).st_size} {s.st_mtime_ns}" for p in pictures]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def make_calibration_name(request: LoadRequest) -> str:
    """File name of what this TensorRT learned from these pictures for this network: each version names tensors in its own way."""
    folder = request.config.tensorrt.calibration_images
    digest = pictures_digest(pictures_in(folder)) if folder else ""
    facts = (model_digest(request.network), installed_version(), digest)
    return hashlib.sha256(" ".join(facts).encode()).hexdigest()[:32] + ".calibration"


class StoredEngine:
    """An engine file, mapped, its header read. ``close`` when TensorRT has read the plan."""

    def __init__(self, path: Path) -> None:
        """Raises OSError (absent) and ModelError (not an engine file of ours)."""
        with path.open("rb") as file:
            try:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError as error:
                raise ModelError(f"{path}: empty") from error
        try:
            self.header, self._start = _read_header(self._map)
        except ValueError as error:
            self._map.close()
            raise ModelError(f"{path}: not an engine of this agent: {error}") from error
        self.path = path

    def plan(self) -> memoryview:
        """The engine's bytes, checked. The view must be released before ``close``. Raises ModelError (damaged)."""
        view = memoryview(self._map)[self._start :]
        if len(view) != self.header["size"] or hashlib.sha256(view).hexdigest() != self.header["sha256"]:
            view.release()
            raise ModelError(f"{self.path}: the engine is damaged")
        return view

    def close(self) -> None:
        """Unmap it."""
        self._map.close()


def _read_header(data: mmap.mmap) -> tuple[dict[str, Any], int]:
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError("it begins otherwise")
    end = data.find(b"\n", len(MAGIC), len(MAGIC) + MAX_HEADER_BYTES)
    if end < 0:
        raise ValueError("its header has no end")
    header = json.loads(data[len(MAGIC) : end])
    if not isinstance(header, dict) or not {"key", "sha256", "size", "precision"} <= header.keys():
        raise ValueError("its header is not complete")
    return header, end + 1


def find_engine(key: EngineKey, cache: Path) -> StoredEngine | None:
    """The engine for exactly this key; None where there is none. One that is damaged or of another key is deleted."""
    path = key.path(cache)
    stored = None
    try:
        stored = StoredEngine(path)
        if stored.header["key"] == json.loads(key.text()):
            stored.plan().release()
            return stored
        log.warning("%s was built for something else and is deleted", path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HardwareError(f"{path}: {error.strerror}") from error
    except ModelError as error:
        log.warning("%s; it is deleted", error)
    if stored is not None:
        stored.close()
    with contextlib.suppress(OSError):
        path.unlink()
    return None


def write_engine(key: EngineKey, plan: memoryview, precision: str, cache: Path) -> Path:
    """Store an engine, whole or not at all, then delete what can never be used again. Raises HardwareError (disk full)."""
    folder, path = engine_folder(cache), key.path(cache)
    header = {"key": asdict(key), "precision": precision, "sha256": hashlib.sha256(plan).hexdigest(), "size": len(plan)}
    temporary = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
        with os.fdopen(descriptor, "wb") as file:
            file.write(MAGIC + json.dumps(header, sort_keys=True).encode() + b"\n")
            file.write(plan)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise HardwareError(f"{folder}: the engine cannot be stored: {error.strerror}") from error
    _clean(folder, path, key)
    return path


def _clean(folder: Path, newest: Path, key: EngineKey) -> None:
    """Delete engines for another box or an older state of it, all but the newest few, and files of an interrupted write."""
    usable = []
    for path in folder.glob("*.engine"):
        if path == newest:
            continue
        try:
            stored = StoredEngine(path)
            stored.close()
            theirs = stored.header["key"]
            if (theirs["tensorrt"], theirs["gpu"], theirs["capability"], theirs["driver"]) == key.box:
                usable.append((path.stat().st_mtime, path))
                continue
        except (OSError, ModelError, KeyError, TypeError):
            pass
        log.info("%s fits this box no more and is deleted", path)
        path.unlink(missing_ok=True)
    for _, path in sorted(usable, reverse=True)[KEPT - 1 :]:
        path.unlink(missing_ok=True)
    for path in folder.glob("*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFTOVER_AGE_S:
                path.unlink()
