"""A stand-in for the ``tensorrt`` module on the driver without a device: it calculates with ONNX Runtime.

It shows that the agent builds beside, stores, loads, runs and frees as it should. It says nothing about TensorRT itself: its
parser and builder are tried with TensorRT for RTX, the rest on hardware.

Environment: FAKE_TENSORRT=<behaviour>[,...]: ``build:segfault``, ``build:memory``, ``build:hang``, ``load:refuse``,
``load:memory``, ``context:memory``, ``run:fail``, ``run:nan``.
"""

from __future__ import annotations

import ctypes
import enum
import json
import os
import time
from typing import Any

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import

import onnxruntime

__version__ = "0.0.0"  # replaced when it is installed
_AT = "external data beside "
MAJOR = int(__version__.split(".", maxsplit=1)[0])
_cuda = ctypes.CDLL("libcuda.so.1")
_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
DataType = enum.Enum("DataType", "FLOAT HALF INT8 UINT8 INT32 INT64 BOOL")
TensorIOMode = enum.Enum("TensorIOMode", "NONE INPUT OUTPUT")
LayerType = enum.Enum("LayerType", "CONVOLUTION QUANTIZE DEQUANTIZE")
MemoryPoolType = enum.Enum("MemoryPoolType", "WORKSPACE")
BuilderFlag: Any = enum.Enum("BuilderFlag", ["TF32", "FP16", "INT8"] if MAJOR < 11 else ["TF32"])  # type: ignore[misc]
_TYPES = {
    "tensor(float)": (DataType.FLOAT, np.float32),
    "tensor(float16)": (DataType.HALF, np.float16),
    "tensor(int8)": (DataType.INT8, np.int8),
    "tensor(uint8)": (DataType.UINT8, np.uint8),
}


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


def _told(behaviour: str) -> bool:
    return behaviour in os.environ.get("FAKE_TENSORRT", "").split(",")


class Dims(tuple[int, ...]):
    __slots__ = ()


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2

    def __init__(self) -> None:
        pass


class IProgressMonitor:
    def __init__(self) -> None:
        pass


if MAJOR < 11:

    class IInt8EntropyCalibrator2:
        def __init__(self) -> None:
            pass


class _Tensor:
    def __init__(self, about: Any) -> None:
        self.name = about.name
        self.shape = Dims(-1 if not isinstance(n, int) else n for n in about.shape)
        self.dtype = _TYPES[about.type][0]


class _Layer:
    num_inputs = num_outputs = 0
    name = "quantise"
    type = LayerType.QUANTIZE


class _Network:
    def __init__(self) -> None:
        self.onnx = b""
        self.inputs: list[_Tensor] = []
        self.outputs: list[_Tensor] = []
        self.layers: list[_Layer] = []

    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))
    num_layers = property(lambda self: len(self.layers))

    def get_input(self, index: int) -> _Tensor:
        return self.inputs[index]

    def get_output(self, index: int) -> _Tensor:
        return self.outputs[index]

    def get_layer(self, index: int) -> _Layer:
        return self.layers[index]

    def unmark_output(self, tensor: _Tensor) -> None:
        self.outputs.remove(tensor)


class _ParserError:
    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        return self._text

    def node(self) -> int:
        return -1


class OnnxParser:
    def __init__(self, network: _Network, logger: ILogger) -> None:
        self._network = network
        self._errors: list[_ParserError] = []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> _ParserError:
        return self._errors[index]

    def parse(self, onnx: bytes, path: str | None = None) -> bool:
        try:
            session = _session(onnx if path is None else path)
        except Exception as error:  # noqa: BLE001
            self._errors.append(_ParserError(str(error)))
            return False
        self._network.onnx = onnx if path is None else f"{_AT}{path}".encode()
        self._network.inputs = [_Tensor(i) for i in session.get_inputs()]
        self._network.outputs = [_Tensor(o) for o in session.get_outputs()]
        self._network.layers = [_Layer()] if b"QuantizeLinear" in onnx else []
        return True


class _Profile:
    def set_shape(self, name: str, least: Dims, best: Dims, most: Dims) -> None:
        assert all(type(shape) is Dims for shape in (least, best, most))
        self.most = most


class _Config:
    def __init__(self) -> None:
        self.flags = {"TF32"}
        self.progress_monitor: Any = None
        self.int8_calibrator: Any = None
        self.batch = 1

    def set_flag(self, flag: enum.Enum) -> None:
        self.flags.add(flag.name)

    def clear_flag(self, flag: enum.Enum) -> None:
        self.flags.discard(flag.name)

    def set_memory_pool_limit(self, pool: enum.Enum, size: int) -> None:
        assert size >= 1 << 20

    def add_optimization_profile(self, profile: _Profile) -> None:
        self.batch = profile.most[0]


