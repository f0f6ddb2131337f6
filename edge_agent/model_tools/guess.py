"""From what a file declares and does to a manifest's fields: each with the reason, or a question where nobody can know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import ModelError, UsageError
from edge_agent.model_tools.evidence import Match, Output
from edge_agent.model_tools.facts import Facts, Tensor
from edge_agent.model_tools.families import matches
from edge_agent.model_tools.labels import SETS

BACKENDS = {"onnx": "onnxruntime", "tflite": "tflite", "openvino": "openvino"}
_UNIT = ([0.0] * 3, [255.0] * 3)
_SIGNED = ([127.5] * 3, [127.5] * 3)
_PLAIN = ([0.0] * 3, [1.0] * 3)
_USUAL: dict[str, tuple[str, tuple[list[float], list[float]], str, str]] = {
    # colour order, mean and std, fit, position: as the upstream projects prepare a picture
    "yolov8": ("RGB", _UNIT, "letterbox", "centre"),
    "yolov5": ("RGB", _UNIT, "letterbox", "centre"),
    "yolov10": ("RGB", _UNIT, "letterbox", "centre"),
    "yolox": ("BGR", _PLAIN, "letterbox", "top_left"),
    "ssd": ("RGB", _SIGNED, "stretch", "top_left"),
    "boxes_labels_scores": ("RGB", _UNIT, "letterbox", "top_left"),
    "yolov4": ("RGB", _UNIT, "stretch", "top_left"),
    "rtdetr": ("RGB", _UNIT, "stretch", "top_left"),
    "yolonas": ("RGB", _UNIT, "letterbox", "centre"),
    "fcos": ("RGB", _SIGNED, "letterbox", "top_left"),
}
_BY_ID = ("ssd", "boxes_labels_scores")
"""Families whose COCO networks number classes by category id."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What the user said on the command line."""

    family: str | None = None
    labels: tuple[str, ...] = ()
    labels_from: str = ""
    size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """One line of what is shown: ``key`` of the manifest, its value, and why."""

    key: str
    value: Any
    because: str


@dataclass(frozen=True, slots=True)
class Question:
    """What cannot be known: the option that answers it, and what it asks."""

    option: str
    text: str


@dataclass(slots=True)
class Draft:
    """A manifest's fields as far as they are known (``fields``, by dotted key)."""

    reasons: list[Reason] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def say(self, key: str, value: Any, because: str) -> None:
        """Add a field."""
        self.reasons.append(Reason(key, value, because))

    def ask(self, option: str, text: str) -> None:
        """Add a question."""
        self.questions.append(Question(option, text))

    @property
    def fields(self) -> dict[str, Any]:
        """Nested as in the manifest."""
        tree: dict[str, Any] = {}
        for reason in self.reasons:
            *sections, key = reason.key.split(".")
            place = tree
            for section in sections:
                place = place.setdefault(section, {})
            place[key] = reason.value
        return tree


def guess(facts: Facts, values: Sequence[NDArray[Any]], choices: Choices) -> Draft:
    """Work out a manifest. Raises ModelError (nothing this agent can run), UsageError (a choice that contradicts the file)."""
    draft = Draft()
    if facts.hints.task not in ("", "detect"):
        raise ModelError(f"it was made for the task {facts.hints.task!r}; this agent takes detection networks")
    tensor = _image_input(facts)
    size = _input(draft, tensor, facts, choices)
    if size is None:
        return draft
    outputs = _outputs(facts, values)
    match = _family(draft, outputs, size, facts, choices)
    if match is None:
        return draft
    _preparation(draft, tensor, match)
    draft.say("outputs", [o.name for o in match.outputs], "in the order the family takes them")
    labels = _labels(draft, match, facts, choices)
    for key, value in match.decode.items():
        draft.say(f"decode.{key}", value, match.reasons.get(key, "as the outputs are"))
    if labels is not None:
        draft.say("labels", list(labels[0]), labels[1])
    return draft


def _image_input(facts: Facts) -> Tensor:
    if len(facts.inputs) != 1:
        names = ", ".join(f"{t.name} {list(t.shape)}" for t in facts.inputs)
        raise ModelError(
            f"it has {len(facts.inputs)} inputs ({names}); a network with the picture as its one input is needed: "
            "export it without post-processing"
        )
    tensor = facts.inputs[0]
    shape = tensor.shape
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        wanted = "[1, 3, height, width] or [1, height, width, 3]"
        raise ModelError(f"its input {tensor.name!r} is {list(shape)}; a colour picture {wanted} is needed")
    if shape[0] not in (1, None):
        raise ModelError(f"it was exported for batches of {shape[0]}; export it with batch 1 or an open batch")
    if tensor.dtype not in ("float32", "float16", "uint8", "int8"):
        raise ModelError(f"its input is {tensor.dtype}; float32, float16, uint8 and int8 are taken")
    return tensor


