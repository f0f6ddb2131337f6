"""What the box is, for whoever reads the figures elsewhere. Nothing here names the box, its user or its network."""

from __future__ import annotations

import contextlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edge_agent.bench.result import Machine

_PACKAGES = (
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "ai-edge-litert",
    "tflite-runtime",
    "pycoral",
    "openvino",
    "tensorrt",
    "cuda-bindings",
    "pycuda",
)


def machine() -> Machine:
    """This box. What cannot be read is empty."""
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        board=_text("/proc/device-tree/model"),
        memory_mb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        system=_system(),
        kernel=platform.release(),
        arch=platform.machine(),
        python=platform.python_version(),
        governor=_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        runtimes=_runtimes(),
    )


def peak_rss_mb() -> float:
    """Of this process alone: getrusage would begin with the size of the one that started it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip("\0\n ")[:200]
    except OSError:
        return ""


def _cpu() -> str:
    for line in _text_lines("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "Hardware"):  # x86 names its CPU, ARM at most its board
            return value.strip()
    return platform.processor()


def _text_lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _system() -> str:
    for line in _text_lines("/etc/os-release"):
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.system()


def _runtimes() -> dict[str, str]:
    import cv2

    found = {"opencv": cv2.__version__}  # may be the system's, which is no package of ours
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
