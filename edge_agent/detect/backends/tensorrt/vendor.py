"""The one place where the ``tensorrt`` package is imported, and what it says about itself without being imported.

It can be given another name: ``tensorrt_rtx`` has the same interface and runs its builder without a GPU, for tests.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import logging
import re
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent.errors import HardwareError

if TYPE_CHECKING:
    import tensorrt  # type: ignore[import-not-found, import-untyped, unused-ignore]

log = logging.getLogger(__name__)

OLDEST = (8, 6)
DISTRIBUTIONS = ("tensorrt_cu13_bindings", "tensorrt_cu12_bindings", "tensorrt_bindings", "tensorrt")
"""The last one holds the library only where it comes from JetPack; on the package index it merely asks for another, any version."""
MAX_SOURCE_CHARS = 64 * 1024
OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemory|insufficient memory|bad_alloc|Requested.*bytes but", re.IGNORECASE
)


# Without an annotation: a type checker that knows TensorRT's stubs (scripts/check_tensorrt_types.sh) infers the module.
def load_tensorrt(name: str):  # type: ignore[no-untyped-def]
    """The TensorRT module. Raises HardwareError where it is absent or cannot be loaded."""
    try:
        if TYPE_CHECKING:
            import tensorrt as module
        else:
            module = importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise HardwareError(f"the {name} package cannot be loaded: {error}") from error
    return module


def installed_version() -> str:
    """TensorRT's version without importing it; empty where it is not installed or its package does not say."""
    found = (d.version for name in DISTRIBUTIONS for d in importlib.metadata.distributions(name=name))
    return next(found, "") or _version_in_source()


def _version_in_source() -> str:
    """What the package's own file says, where it was installed without metadata."""
    spec = importlib.util.find_spec("tensorrt")
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return ""
    try:
        with Path(spec.origin).open(encoding="utf-8", errors="replace") as file:
            text = file.read(MAX_SOURCE_CHARS)
    except OSError:
        return ""
    version = re.search(r"^__version__ *= *[\"']([0-9.]+)", text, re.MULTILINE)
    return version[1] if version else ""


def missing() -> str:
    """Why TensorRT cannot be used, as far as that shows without importing it; empty where it may."""
    if importlib.util.find_spec("tensorrt") is None:
        return (
            "the tensorrt package is not installed (on a Jetson: apt install python3-libnvinfer, and a virtual "
            "environment made with --system-site-packages)"
        )
    version = installed_version()
    if version and numbers(version) < OLDEST:
        return f"TensorRT {version} is too old, 8.6 or newer is needed (JetPack 6 or 7)"
    return ""


def numbers(version: str) -> tuple[int, ...]:
    """Major, minor and patch of a version."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


def dtype_name(kind: tensorrt.DataType) -> str:
    """numpy's name of a type; TensorRT's own for one that numpy lacks."""
    name = str(kind).rsplit(".", maxsplit=1)[-1]
    return DTYPES.get(name, name)


def sizes(dims: tensorrt.Dims) -> tuple[int, ...]:
    """A shape of TensorRT's as a tuple."""
    return tuple(dims[i] for i in range(len(dims)))


class Messages:
    """The last things TensorRT complained about, for the error that follows."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=8)

    def add(self, text: str) -> None:
        """Keep one."""
        self._lines.append(" ".join(text.split())[:500])

    def take(self) -> str:
        """All since the last call."""
        text = " | ".join(self._lines)
        self._lines.clear()
        return text or "TensorRT gave no reason"


@functools.cache
def logger_of(name: str) -> tuple[Any, Messages]:
    """The process's one TensorRT logger (the library takes the first it is given for all), and where its errors go."""
    trt = load_tensorrt(name)
    messages = Messages()

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                messages.add(msg)
                log.debug("TensorRT: %s", msg)

    return Logger(), messages
