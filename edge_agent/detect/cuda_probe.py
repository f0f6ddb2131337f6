"""Asks the CUDA driver what GPU there is, in a child process: some drivers crash the process that asks.

Nothing but the driver library itself is used, and nothing heavy imported: the answer is there in a fraction of a second.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import asdict, dataclass
from typing import Any

from edge_agent.detect.child import Say, run_child, serve
from edge_agent.errors import HardwareError

LIBRARY = "libcuda.so.1"
TIMEOUT_S = 30.0
"""The first call after boot may load the kernel module."""
COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR = 75, 76
"""CUdevice_attribute, CUDA driver API 12, 6.1."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """``driver`` is the CUDA version the driver speaks, for example 12.6; ``capability`` the compute capability, 8.7."""

    name: str
    capability: str
    driver: str
    memory_mb: int


@functools.lru_cache(maxsize=8)
def probe_gpu(device: int) -> Gpu:
    """The GPU with that number; asked once in a process. Raises HardwareError that says why there is none."""
    reply = run_child(
        "edge_agent.detect.cuda_probe", {"device": device}, what="asking the CUDA driver", timeout_s=TIMEOUT_S
    )
    if reply is None:  # only a cancelled one
        raise HardwareError("asking the CUDA driver: cancelled")
    return Gpu(**reply)


def _perform(request: dict[str, Any], say: Say) -> dict[str, Any]:
    """The child's part."""
    say("loading the CUDA driver")
    try:
        cuda = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise HardwareError(f"no NVIDIA driver ({error})") from error
    say("starting the CUDA driver")
    _check(cuda, "cuInit", 0)
    version, count = ctypes.c_int(), ctypes.c_int()
    _check(cuda, "cuDriverGetVersion", ctypes.byref(version))
    _check(cuda, "cuDeviceGetCount", ctypes.byref(count))
    if request["device"] >= count.value:
        raise HardwareError(f"GPU {request['device']} does not exist, the driver knows {count.value}")
    say("asking for the GPU")
    device, memory = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    _check(cuda, "cuDeviceGet", ctypes.byref(device), request["device"])
    _check(cuda, "cuDeviceGetName", name, len(name), device)
    _check(cuda, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(cuda, "cuDeviceGetAttribute", ctypes.byref(major), COMPUTE_CAPABILITY_MAJOR, device)
    _check(cuda, "cuDeviceGetAttribute", ctypes.byref(minor), COMPUTE_CAPABILITY_MINOR, device)
    driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
    capability = f"{major.value}.{minor.value}"
    return asdict(Gpu(name.value.decode("utf-8", "replace"), capability, driver, memory.value >> 20))


def _check(cuda: ctypes.CDLL, function: str, *arguments: Any) -> None:
    code = getattr(cuda, function)(*arguments)
    if code != 0:
        text = ctypes.c_char_p()
        cuda.cuGetErrorName(code, ctypes.byref(text))
        raise HardwareError(f"CUDA: {function}: {(text.value or b'').decode() or code}")


if __name__ == "__main__":
    serve(_perform)