class Builder:
    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def create_network(self, flags: int) -> _Network:
        assert flags == 1 << (NetworkDefinitionCreationFlag.STRONGLY_TYPED if MAJOR >= 11 else 0)
        return _Network()

    def create_builder_config(self) -> _Config:
        return _Config()

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _Config) -> bytearray | None:
        monitor = config.progress_monitor
        monitor.phase_start("Building Engine", None, 4)
        if _told("build:segfault"):
            ctypes.string_at(0)
        if _told("build:hang"):
            time.sleep(120)
        if _told("build:memory"):
            self._logger.log(ILogger.Severity.ERROR, "[defaultAllocator.cpp::allocate::31] Error Code 1: out of memory")
            return None
        for step in range(4):
            monitor.phase_start("Tactics", "Building Engine", 2)
            monitor.step_complete("Tactics", 1)
            monitor.phase_finish("Tactics")
            monitor.step_complete("Building Engine", step)
        monitor.phase_finish("Building Engine")
        facts = {"version": __version__, "flags": sorted(config.flags), "batch": config.batch}
        if config.int8_calibrator is not None:
            facts["calibrated"] = _calibrate(config.int8_calibrator, network.inputs[0])
        facts["outputs"] = [tensor.name for tensor in network.outputs]
        return bytearray(json.dumps(facts).encode() + b"\n" + network.onnx)


def _calibrate(calibrator: Any, tensor: _Tensor) -> str:
    assert calibrator.get_batch_size() == 1
    if kept := calibrator.read_calibration_cache():
        return f"from {bytes(kept).decode()}"
    sums = []
    while addresses := calibrator.get_batch([tensor.name]):
        sums.append(float(_view(addresses[0], tuple(tensor.shape), np.dtype(np.float32)).mean()))
    calibrator.write_calibration_cache(memoryview(f"{len(set(sums))} pictures".encode()))
    return f"with {len(sums)} pictures"


def _view(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    size = int(np.prod(shape))
    memory = (ctypes.c_byte * (size * dtype.itemsize)).from_address(address)
    return np.frombuffer(memoryview(memory), dtype, size).reshape(shape)


def _session(onnx: bytes | str) -> Any:
    if isinstance(onnx, bytes) and onnx.startswith(_AT.encode()):
        onnx = onnx.decode().removeprefix(_AT)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


class Runtime:
    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, plan: Any) -> _Engine | None:
        if _told("load:memory"):
            self._logger.log(ILogger.Severity.ERROR, "Requested amount of GPU memory (1 bytes): out of memory")
            return None
        facts, onnx = bytes(plan).split(b"\n", maxsplit=1)
        if json.loads(facts)["version"] != __version__ or _told("load:refuse"):
            self._logger.log(
                ILogger.Severity.ERROR, "Version tag does not match. Note: Current Version: 1, Serialized: 2"
            )
            return None
        return _Engine(json.loads(facts), _session(onnx), self._logger)


class _Engine:
    def __init__(self, facts: dict[str, Any], session: Any, logger: Any) -> None:
        self.facts = facts
        self.session = session
        self.logger = logger
        outputs = [o for o in session.get_outputs() if o.name in facts["outputs"]]
        self.about = {t.name: t for t in [*session.get_inputs(), *outputs]}

    num_io_tensors = property(lambda self: len(self.about))

    def get_tensor_name(self, index: int) -> str:
        return str(list(self.about)[index])

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.OUTPUT if name in self.facts["outputs"] else TensorIOMode.INPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return _TYPES[self.about[name].type][0]

    def create_execution_context(self) -> _Context | None:
        if _told("context:memory"):
            self.logger.log(ILogger.Severity.ERROR, "out of memory")
            return None
        return _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._call = _HOST_FUNCTION(lambda _: self._calculate())

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes = {name: shape}
        empty = {name: np.zeros(shape, _TYPES[self._engine.about[name].type][1])}
        names = self._engine.facts["outputs"]
        self._shapes |= {n: o.shape for n, o in zip(names, self._engine.session.run(names, empty), strict=True)}
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(self._shapes[name])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert set(self._addresses) == set(self._engine.about)
        if _told("run:fail"):
            self._engine.logger.log(ILogger.Severity.ERROR, "Error Code 1: Cask (Cask convolution execution)")
            return False
        return bool(_cuda.cuLaunchHostFunc(ctypes.c_void_p(stream), self._call, None) == 0)

    def _calculate(self) -> None:
        tensors = {
            name: _view(address, tuple(self.get_tensor_shape(name)), np.dtype(_TYPES[self._engine.about[name].type][1]))
            for name, address in self._addresses.items()
        }
        names = self._engine.facts["outputs"]
        given = {name: tensor for name, tensor in tensors.items() if name not in names}
        for name, result in zip(names, self._engine.session.run(names, given), strict=True):
            tensors[name][...] = np.nan if _told("run:nan") else result