def _input(draft: Draft, tensor: Tensor, facts: Facts, choices: Choices) -> tuple[int, int] | None:
    draft.say("input.name", tensor.name, "the file's only input")
    first = tensor.shape[1] == 3
    layout = "NCHW" if first else "NHWC"
    draft.say("input.layout", layout, f"the 3 colours are axis {1 if first else 3} of {list(tensor.shape)}")
    draft.say("input.dtype", tensor.dtype, "declared")
    height, width = tensor.shape[2:] if first else tensor.shape[1:3]
    if width and height:
        if choices.size not in (None, (width, height)):
            raise UsageError(f"--size: the file is made for {width}x{height} and nothing else")
        draft.say("input.size", [width, height], f"declared: {list(tensor.shape)}")
        return width, height
    for size, because in ((choices.size, "--size"), (facts.hints.size, "imgsz in the file's metadata")):
        if size is not None:
            draft.say("input.size", list(size), because)
            return size
    draft.ask(
        "--size", f"input size: the file leaves it open ({list(tensor.shape)}); WIDTHxHEIGHT, for example 640x640"
    )
    return None


def _outputs(facts: Facts, values: Sequence[NDArray[Any]]) -> list[Output]:
    if values:
        return [Output(t.name, v.shape, v) for t, v in zip(facts.outputs, values, strict=True)]
    return [Output(t.name, tuple(n or 1 for n in t.shape), reach=_reach(t)) for t in facts.outputs]


def _reach(tensor: Tensor) -> float | None:
    if tensor.dtype not in ("uint8", "int8"):
        return None
    limits = np.iinfo(np.dtype(tensor.dtype))
    return max(abs(tensor.scale * (int(limit) - tensor.zero_point)) for limit in (limits.min, limits.max))


def _family(draft: Draft, outputs: list[Output], size: tuple[int, int], facts: Facts, choices: Choices) -> Match | None:
    if choices.family is not None and choices.family not in _USUAL:
        raise UsageError(f"--family {choices.family}: there is no such family; there are: {', '.join(_USUAL)}")
    found = matches(outputs, size, choices.family)
    shapes = ", ".join(f"{o.name} {list(o.shape)}" for o in outputs)
    if choices.family is not None and not found:
        raise UsageError(f"--family {choices.family}: the outputs ({shapes}) do not fit that family")
    if not found:
        raise ModelError(
            f"its outputs ({shapes}) are those of no family that is known: {', '.join(_USUAL)}; "
            "on a grid of unusual strides --family names it"
        )
    known = choices.labels or facts.hints.labels
    if len(found) > 1 and known:
        fitting = [m for m in found if m.classes in (None, len(known))]
        found = fitting or found
    if len({m.family for m in found}) > 1:
        could = "; ".join(f"{m.family} with {m.classes} classes" for m in found)
        draft.ask("--family", f"family: the outputs ({shapes}) could be {could}")
        return None
    match = found[0]
    draft.say("family", match.family, f"--family; {match.because}" if choices.family else match.because)
    return match


def _preparation(draft: Draft, tensor: Tensor, match: Match) -> None:
    colour, (mean, std), fit, position = _USUAL[match.family]
    because = f"usual for {match.family}"
    draft.say("input.colour", colour, because)
    if tensor.dtype in ("uint8", "int8"):
        mean, std, because = _from_quantisation(tensor)
    draft.say("input.mean", mean, because)
    draft.say("input.std", std, because)
    draft.say("input.fit", fit, f"usual for {match.family}")
    if fit == "letterbox":
        draft.say("input.position", position, f"usual for {match.family}")


def _from_quantisation(tensor: Tensor) -> tuple[list[float], list[float], str]:
    """The real range that the integers stand for says how pictures were scaled in training."""
    limits = np.iinfo(np.dtype(tensor.dtype))
    low = tensor.scale * (int(limits.min) - tensor.zero_point)
    high = tensor.scale * (int(limits.max) - tensor.zero_point)
    because = f"its {tensor.dtype} stands for {low:.3g} to {high:.3g}"
    if high - low > 8:
        return *_PLAIN, because
    return *(_SIGNED if low < -0.25 else _UNIT), because


def _labels(draft: Draft, match: Match, facts: Facts, choices: Choices) -> tuple[tuple[str, ...], str] | None:
    labels, because = choices.labels, choices.labels_from
    if not labels and facts.hints.labels:
        labels, because = facts.hints.labels, "named in the file's metadata"
    if not labels and match.classes in (80, 20):
        name = "coco" if match.classes == 80 else "voc"
        labels, because = SETS[name], f"{match.classes} classes: taken for {name.upper()}'s; --labels says otherwise"
    if not labels:
        many = "its" if match.classes is None else f"its {match.classes}"
        draft.ask("--labels", f"labels: names of {many} class(es): coco, voc, a file, or names with commas")
        return None
    if match.family in _BY_ID:
        labels, because = _by_id(match, labels, because)
    known = len(labels) + bool(match.decode.get("background"))
    if match.highest is not None and match.highest >= known:
        draft.warnings.append(
            f"on the sample picture it gives class number {match.highest}, beyond the {len(labels)} labels: is this the right set?"
        )
    if match.classes is not None and len(labels) != match.classes:
        if len(labels) != match.classes - 1:
            raise UsageError(f"the network has {match.classes} classes, but there are {len(labels)} labels ({because})")
        match.decode["background"] = True
        match.reasons["background"] = f"{match.classes} scores for {len(labels)} labels"
    return labels, because


def _by_id(match: Match, labels: tuple[str, ...], because: str) -> tuple[tuple[str, ...], str]:
    if labels == SETS["coco"]:
        return SETS["coco91"], f"{because}, by category id as {match.family} networks number them"
    if labels[0].strip("?_ ").lower() in ("", "background") and len(labels) > 1:
        return labels[1:], f"{because}, without the background"
    return labels, because
