"""The ``--record`` file: a header line, then one JSON line for each processed frame; written by ``run``, read by ``replay``."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, get_args

import numpy as np

from edge_agent.errors import UsageError
from edge_agent.pipeline import FrameResult
from edge_agent.record_codes import code_read, code_written
from edge_agent.record_looks import look_read, look_written
from edge_agent.types import Code, Detections, Look, ModelTag, Quality, SensorValue, parse_rfc3339, rfc3339

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 4 * 1024 * 1024
_MAX_SIDE = 100_000
_MAX_PIXEL = 1e6
"""Of a box's corners: what is farther out is no box, and would spoil the tracks it meets."""
_MAX_T = 1e9


@dataclass(frozen=True, slots=True)
class Header:
    """What a record is of. ``fps`` is the source's, ``start`` the UTC time of frame 0 (RFC 3339)."""

    camera: str
    width: int
    height: int
    fps: float
    start: str
    config_hash: str
    model: str

    def line(self) -> str:
        """The first line of the file."""
        keys = ("camera", "width", "height", "fps", "start", "config_hash", "model")
        return json.dumps({"record": 1, **{key: getattr(self, key) for key in keys}})


class RecordWriter:
    """Writes one camera's record. ``write`` is called in frame order by one thread at a time; ``close`` once, last.

    A disk that fills up ends the record, not the agent: that is logged once, and ``failure`` says it.
    """

    def __init__(self, path: Path, *, fps: float, config_hash: str, model: str) -> None:
        try:
            self._file: IO[str] = path.open("w", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--record {path}: {error.strerror}") from error
        self._path, self._fps, self._hash, self._model = path, fps, config_hash, model
        self._begun = False
        self._tag: ModelTag | None = None
        self.failure = ""
        """Why the record is not complete; empty while it is."""

    def write(self, result: FrameResult) -> None:
        """Append one frame."""
        if self.failure:
            return
        try:
            self._write(result)
        except OSError as error:
            self._fail(error)

    def close(self) -> None:
        """Flush and close."""
        try:
            self._file.close()
        except OSError as error:
            if not self.failure:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.failure = f"--record {self._path}: {error.strerror}; the record ends here"
        log.error("%s", self.failure)

    def _write(self, result: FrameResult) -> None:
        frame = result.frame
        if not self._begun:
            self._begun = True
            width, height = frame.size
            start = rfc3339(frame.utc - frame.t)
            self._file.write(
                Header(frame.camera, width, height, self._fps, start, self._hash, self._model).line() + "\n"
            )
        tag = result.detections.model
        self._file.write(frame_line(result, tag if tag != self._tag else None) + "\n")
        self._tag = tag


def frame_line(result: FrameResult, model: ModelTag | None = None) -> str:
    """One frame as the record states it, without the line's end. ``model``: it is the first one of that model."""
    frame, tracks, ground, pairs = result.frame, result.tracks, result.ground, result.pairs
    rest: dict[str, Any] = {
        "tracks": [
            {"id": ident, "box": box, "label": tracks.labels[label], "ground": _position(place, ground.calibrated)}
            | ({"predicted": True} if predicted else {})
            | ({"estimated": True} if estimated else {})
            for ident, box, label, place, predicted, estimated in zip(
                tracks.ids.tolist(),
                _rounded(tracks.boxes, 2),
                tracks.classes.tolist(),
                _rounded(ground.xy, 3),
                tracks.predicted.tolist(),
                ground.estimated.tolist(),
                strict=True,
            )
        ],
        "pairs": [
            {"a": a, "b": b, "distance_m": distance, "sigma_m": sigma}
            for a, b, distance, sigma in zip(
                pairs.a.tolist(),
                pairs.b.tolist(),
                _rounded(pairs.distance_m, 3),
                _rounded(pairs.sigma_m, 3),
                strict=True,
            )
        ],
    }
    if model is not None:
        rest["model"] = {"name": model.name, "version": model.version, "sha256": model.sha256}
    if result.sensors:
        rest["sensors"] = {name: _sensor(value) for name, value in result.sensors.items()}
    if result.attributes:
        rest["attributes"] = [look_written(look) for look in result.attributes]
    if result.codes:
        rest["codes"] = [code_written(code) for code in result.codes]
    head = f'{{"camera":{json.dumps(frame.camera)},"frame":{frame.index},"t":{round(frame.t, 6)},"detections":['
    return f"{head}{_detections(result.detections)}],{json.dumps(rest, separators=(',', ':'))[1:]}"


_DETECTION = '{"box":[%.2f,%.2f,%.2f,%.2f],"score":%.4f,"label":%s}'


def _detections(found: Detections) -> str:
    """The list's inside. There are a hundred and more in a frame: formatting them costs half of what the JSON encoder takes."""
    labels = [json.dumps(label) for label in found.labels]
    rows = np.empty((len(found), 5))
    rows[:, :4], rows[:, 4] = found.boxes, found.scores
    return ",".join(
        [_DETECTION % (*row, labels[label]) for row, label in zip(rows.tolist(), found.classes.tolist(), strict=True)]
    )


def _sensor(sensor: SensorValue) -> dict[str, Any]:
    age_s = None if sensor.age_s is None else round(sensor.age_s, 3)
    return {"value": sensor.value, "unit": sensor.unit, "age_s": age_s, "quality": sensor.quality}


def _rounded(values: np.ndarray[Any, Any], digits: int) -> list[Any]:
    # Through float64: a float32 rounded to two digits still prints with eight.
    rounded: list[Any] = values.astype(np.float64).round(digits).tolist()
    return rounded


def _position(place: list[float], calibrated: bool) -> list[float] | None:
    return place if calibrated and place[0] == place[0] else None  # NaN differs from itself


@dataclass(frozen=True, slots=True)
class RecordedFrame:
    """One line read back."""

    camera: str
    index: int
    t: float
    detections: Detections
    sensors: Mapping[str, SensorValue]
    codes: Sequence[Code]
    attributes: Sequence[Look]
    position: int
    """Bytes of the file up to its end, for progress."""


def read_record(path: Path, labels: tuple[str, ...] = ()) -> tuple[Header, Iterator[RecordedFrame]]:
    """Open a record. Labels are numbered as in ``labels``, unknown ones after those, in order of appearance.

    Raises UsageError that names file and line for anything that is not a record.
    """
    lines = _lines(path)
    try:
        first = next(lines)[2]
    except StopIteration:
        raise UsageError(f"{path}: empty, a record begins with a header line") from None
    try:
        if first["record"] != 1:
            raise UsageError(f"{path}:1: record format {first['record']!r}, this version reads format 1")
        header = Header(
            camera=str(first["camera"]),
            width=int(first["width"]),
            height=int(first["height"]),
            fps=float(first["fps"]),
            start=str(first["start"]),
            config_hash=str(first.get("config_hash", "")),
            model=str(first.get("model", "")),
        )
        if not (0 < header.width <= _MAX_SIDE and 0 < header.height <= _MAX_SIDE):
            raise ValueError(f"a picture of {header.width}x{header.height}")
        parse_rfc3339(header.start)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UsageError(
            f"{path}:1: no record header ({type(error).__name__}: {error}); was it made by `run --record`?"
        ) from error
    return header, _frames(path, lines, list(labels))


def _lines(path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    try:
        with path.open("rb") as file:
            number = position = 0
            while text := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(text) > MAX_LINE_BYTES:
                    raise UsageError(f"{path}:{number}: line longer than {MAX_LINE_BYTES} bytes")
                try:
                    value = json.loads(text)
                except (ValueError, RecursionError) as error:
                    if not text.endswith(b"\n"):
                        return  # a run that was killed leaves half a last line
                    raise UsageError(f"{path}:{number}: no JSON: {error}") from error
                if not isinstance(value, dict):
                    raise UsageError(f"{path}:{number}: a JSON object is expected, not {type(value).__name__}")
                position += len(text)
                yield number, position, value
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


def _frames(path: Path, lines: Iterator[tuple[int, int, dict[str, Any]]], labels: list[str]) -> Iterator[RecordedFrame]:
    last, model = float("-inf"), None
    for number, position, line in lines:
        try:
            if "model" in line:
                model = ModelTag(*(str(line["model"][key]) for key in ("name", "version", "sha256")))
            found = line["detections"]
            for item in found:
                if item["label"] not in labels:
                    labels.append(str(item["label"]))
            boxes = np.array([item["box"] for item in found], np.float64).reshape(-1, 4)
            scores = np.array([item["score"] for item in found], np.float64)
            if not ((np.abs(boxes) <= _MAX_PIXEL).all() and ((scores >= 0) & (scores <= 1)).all()):
                raise ValueError("a box or a score is out of its range")
            detections = Detections(
                boxes.astype(np.float32),
                scores.astype(np.float32),
                np.array([labels.index(item["label"]) for item in found], np.int32),
                tuple(labels),
                model,
            )
            sensors = {str(name): _sensor_read(value) for name, value in line.get("sensors", {}).items()}
            codes = [code_read(said) for said in line.get("codes", [])]
            looks = [look_read(said) for said in line.get("attributes", [])]
            frame = RecordedFrame(
                str(line["camera"]), int(line["frame"]), float(line["t"]), detections, sensors, codes, looks, position
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise UsageError(f"{path}:{number}: no frame line ({type(error).__name__}: {error})") from error
        if not last <= frame.t <= _MAX_T:
            raise UsageError(f"{path}:{number}: t is {frame.t}, after {last}: time cannot go back, nor on for ever")
        last = frame.t
        yield frame


def _sensor_read(said: dict[str, Any]) -> SensorValue:
    value, age_s, quality = said["value"], said["age_s"], said["quality"]
    if not isinstance(value, bool | None):
        value = float(value)
    if age_s is not None:
        age_s = float(age_s)
    if quality not in get_args(Quality) or not all(math.isfinite(number) for number in (value or 0, age_s or 0)):
        raise ValueError("a sensor's value, age or quality is none")
    return SensorValue(value, str(said["unit"]), age_s, quality)
