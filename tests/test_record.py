"""The record file: what is written is what is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_agent.config import Config
from edge_agent.errors import UsageError
from edge_agent.pipeline import FrameResult
from edge_agent.record import RecordWriter, read_record
from edge_agent.replay import Replay
from edge_agent.types import Detections, Frame, Ground, ModelTag, Pairs, SensorValue, Tracks


def result(index: int, **sensors: SensorValue) -> FrameResult:
    image = np.broadcast_to(np.uint8(0), (576, 768, 3))
    found = Detections(
        np.array([[1.234, 2, 3, 4], [5, 6, 7, 8.888]], np.float32),
        np.array([0.91234, 0.05], np.float32),
        np.array([0, 1], np.int32),
        ("person", "bag"),
    )
    tracks = Tracks(
        np.array([4, 9]), found.boxes, found.scores, np.zeros(2, np.int32), np.array([False, True]), found.labels
    )
    ground = Ground(np.array([[1.23456, -2], [np.nan, np.nan]]), np.zeros((2, 2, 2)), np.array([True, False]), True)
    pairs = Pairs(np.array([4]), np.array([9]), np.array([1.5]), np.array([0.125]))
    return FrameResult(Frame("hall", index, index / 7, 1000 + index / 7, image), found, tracks, ground, pairs, sensors)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "out.jsonl"
    writer = RecordWriter(path, fps=7.0, config_hash="abc", model="m@1")
    for i in range(3):
        writer.write(result(i))
    writer.close()
    return path


def test_lines_are_as_the_contract_says(record: Path) -> None:
    header, first, *rest = [json.loads(line) for line in record.read_text().splitlines()]
    assert header == {
        "record": 1,
        "camera": "hall",
        "width": 768,
        "height": 576,
        "fps": 7.0,
        "start": "1970-01-01T00:16:40.000Z",
        "config_hash": "abc",
        "model": "m@1",
    }
    assert first == {
        "camera": "hall",
        "frame": 0,
        "t": 0.0,
        "detections": [
            {"box": [1.23, 2.0, 3.0, 4.0], "score": 0.9123, "label": "person"},
            {"box": [5.0, 6.0, 7.0, 8.89], "score": 0.05, "label": "bag"},
        ],
        "tracks": [
            {"id": 4, "box": [1.23, 2.0, 3.0, 4.0], "label": "person", "ground": [1.235, -2.0], "estimated": True},
            {"id": 9, "box": [5.0, 6.0, 7.0, 8.89], "label": "person", "ground": None, "predicted": True},
        ],
        "pairs": [{"a": 4, "b": 9, "distance_m": 1.5, "sigma_m": 0.125}],
    }
    assert [line["frame"] for line in rest] == [1, 2]


def test_it_is_read_back(record: Path) -> None:
    header, frames = read_record(record, ("person",))
    lines = list(frames)
    assert (header.camera, header.width, header.fps, header.model) == ("hall", 768, 7.0, "m@1")
    assert [line.t for line in lines] == pytest.approx([0, 1 / 7, 2 / 7], abs=1e-6)
    assert lines[0].detections.labels == ("person", "bag")
    assert lines[0].detections.classes.tolist() == [0, 1]
    assert lines[0].detections.boxes[1].tolist() == pytest.approx([5, 6, 7, 8.89])


SENSORS = {
    "door": SensorValue(True, "", 0.125),
    "hall": SensorValue(21.5, "°C", 3.0),
    "gone": SensorValue(7.0, "bar", 99.5, "stale"),
    "never": SensorValue(None, "", None, "failed"),
}


def test_sensors_are_in_it_and_a_replay_has_them_again(tmp_path: Path) -> None:
    path, again = tmp_path / "out.jsonl", tmp_path / "again.jsonl"
    writer = RecordWriter(path, fps=7.0, config_hash="abc", model="m@1")
    writer.write(result(0, hall=SensorValue(21.5, "°C", 3.0004, reason="said by no record")))
    writer.write(result(1))
    writer.write(result(2, **SENSORS))
    writer.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[1]["sensors"] == {"hall": {"value": 21.5, "unit": "°C", "age_s": 3.0, "quality": "good"}}
    assert "sensors" not in lines[2], "a box without sensors writes none"
    assert [frame.sensors for frame in read_record(path)[1]] == [{"hall": SENSORS["hall"]}, {}, SENSORS]
    replay = Replay(path, Config.model_validate({"cameras": [{"id": "hall", "source": "0"}]}), lambda _: None)
    writer = RecordWriter(again, fps=7.0, config_hash="abc", model="m@1")
    replay.on_result = writer.write
    assert len(list(replay)) == 3
    writer.close()
    assert [frame.sensors for frame in read_record(again)[1]] == [{"hall": SENSORS["hall"]}, {}, SENSORS]


def test_half_a_last_line_is_what_a_killed_run_leaves(record: Path) -> None:
    record.write_text(record.read_text()[:-40])
    assert len(list(read_record(record)[1])) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("[1]\n", ":1: a JSON object is expected"),
        ('{"record": 2}\n', "format 2"),
        ('{"frame": 1}\n', ":1: no record header"),
        ("nonsense\nmore\n", ":1: no JSON"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        list(read_record(path)[1])


def test_faults_in_the_middle_name_their_line(record: Path) -> None:
    lines = record.read_text().splitlines()
    for broken in ('{"camera":"a"}', '{"t":', lines[1]):  # keys missing, no JSON, time running back
        record.write_text("\n".join([*lines, broken, lines[2], ""]))
        with pytest.raises(UsageError, match=r"out\.jsonl:5: "):
            list(read_record(record)[1])


SENSOR = {"value": 1, "unit": "", "age_s": 0, "quality": "good"}
BOX = {"box": [0, 0, 10, 20], "score": 0.9, "label": "person"}


@pytest.mark.parametrize(
    ("line", "change"),
    [
        (1, {"width": 0}),
        (1, {"height": -1}),
        (1, {"width": 1e999}),
        (1, {"width": 10**30}),
        (1, {"start": "yesterday"}),
        (2, {"frame": 1e999}),
        (2, {"t": float("nan")}),
        (2, {"t": 1e300}),
        (2, {"detections": [BOX | {"box": [0, 0, float("nan"), 20]}]}),
        (2, {"detections": [BOX | {"box": [0, 0, 1e300, 20]}]}),
        (2, {"detections": [BOX | {"box": [0, 0, 1]}]}),
        (2, {"detections": [BOX | {"score": float("nan")}]}),
        (2, {"detections": [BOX | {"score": 7}]}),
        (2, {"detections": [BOX | {"label": ["person"]}]}),
        (2, {"detections": 5}),
        (2, {"sensors": [1]}),
        (2, {"sensors": {"a": 1}}),
        (2, {"sensors": {"a": {"value": 1, "unit": "", "age_s": 0}}}),
        (2, {"sensors": {"a": SENSOR | {"value": "wet"}}}),
        (2, {"sensors": {"a": SENSOR | {"value": float("nan")}}}),
        (2, {"sensors": {"a": SENSOR | {"age_s": float("inf")}}}),
        (2, {"sensors": {"a": SENSOR | {"quality": "splendid"}}}),
        (2, {"sensors": {"a": SENSOR | {"quality": ["good"]}}}),
    ],
)
def test_values_that_cannot_be_are_refused(record: Path, line: int, change: dict[str, object]) -> None:
    lines = record.read_text().splitlines()
    lines[line - 1] = json.dumps(json.loads(lines[line - 1]) | change)
    record.write_text("\n".join(lines))
    with pytest.raises(UsageError, match=rf"out\.jsonl:{line}: "):
        list(read_record(record)[1])


def test_a_missing_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        RecordWriter(tmp_path / "no" / "x.jsonl", fps=1, config_hash="", model="")
    with pytest.raises(UsageError, match="No such file"):
        read_record(tmp_path / "none.jsonl")


def test_a_model_that_takes_over_is_named_where_it_begins_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    writer = RecordWriter(path, fps=7.0, config_hash="abc", model="m@1")
    old, new = ModelTag("m", "1", "a" * 64), ModelTag("m", "2", "b" * 64)
    for i, tag in enumerate((old, old, new, new)):
        frame = result(i)
        writer.write(replace(frame, detections=replace(frame.detections, model=tag)))
    writer.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    assert [line.get("model", {}).get("version") for line in lines] == ["1", None, "2", None]
    assert [frame.detections.model for frame in read_record(path)[1]] == [old, old, new, new]
