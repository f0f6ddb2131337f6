"""Which TensorFlow Lite runtime is installed, and accelerators behind it: Edge TPUs and any other delegate library.

A delegate is a shared library that exports ``tflite_plugin_create_delegate`` and ``tflite_plugin_destroy_delegate``
(``external_delegate_interface.h``). It runs inside this process: one built for another runtime may crash it, so try a new
one with ``edge-agent model verify``, which does so in a child process.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.config import DetectConfig, TfliteConfig
from edge_agent.errors import HardwareError

EDGETPU_LIBRARY = "libedgetpu.so.1"
_RUNTIMES = ("ai_edge_litert", "tflite_runtime")
_NO_RUNTIME = "LiteRT is not installed: pip install ai-edge-litert"
_NO_EDGETPU = "no Edge TPU found: plug one in (`lsusb` shows 1a6e:089a or 18d1:9302) or load the driver of a PCIe one (/dev/apex_0)"
_USB_IDS = {("1a6e", "089a"), ("18d1", "9302")}
"""Before and after its firmware was loaded, which happens at first use."""


def edge_tpus(root: Path = Path("/")) -> list[str]:
    """Edge TPUs of this box as libedgetpu names them: ``usb:0``, ``usb:1``, …, ``pci:0``. Quick, needs no library."""
    usb = [device for device in (root / "sys/bus/usb/devices").glob("*") if _usb_id(device) in _USB_IDS]
    pci = list((root / "dev").glob("apex_[0-9]*"))
    return [f"usb:{number}" for number in range(len(usb))] + [f"pci:{number}" for number in range(len(pci))]


def _usb_id(device: Path) -> tuple[str, str] | None:
    with contextlib.suppress(OSError):
        return (device / "idVendor").read_text().strip(), (device / "idProduct").read_text().strip()
    return None


def available(config: DetectConfig) -> str:
    """Empty where a runtime and the configured delegate are there, else why not."""
    if not any(importlib.util.find_spec(name) for name in _RUNTIMES):
        return _NO_RUNTIME
    return accelerator(config) if config.tflite.delegate or config.tflite.devices else ""


def accelerator(config: DetectConfig, root: Path = Path("/")) -> str:
    """Empty where an Edge TPU or the configured delegate would run a model, else why not."""
    if not any(importlib.util.find_spec(name) for name in _RUNTIMES):
        return _NO_RUNTIME
    library = config.tflite.delegate or EDGETPU_LIBRARY
    if is_edgetpu(library) and not config.tflite.devices and not edge_tpus(root):
        return _NO_EDGETPU
    try:
        check_library(library)
    except HardwareError as error:
        return str(error)
    return ""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A delegate library and its options, a set for each device it is to run on."""

    library: str
    options: Sequence[Mapping[str, str]]

    @property
    def name(self) -> str:
        """For status."""
        devices = [o["device"] for o in self.options if "device" in o]
        name = "edgetpu" if is_edgetpu(self.library) else Path(self.library).name
        return f"{name} {', '.join(devices)}" if devices else name


def is_edgetpu(library: str) -> bool:
    """Whether a library is the Edge TPU's, by its name."""
    return Path(library).name.startswith("libedgetpu")


def choose(config: TfliteConfig, for_edgetpu: bool, root: Path = Path("/")) -> Accelerator | None:
    """What is to run a model, None for the CPU. Raises HardwareError where it takes an Edge TPU and there is none."""
    if config.delegate is None and not for_edgetpu:
        return None
    library = config.delegate or EDGETPU_LIBRARY
    options = dict(config.delegate_options)
    if not is_edgetpu(library) and not (for_edgetpu and config.devices):
        return Accelerator(library, [options])
    devices = list(config.devices)
    if not devices and "device" not in options:
        devices = edge_tpus(root)
        if not devices:
            raise HardwareError(_NO_EDGETPU)
    return Accelerator(library, [options | {"device": device} for device in devices] or [options])


def check_library(library: str) -> None:
    """Raises HardwareError that says what to do, where a library cannot be loaded or is no delegate."""
    try:
        loaded = ctypes.CDLL(library)
    except OSError as error:
        fix = "install it: apt install libedgetpu1-std" if is_edgetpu(library) else "is detect.tflite.delegate right?"
        raise HardwareError(f"delegate {library} cannot be loaded ({error}): {fix}") from error
    for symbol in ("tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate"):
        if not hasattr(loaded, symbol):
            raise HardwareError(
                f"{library} is no TensorFlow Lite delegate, it lacks {symbol}: see detect.tflite.delegate"
            )


@dataclass(frozen=True, slots=True)
class Runtime:
    """An installed TensorFlow Lite."""

    interpreter: Callable[..., Any]
    load_delegate: Callable[..., Any]
    make_interpreter: Callable[..., Any] | None = None
    """Google's pycoral, where it is installed and an Edge TPU is wanted: its runtime and libedgetpu fit each other."""

    def open(self, path: str, threads: int, library: str | None, options: Mapping[str, str]) -> Any:
        """An interpreter, not yet allocated.

        Raises HardwareError where the delegate does not start, ValueError for the file, RuntimeError where the two do not fit.
        """
        if library is None:
            return self.interpreter(model_path=path, num_threads=threads)
        check_library(library)
        try:
            if self.make_interpreter is not None and library == EDGETPU_LIBRARY and set(options) <= {"device"}:
                return self.make_interpreter(path, device=options.get("device"))
            delegate = self.load_delegate(library, dict(options))
        except (ValueError, OSError, AttributeError) as error:
            raise HardwareError(refusal(library, options, str(error))) from error
        return self.interpreter(model_path=path, num_threads=threads, experimental_delegates=[delegate])


def refusal(library: str, options: Mapping[str, str], text: str) -> str:
    """Why a delegate did not start, and what may help."""
    given = ", ".join(f"{key}={value}" for key, value in options.items()) or "none"
    said = text.partition("\n")[2].strip() or text.strip()
    fix = (
        "is it plugged in, used by no other process, and the user in the group plugdev (USB) or apex (PCIe)?"
        if is_edgetpu(library)
        else "see detect.tflite.delegate_options"
    )
    return f"delegate {library} refused to start: {one_line(said) or 'it gave no reason'} (options: {given}); {fix}"


def one_line(error: object) -> str:
    """A vendor's message without its line breaks."""
    return " ".join(str(error).split())


def import_runtime(for_edgetpu: bool) -> Runtime:
    """LiteRT, else tflite_runtime. Raises HardwareError where neither is installed."""
    for name in _RUNTIMES:
        try:
            module = importlib.import_module(f"{name}.interpreter")
        except ImportError as error:
            reason = error
            continue
        return Runtime(module.Interpreter, module.load_delegate, _pycoral() if for_edgetpu else None)
    raise HardwareError(f"{_NO_RUNTIME} ({reason})") from reason


def _pycoral() -> Callable[..., Any] | None:
    """``make_interpreter`` of Google's pycoral; the package of that name in the index is another project."""
    spec = importlib.util.find_spec("pycoral")
    # By its files: importing a stranger's package to find out would run it.
    if spec is None or not any(Path(p, "utils", "edgetpu.py").is_file() for p in spec.submodule_search_locations or ()):
        return None
    try:
        make: Callable[..., Any] = importlib.import_module("pycoral.utils.edgetpu").make_interpreter
    except (ImportError, AttributeError):  # its native half does not fit this Python, or another package all the same
        return None
    return make
