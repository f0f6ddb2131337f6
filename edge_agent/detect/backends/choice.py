"""Which backend runs a model on this box, and why not the others.

``detect.backend: auto`` takes the first of ``CANDIDATES`` for which hardware, package and model file are there. A backend
that is named is taken or refused: another one never takes its place unasked.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from edge_agent.config import DetectConfig
from edge_agent.detect.manifest import Model, Network
from edge_agent.errors import HardwareError

log = logging.getLogger(__name__)

_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend on a kind of hardware."""

    name: str
    backend: str
    missing: Callable[[DetectConfig], str]
    """Why it cannot be here, empty where it can. Quick."""
    files: Callable[[Model, DetectConfig], Sequence[Network]]
    """Files of a model that it can load, the best one first."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What its section of the configuration must say so that it runs on that hardware and no other."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What to load: ``network`` by ``backend`` with ``config``."""

    name: str
    backend: str
    network: Network
    config: DetectConfig
    reasons: Mapping[str, str]
    """For each other candidate by name, why it was not taken."""


def choose(model: Model, config: DetectConfig, *, failed: Mapping[str, str] = _NONE) -> Choice:
    """The best backend for ``model``. ``failed`` says by name why candidates are out that seemed fit and did not load.

    Raises HardwareError (this box lacks what is needed), ModelError (no file for the backend that is named). Probes the
    hardware but loads nothing; may take a second.
    """
    asked = _asked(model, config)
    reasons: dict[str, str] = {}
    for candidate in asked:
        networks = candidate.files(model, config)
        reason = failed.get(candidate.name, "") or _why_not(model, candidate, networks, config)
        if not reason:
            rest = {c.name: f"{candidate.name} comes first" for c in asked[len(reasons) + 1 :]}
            return Choice(candidate.name, candidate.backend, networks[0], _settled(candidate, config), reasons | rest)
        reasons[candidate.name] = reason
    where = f"model {model.manifest.name}@{model.manifest.version}"
    if config.backend == "auto":
        raise HardwareError(f"{where} cannot run here: " + "; ".join(f"{name}: {why}" for name, why in reasons.items()))
    model.network(config.backend)
    raise HardwareError(f"{where} cannot run with {config.backend}: " + "; ".join(dict.fromkeys(reasons.values())))


def _asked(model: Model, config: DetectConfig) -> list[Candidate]:
    """The candidates that the configuration allows."""
    if config.backend == "auto":
        return list(CANDIDATES)
    if config.backend != "tflite":
        return [_named(config.backend)]
    accelerator, cpu = (c for c in CANDIDATES if c.backend == "tflite")
    if config.tflite.delegate or config.tflite.devices:
        return [accelerator]
    return [accelerator, cpu]


def _named(backend: str) -> Candidate:
    """A backend as the configuration has it, on whichever device that says."""
    first = next(c for c in CANDIDATES if c.backend == backend)
    return Candidate(backend, backend, _ask(backend, "available"), first.files)


def _why_not(model: Model, candidate: Candidate, networks: Sequence[Network], config: DetectConfig) -> str:
    try:
        missing = candidate.missing(config)
    except Exception as error:
        # A vendor's half-installed package may raise anything at import; it is no reason not to look at the next one.
        log.debug("asking for %s", candidate.name, exc_info=True)
        missing = f"it cannot be asked for ({type(error).__name__}: {error})"
    if missing or networks:
        return missing
    kinds = ", ".join(
        sorted({f"{f.backend} for the Edge TPU" if f.device == "edgetpu" else f.backend for f in model.manifest.files})
    )
    return f"the model has no file for it (it has: {kinds})"


def _settled(candidate: Candidate, config: DetectConfig) -> DetectConfig:
    section = getattr(config, candidate.backend).model_copy(update=dict(candidate.settings))
    return config.model_copy(update={candidate.backend: section})


def _ask(backend: str, question: str) -> Callable[[DetectConfig], str]:
    def ask(config: DetectConfig) -> str:
        module = importlib.import_module(f"edge_agent.detect.backends.{backend}")
        return str(getattr(module, question)(config))

    return ask


def _cpu_of_openvino(config: DetectConfig) -> str:
    if config.openvino.device not in ("AUTO", "CPU"):
        return f"detect.openvino.device is {config.openvino.device}"
    return _ask("openvino", "available")(config)


def _cpu_of_tflite(config: DetectConfig) -> str:
    plain = config.tflite.model_copy(update=_PLAIN)
    return _ask("tflite", "available")(config.model_copy(update={"tflite": plain}))


_PLAIN: Mapping[str, Any] = {"delegate": None, "delegate_options": {}, "devices": []}


def _for_tensorrt(model: Model, config: DetectConfig) -> list[Network]:
    # A quantised file only where int8 is wanted, and then before the others.
    int8 = config.tensorrt.precision == "int8"
    return sorted(model.networks("tensorrt"), key=lambda n: (n.file.precision == "int8") != int8)


def _for_delegate(model: Model, config: DetectConfig) -> list[Network]:
    edgetpu = config.tflite.delegate is None or "edgetpu" in config.tflite.delegate
    wanted = "edgetpu" if edgetpu else "any"
    fits = [n for n in model.networks("tflite") if n.file.device == wanted]
    return sorted(fits, key=lambda n: n.file.precision != "int8")


def _plain_files(backend: str) -> Callable[[Model, DetectConfig], list[Network]]:
    return lambda model, config: [n for n in model.networks(backend) if n.file.device == "any"]


CANDIDATES: Sequence[Candidate] = (
    Candidate("tensorrt", "tensorrt", _ask("tensorrt", "available"), _for_tensorrt),
    Candidate("tflite on an Edge TPU or delegate", "tflite", _ask("tflite", "accelerator"), _for_delegate),
    Candidate("openvino on a GPU or NPU", "openvino", _ask("openvino", "accelerator"), _plain_files("openvino")),
    Candidate("onnxruntime", "onnxruntime", _ask("onnxruntime", "available"), _plain_files("onnxruntime")),
    Candidate("openvino on the CPU", "openvino", _cpu_of_openvino, _plain_files("openvino"), {"device": "CPU"}),
    Candidate("tflite on the CPU", "tflite", _cpu_of_tflite, _plain_files("tflite"), _PLAIN),
)
"""Best first: dedicated hardware, then the CPU, there the one that needs least memory first."""
