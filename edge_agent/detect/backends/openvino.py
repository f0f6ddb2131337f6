"""OpenVINO: Intel CPUs, GPUs and NPUs, from an IR (xml and bin) or an ONNX file.

The performance hint decides what the network is compiled for: ``throughput`` runs as many pictures at once as the
device gains from, ``latency`` one at a time with all cores. https://docs.openvino.ai: "High-level Performance Hints".
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.config import DetectConfig
from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.backends.files import placed
from edge_agent.detect.backends.fit import TensorFacts, check_fit, expected_input
from edge_agent.detect.manifest import Network
from edge_agent.errors import HardwareError, InferenceError, ModelError
from edge_agent.types import F32

log = logging.getLogger(__name__)

_INSTALL = "pip install openvino"
_MISSING = f"openvino is not installed: {_INSTALL}"
_DRIVER_NODES = {"GPU": ("dri", "renderD*"), "NPU": ("accel", "accel*")}
"""Where under /dev the kernel driver of a device shows: looked for first, as the package takes long to import."""
_MANY = ("AUTO", "MULTI", "HETERO", "BATCH")


def available(config: DetectConfig) -> str:
    """Empty where the package and the device of the configuration are there, else why not."""
    wanted = config.openvino.device
    if not _installed():
        return _MISSING
    if reason := _no_driver(wanted.partition(".")[0]):
        return reason
    return _ask(wanted)[1]


def accelerator(config: DetectConfig) -> str:
    """Empty where a GPU or NPU would run the model, else why not."""
    wanted = config.openvino.device
    kinds = _DRIVER_NODES if wanted == "AUTO" else wanted.replace(":", ",").split(",")
    kinds = [kind.partition(".")[0] for kind in kinds if kind not in _MANY]
    if not set(kinds) & set(_DRIVER_NODES):
        return f"detect.openvino.device is {wanted}"
    if not _installed():
        return _MISSING
    missing = [_no_driver(kind) for kind in kinds]
    if all(missing):
        return "; ".join(missing)
    device, reason = _ask(wanted)
    if device == "CPU":
        return "OpenVINO finds no GPU and no NPU: are its driver packages installed?"
    return reason


def _ask(wanted: str) -> tuple[str, str]:
    """The device that would be used, or else why there is none."""
    try:
        return _device(_core(import_openvino()), wanted), ""
    except HardwareError as error:
        return "", str(error)
    except Exception as error:  # half-installed packages and drivers raise anything
        log.debug("asking for OpenVINO", exc_info=True)
        return "", f"openvino is broken ({type(error).__name__}: {_first_line(error)}): {_INSTALL}"


def _installed() -> bool:
    try:
        return importlib.util.find_spec("openvino") is not None
    except (ImportError, ValueError):
        return False


def _no_driver(kind: str) -> str:
    """Why there can be no device of this kind, empty where there may be one."""
    if kind not in _DRIVER_NODES:
        return ""
    folder, pattern = _DRIVER_NODES[kind]
    return "" if any(Path("/dev", folder).glob(pattern)) else f"no {kind}: there is no /dev/{folder}/{pattern}"


def import_openvino() -> Any:
    """The package, without its telemetry. Raises HardwareError where it is not there."""
    # Importing the package calls home from its model converter, which we do not need; None keeps both from loading.
    # Its own way out would be a file in the home directory. If somebody imported them before us it is too late.
    for name in ("openvino_telemetry", "openvino.tools.ovc"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    try:
        import openvino
        import openvino.frontend
    except ImportError as error:
        raise HardwareError(f"openvino cannot be imported ({error}): {_INSTALL}") from error
    return openvino


def _core(openvino: Any) -> Any:
    try:
        return openvino.Core()
    except RuntimeError as error:
        raise HardwareError(f"OpenVINO does not start: {_first_line(error)}") from error


def _device(core: Any, wanted: str) -> str:
    """The device to compile for. AUTO is decided here: OpenVINO's own would go on on the CPU without a word."""
    there = list(core.available_devices)
    if wanted == "AUTO":
        return next((d for kind in ("GPU", "NPU", "CPU") for d in there if d.partition(".")[0] == kind), "CPU")
    parts = [part for part in wanted.replace(":", ",").split(",") if part not in _MANY]
    for part in parts:
        if part not in there and part not in {device.partition(".")[0] for device in there}:
            raise HardwareError(f"OpenVINO has no device {part!r} here (there: {', '.join(there) or 'none'})")
    return wanted


