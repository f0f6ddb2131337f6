"""NVIDIA TensorRT: the engine is built on the box from ONNX, kept, and run on the GPU.

An engine fits one TensorRT version, one GPU and one driver; after an upgrade ``engine_ready`` is False, ``open_backend``
raises ModelError, and ``build`` makes a new one in a child process while another backend serves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.detect.backends.tensorrt import memory
from edge_agent.detect.backends.tensorrt.vendor import missing
from edge_agent.detect.cuda_probe import probe_gpu
from edge_agent.errors import HardwareError

if TYPE_CHECKING:
    import threading

    from edge_agent.config import DetectConfig
    from edge_agent.detect.backends import Backend, LoadRequest
    from edge_agent.detect.child import Progress


def available(config: DetectConfig) -> str:
    """Why TensorRT cannot run here, empty where it can. Imports nothing of NVIDIA's; the driver is asked in a child process."""
    if reason := missing() or memory.missing(config.tensorrt.memory):
        return reason
    try:
        probe_gpu(config.tensorrt.device)
    except HardwareError as error:
        return str(error)
    return ""


def engine_ready(request: LoadRequest) -> bool:
    """Whether an engine for exactly this network, box and configuration is stored and whole; quick.

    Raises HardwareError (no TensorRT, no GPU) and ModelError (calibration pictures are configured and not there).
    """
    from edge_agent.detect.backends.tensorrt.cache import find_engine, key_for

    stored = find_engine(key_for(request), request.cache)
    if stored is not None:
        stored.close()
    return stored is not None


def build(request: LoadRequest, progress: Progress | None = None, *, cancel: threading.Event | None = None) -> bool:
    """See ``building.build``: builds the engine in a child process, blocks for minutes; False where it was cancelled."""
    from edge_agent.detect.backends.tensorrt import building

    return building.build(request, progress, cancel=cancel)


def open_backend(request: LoadRequest) -> Backend:
    """The factory: loads a stored engine and never builds one. Raises ModelError (none is there), HardwareError."""
    from edge_agent.detect.backends.tensorrt import backend

    return backend.open_backend(request)
