"""Detectors of others that ``model pull`` knows: where their makers publish them, and which bytes they are.

No file of theirs comes with this project. Sizes and hashes are those of the makers' release files; who adds a row takes the hash
from two places that do not copy from each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_agent.errors import UsageError
from edge_agent.model_tools.download import Known
from edge_agent.model_tools.labels import COCO


@dataclass(frozen=True, slots=True)
class Entry:
    """One detector. ``facts`` are dotted keys of the manifest that the file itself does not tell."""

    name: str
    version: str
    url: str
    file: Known
    licence: str
    family: str
    size: tuple[int, int]
    """Of the input, width and height in pixels."""
    labels: tuple[str, ...]
    facts: tuple[tuple[str, Any], ...]
    note: str

    @property
    def label(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


def find_entry(name: str, catalogue: Sequence[Entry]) -> Entry:
    """By name, or name@version. Raises UsageError that lists what there is."""
    for entry in catalogue:
        if name in (entry.name, entry.label):
            return entry
    there = ", ".join(entry.name for entry in catalogue)
    raise UsageError(f"the catalogue has no {name!r}; it has: {there} (edge-agent model pull --list)")


# As Megvii's own demo/ONNXRuntime prepares a picture since release 0.1.1, and reads the answer.
_YOLOX_FACTS: tuple[tuple[str, Any], ...] = (
    ("input.colour", "BGR"),
    ("input.mean", [0.0, 0.0, 0.0]),
    ("input.std", [1.0, 1.0, 1.0]),
    ("input.fit", "letterbox"),
    ("input.position", "top_left"),
    ("input.pad", 114),
    ("decode.decoded", False),
)


def _yolox(kind: str, side: int, size: int, sha256: str, note: str) -> Entry:
    file = f"yolox_{kind}.onnx"
    return Entry(
        name=f"yolox-{kind}",
        version="0.1.1rc0",
        url=f"https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/{file}",
        file=Known(file, size, sha256),
        licence="Apache-2.0",
        family="yolox",
        size=(side, side),
        labels=COCO,
        facts=_YOLOX_FACTS,
        note=note,
    )


CATALOGUE = (
    _yolox(
        "nano",
        416,
        3_659_407,
        "c789161ed43c8269fcd4e67c67eeeb4e80c622da2eb296a20bc6007bd18a0b7d",
        "the smallest, COCO's 80 classes; mAP 25.8 by its makers",
    ),
    _yolox(
        "tiny",
        416,
        20_219_662,
        "427cc366d34e27ff7a03e2899b5e3671425c262ea2291f88bb942bc1cc70b0f7",
        "6 times the work of nano; mAP 32.8",
    ),
    _yolox(
        "s",
        640,
        35_858_002,
        "c5c2d13e59ae883e6af3b45daea64af4833a4951c92d116ec270d9ddbe998063",
        "25 times the work of nano, for small people; mAP 40.5",
    ),
)
