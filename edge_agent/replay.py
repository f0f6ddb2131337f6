"""Runs tracking and use cases on a record: no detector, no clock, no network; the same record gives the same answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

import numpy as np

from edge_agent.chains import build_chain
from edge_agent.config import CameraConfig, Config
from edge_agent.pipeline import ChainStats, FrameResult
from edge_agent.record import read_record
from edge_agent.types import Code, Frame, Look, Output, SensorValue, parse_rfc3339, uuid7_factory


class Replay:
    """Feeds a record through the configured camera of its name, else through the settings of the first.

    Iterating runs it and yields the bytes read so far, frame by frame; ``emit`` gets every event and metric in order.
    Ids are made from the recorded times and a fixed seed. Raises UsageError (no record) and ConfigError.
    """

    def __init__(self, path: Path, config: Config, emit: Callable[[Output], None]) -> None:
        self.header, self._frames = read_record(path)
        self.on_result: Callable[[FrameResult], None] | None = None
        self._start = parse_rfc3339(self.header.start)
        self._emit = emit
        self._sensors: Mapping[str, SensorValue] = {}
        self._looks: Sequence[Look] = ()
        self._codes: Sequence[Code] = ()
        self._chain = build_chain(
            config,
            _camera(config, self.header.camera),
            new_id=uuid7_factory(Random(0)),
            emit=self._emit_all,
            on_result=self._result,
            sensors=lambda: self._sensors,
            looks=lambda *_: self._looks,
            codes=lambda _: self._codes,
        )

    @property
    def stats(self) -> ChainStats:
        """Counters of the camera's chain."""
        return self._chain.stats

    def __iter__(self) -> Iterator[int]:
        header = self.header
        # No pixel is needed, only the shape: a picture of this size that takes one byte.
        blank = np.broadcast_to(np.uint8(0), (header.height, header.width, 3))
        for line in self._frames:
            self._sensors, self._codes, self._looks = line.sensors, line.codes, line.attributes
            self._chain.process(Frame(header.camera, line.index, line.t, self._start + line.t, blank), line.detections)
            yield line.position
        self._chain.close("end_of_file")

    def _emit_all(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            self._emit(output)

    def _result(self, result: FrameResult) -> None:
        if self.on_result is not None:
            self.on_result(result)


def _camera(config: Config, name: str) -> CameraConfig:
    found = next((camera for camera in config.cameras if camera.id == name), config.cameras[0])
    return found.model_copy(update={"id": name})