class OpenVinoBackend:
    """Loads an IR or ONNX file. Raises ModelError (damaged or not as its manifest says), HardwareError (no such device)."""

    def __init__(self, request: LoadRequest) -> None:
        network = request.network
        self._openvino = openvino = import_openvino()
        core = _core(openvino)
        device = _device(core, request.config.openvino.device)
        with placed(request) as paths:
            model = _read(openvino, core, network, paths)
            self._compiled: Any = _compile(core, model, request, device)
        self.input = expected_input(network)
        ports = {name: port for port in self._compiled.outputs for name in port.names}
        self._ports = [ports[name] for name in network.outputs]
        self.concurrency = max(1, int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")))
        self.device = ",".join(self._compiled.get_property("EXECUTION_DEVICES"))

    def runner(self) -> OpenVinoRunner:
        """A runner with an inference request of its own. Raises HardwareError once closed, or where the device has no room."""
        if self._compiled is None:
            raise HardwareError("the OpenVINO backend is closed")
        try:
            request = self._compiled.create_infer_request()
        except Exception as error:
            raise HardwareError(f"OpenVINO: {self.device} takes no further request: {_first_line(error)}") from error
        return OpenVinoRunner(self._openvino, request, self._ports)

    def close(self) -> None:
        """The compiled model goes with its last runner."""
        self._compiled, self._ports = None, []


def _read(openvino: Any, core: Any, network: Network, paths: list[str]) -> Any:
    try:
        if network.path.suffix == ".xml":
            model = core.read_model(*paths[:2])
        else:
            # Not by the core, which would try every format it knows, and complain on stderr in each of them.
            frontend = openvino.frontend.FrontEndManager().load_by_framework("onnx")
            model = frontend.convert(frontend.load(paths[0]))
        _check(network, model)
        model.reshape({network.input.name: list(expected_input(network).shape)})
    except ModelError:
        raise
    except Exception as error:  # its exceptions have no common base
        raise ModelError(f"{network.path}: OpenVINO cannot load it: {_first_line(error)}") from error
    return model


def _check(network: Network, model: Any) -> None:
    inputs = []
    for port in model.inputs:
        names, shape = port.names, port.get_partial_shape()
        sizes = [None if side.is_dynamic else side.get_length() for side in shape] if shape.rank.is_static else []
        name = network.input.name if network.input.name in names else min(names, default="")
        inputs.append(TensorFacts(name, port.get_element_type().to_dtype().name, sizes))
    check_fit(network, inputs, {name for port in model.outputs for name in port.names})


def _compile(core: Any, model: Any, request: LoadRequest, device: str) -> Any:
    settings = {"PERFORMANCE_HINT": request.config.openvino.hint.upper()}
    if device == "CPU" and request.network.file.precision != "int8":
        # Newer CPUs would calculate in bfloat16 unasked, and boxes would move by pixels.
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    if device != "CPU":
        # Compiling for a GPU takes up to minutes; the runtime's own key holds the model, the driver and its version.
        settings["CACHE_DIR"] = str(request.cache / "openvino")
    try:
        return core.compile_model(model, device, settings)
    except Exception as error:
        raise ModelError(
            f"{request.network.path}: OpenVINO cannot compile it for {device}: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    """The runtime's own words without the trail of its source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return " ".join(said or lines)[:500]


class OpenVinoRunner:
    """One inference request that reads the caller's tensor where it lies; float32 outputs are views of its own memory."""

    def __init__(self, openvino: Any, request: Any, ports: list[Any]) -> None:
        self._openvino = openvino
        self._request = request
        self._ports = ports
        self._tensor: NDArray[Any] | None = None

    def __call__(self, tensor: NDArray[Any]) -> Sequence[F32]:
        """See ``Runner``."""
        try:
            if tensor is not self._tensor:
                self._request.set_input_tensor(self._openvino.Tensor(tensor, shared_memory=True))
                self._tensor = tensor
            self._request.start_async()  # ``infer`` would copy every output
            self._request.wait()
            outputs = [self._request.get_tensor(port).data for port in self._ports]
        except Exception as error:
            self._tensor = None
            raise InferenceError(f"OpenVINO: {_first_line(error)}") from error
        return [output.astype(np.float32, copy=False) for output in outputs]
