"""A detector apart that does what no model should, on the frame whose number says so."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from edge_agent.detect import apart
from edge_agent.detect.child import serve
from edge_agent.detect.detector import ModelDetector
from edge_agent.errors import InferenceError

_detect = ModelDetector.detect
_held: list[bytearray] = []


def _fail() -> None:
    raise InferenceError("the device is lost")


FAULTS: dict[int, Callable[[], Any]] = {
    101: os.abort,
    102: lambda: time.sleep(600),
    103: lambda: _held.append(bytearray(b"x" * (60 << 20))),
    104: _fail,
}


def _faulty(self: ModelDetector, frame: Any, *args: Any) -> Any:
    FAULTS.get(frame.index, lambda: None)()
    return _detect(self, frame, *args)


if __name__ == "__main__":
    ModelDetector.detect = _faulty  # type: ignore[assignment,method-assign]
    serve(apart._perform)
