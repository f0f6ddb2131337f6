"""Which backend runs a model on this box, and why not the others.

``detect.backend: auto`` takes the first of ``CANDIDATES`` for which hardware, package and model file are there. A backend
that is named is taken or refused: another one never takes its place unasked. Which of a model's files a backend takes is
decided here as well: ``docs/adr/007-default-model.md``.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from edge_agent.config import DetectConfig
from edge_agent.detect.backends.cpu import multiplies_bytes
from edge_agent.detect.manifest import Model, ModelFile, Network
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
    roomy: bool = False
    """Whether that hardware has time to spare for a network that takes twice as long."""


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
    asked = _asked(config)
    taken, reasons = _first_fit(model, config, asked, failed)
    if taken is not None:
        rest = {c.name: f"{taken.name} comes first" for c in asked[len(reasons) + 1 :]}
        network = taken.files(model, config)[0]
        return Choice(taken.name, taken.backend, network, _settled(taken, config), reasons | rest)
    where = f"model {model.manifest.name}@{model.manifest.version}"
    if config.backend == "auto":
        raise HardwareError(f"{where} cannot run here: " + "; ".join(f"{name}: {why}" for name, why in reasons.items()))
    model.network(config.backend)
    raise HardwareError(f"{where} cannot run with {config.backend}: " + "; ".join(dict.fromkeys(reasons.values())))


def with_room(model: Model, config: DetectConfig) -> tuple[str, Mapping[str, str]]:
    """The name of the accelerator with room that ``choose`` would take for ``model``, "" where it would take none such;
    and by name why not those that came before. Asks no candidate whose answer changes nothing: quick on a box without any.
    """
    asked = [c for c in CANDIDATES if config.backend in ("auto", c.backend)]
    while asked and not asked[-1].roomy:
        asked.pop()
    taken, reasons = _first_fit(model, config, asked)
    if taken is not None and not taken.roomy:
        reasons[taken.name] = "it has no room"
    return taken.name if taken is not None and taken.roomy else "", reasons


def usable_files(model: Model, config: DetectConfig) -> list[Network]:
    """The files of a model that the configuration lets some candidate take, whatever hardware is there."""
    return [network for candidate in _asked(config) for network in candidate.files(model, config)]


def _first_fit(
    model: Model, config: DetectConfig, asked: Sequence[Candidate], failed: Mapping[str, str] = _NONE
) -> tuple[Candidate | None, dict[str, str]]:
    """The first candidate for which everything is there, and why those before it were not taken."""
    reasons: dict[str, str] = {}
    for candidate in asked:
        reason = failed.get(candidate.name, "") or _why_not(model, candidate, config)
        if not reason:
            return candidate, reasons
        reasons[candidate.name] = reason
    return None, reasons


def _asked(config: DetectConfig) -> list[Candidate]:
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


def _why_not(model: Model, candidate: Candidate, config: DetectConfig) -> str:
    try:
        missing = candidate.missing(config)
    except Exception as error:
        # A vendor's half-installed package may raise anything at import; it is no reason not to look at the next one.
        log.debug("asking for %s", candidate.name, exc_info=True)
        missing = f"it cannot be asked for ({type(error).__name__}: {error})"
    return missing or ("" if candidate.files(model, config) else _no_file(model, candidate, config))


def _no_file(model: Model, candidate: Candidate, config: DetectConfig) -> str:
    have = ", ".join(sorted({_kind(file) for file in model.manifest.files}))
    if candidate.files is _for_delegate and _edgetpu(config) and config.precision != "fp32":
        name = f"{model.manifest.name}@{model.manifest.version}"
        make = f"edge-agent model compile {name} --target coral, then name {name}-coral as the model"
        return f"the model has no file compiled for the Edge TPU (it has: {have}): {make}"
    wanted = "" if config.precision == "auto" else f"{config.precision} "
    return f"the model has no {wanted}file for it (it has: {have})"


def _kind(file: ModelFile) -> str:
    return f"{file.backend} {file.precision}" + (" for the Edge TPU" if file.device == "edgetpu" else "")


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
    # What an engine calculates in is its own key's to say: a quantised file only where int8 is wanted, and then first.
    # Whoever gives pictures wants the floats calibrated: TensorRT refuses quantisation with zero points, as CPUs like it.
    own = config.tensorrt.precision == "int8" and config.tensorrt.calibration_images is None
    return _by_precision(model.networks("tensorrt"), int8=own)


def _for_delegate(model: Model, config: DetectConfig) -> list[Network]:
    wanted = "edgetpu" if _edgetpu(config) else "any"
    fits = [n for n in model.networks("tflite") if n.file.device == wanted]
    return _by_precision(_allowed(fits, config), int8=True)


def _edgetpu(config: DetectConfig) -> bool:
    return config.tflite.delegate is None or "edgetpu" in config.tflite.delegate


def _for_openvino(model: Model, config: DetectConfig) -> list[Network]:
    fits = _by_precision(_plain("openvino", model, config), int8=False)
    return sorted(fits, key=lambda n: n.file.backend != "openvino")  # an IR was made for it


def _for_onnxruntime(model: Model, config: DetectConfig) -> list[Network]:
    # Without an instruction for dot products of bytes its x86 kernels add two products in 16 bits, which saturate: wrong
    # boxes, and no faster than floats. https://onnxruntime.ai: "Quantize ONNX models", "When and why do I need to try U8U8?"
    on_cpu = config.onnxruntime.providers[0] == "CPUExecutionProvider"
    return _by_precision(_plain("onnxruntime", model, config), int8=on_cpu and multiplies_bytes())


def _for_tflite(model: Model, config: DetectConfig) -> list[Network]:
    # XNNPACK widens bytes before it multiplies where there is no such instruction: right everywhere.
    return _by_precision(_plain("tflite", model, config), int8=True)


def _plain(backend: str, model: Model, config: DetectConfig) -> list[Network]:
    return _allowed([n for n in model.networks(backend) if n.file.device == "any"], config)


def _allowed(networks: Sequence[Network], config: DetectConfig) -> list[Network]:
    return [n for n in networks if config.precision in ("auto", n.file.precision)]


def _by_precision(networks: Sequence[Network], *, int8: bool) -> list[Network]:
    """Integers first or floats first, in each the manifest's order."""
    return sorted(networks, key=lambda n: (n.file.precision == "int8") != int8)


CANDIDATES: Sequence[Candidate] = (
    Candidate("tensorrt", "tensorrt", _ask("tensorrt", "available"), _for_tensorrt, roomy=True),
    Candidate("tflite on an Edge TPU or delegate", "tflite", _ask("tflite", "accelerator"), _for_delegate),
    Candidate("openvino on a GPU or NPU", "openvino", _ask("openvino", "accelerator"), _for_openvino, roomy=True),
    Candidate("onnxruntime", "onnxruntime", _ask("onnxruntime", "available"), _for_onnxruntime),
    Candidate("openvino on the CPU", "openvino", _cpu_of_openvino, _for_openvino, {"device": "CPU"}),
    Candidate("tflite on the CPU", "tflite", _cpu_of_tflite, _for_tflite, _PLAIN),
)
"""Best first: dedicated hardware, then the CPU, there the one that needs least memory first. The order of the CPU's is that
of these lines and stands nowhere else."""
