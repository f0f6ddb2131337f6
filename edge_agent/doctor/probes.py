"""Questions that load vendor libraries or open cameras: asked in a child process, which may crash, hang or print."""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_agent.config import CameraConfig, DetectConfig
from edge_agent.detect.child import Say, run_child, serve
from edge_agent.detect.default_model import take_model
from edge_agent.errors import HardwareError, SourceError, SourceLost

PROBE_S = 10.0
_SETTLE_S = 0.4
"""A stream begins with a burst of pictures that had waited: they do not count."""


def ask(probe: str, *, timeout_s: float = PROBE_S, niceness: int = 5, **question: Any) -> dict[str, Any]:
    """Run a probe below in a child process. Raises HardwareError: what it lacks, or that it crashed or hung."""
    asked = {"probe": probe, "question": question}
    # The request does not go over the command line: it may hold a camera's password.
    answer = run_child("edge_agent.doctor.probes", asked, what=probe, timeout_s=timeout_s, niceness=niceness)
    assert answer is not None, "nobody cancels it"
    return answer


def opencv(_: Say) -> dict[str, Any]:
    """Version, place and abilities of cv2."""
    from edge_agent.capture.opencv import load_cv2

    try:
        cv2 = load_cv2()
    except HardwareError as error:
        # Missing is one thing, a numpy that it was not built for another.
        raise HardwareError(f"{error} ({error.__cause__})") from error
    built = cv2.getBuildInformation()

    def has(name: str) -> bool:
        return bool(re.search(rf"^\s*{name}:\s+YES", built, re.MULTILINE))

    return {
        "version": cv2.__version__,
        "path": cv2.__file__,
        "ffmpeg": has("FFMPEG"),
        "gstreamer": has("GStreamer"),
        "v4l": has(r"v4l/v4l2"),
    }


def package(_: Say, name: str) -> dict[str, Any]:
    """Import a package and tell its version."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        # "No module named X" for the package itself is another thing than one of its libraries missing.
        absent = isinstance(error, ModuleNotFoundError) and error.name == name
        return {"absent": absent, "why": str(error)}
    return {"version": str(getattr(module, "__version__", "?")), "path": str(getattr(module, "__file__", "?"))}


def backend(_: Say, name: str, config: dict[str, Any]) -> dict[str, Any]:
    """Why a backend cannot be used, "" where it can; the backend itself says it."""
    module = importlib.import_module(f"edge_agent.detect.backends.{name}")
    return {"reason": module.available(DetectConfig.model_validate(config))}


def model(_: Say, reference: str, models_dir: str, config: dict[str, Any]) -> dict[str, Any]:
    """Which model the agent would take, and why."""
    taken = take_model(reference, Path(models_dir), DetectConfig.model_validate(config))
    return {"folder": str(taken.model.folder), "why": taken.why}


def choice(_: Say, reference: str, models_dir: str, config: dict[str, Any]) -> dict[str, Any]:
    """What the agent would run its model on."""
    from edge_agent.detect.backends.choice import choose

    detect = DetectConfig.model_validate(config)
    model = take_model(reference, Path(models_dir), detect).model
    chosen = choose(model, detect)
    return {
        "folder": str(model.folder),
        "name": chosen.name,
        "backend": chosen.backend,
        "file": model.manifest.files.index(chosen.network.file),
        "config": chosen.config.model_dump(mode="json"),
        "reasons": dict(chosen.reasons),
    }


def onnxruntime(_: Say) -> dict[str, Any]:
    """Version and providers."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime as runtime

    return {"version": runtime.__version__, "providers": list(runtime.get_available_providers())}


def openvino(_: Say) -> dict[str, Any]:
    """Version and devices."""
    from edge_agent.detect.backends.openvino import import_openvino

    runtime = import_openvino()
    core = runtime.Core()
    devices = {device: str(core.get_property(device, "FULL_DEVICE_NAME")) for device in core.available_devices}
    return {"version": str(runtime.get_version()).partition("-")[0], "devices": devices}


def library(_: Say, name: str) -> dict[str, Any]:
    """Load a shared library; for libedgetpu also what it says about itself."""
    try:
        loaded = ctypes.CDLL(name)
    except OSError as error:
        raise HardwareError(str(error)) from error
    if not hasattr(loaded, "tflite_plugin_create_delegate"):
        raise HardwareError(f"{name} is no delegate: it has no tflite_plugin_create_delegate")
    said = ""
    if hasattr(loaded, "edgetpu_version"):
        loaded.edgetpu_version.restype = ctypes.c_char_p
        said = (loaded.edgetpu_version() or b"").decode("utf-8", "replace")
    return {"said": said}


def camera(say: Say, config: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Open a source and count frames for ``seconds``; a file: its first frame only."""
    from edge_agent.capture.source import open_source

    # Every picture counts, also those that ``max_fps`` passes over.
    source = open_source(CameraConfig.model_validate(config | {"max_fps": None}))
    say("opening it")
    began = time.monotonic()
    source.open()
    say("waiting for a frame")
    frame = source.read()
    if frame is None:
        raise SourceLost("no frame in it")
    opened_s = time.monotonic() - began
    answer = {"size": [frame.image.shape[1], frame.image.shape[0]], "opened_s": opened_s, "live": source.live}
    if not source.live:
        return answer | {"fps": source.fps, "length": source.length}
    say("counting frames")
    since = settled = time.monotonic()
    count = 0
    while since - began - opened_s < seconds:
        source.read()
        since = time.monotonic()
        if since - began - opened_s < _SETTLE_S:
            settled = since
        else:
            count += 1
    return answer | {"fps": count / (since - settled) if since > settled else 0.0}


PROBES: dict[str, Callable[..., dict[str, Any]]] = {
    probe.__name__: probe for probe in (opencv, package, backend, model, choice, onnxruntime, openvino, library, camera)
}


def _work(asked: dict[str, Any], say: Say) -> dict[str, Any]:
    try:
        return PROBES[asked["probe"]](say, **asked["question"])
    except (ImportError, RuntimeError, OSError) as error:
        raise HardwareError(f"{type(error).__name__}: {error}") from error
    except SourceError as error:  # not an error that a child can hand over
        raise HardwareError(str(error)) from error


if __name__ == "__main__":
    serve(_work)
