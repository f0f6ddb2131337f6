"""From messages to points: few series, one type for each field, everything bounded, each time the same."""

from __future__ import annotations

import json
import re
from typing import Any

import influxdb_client
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.outbox.ledger import Losses
from edge_agent.outbox.messages import ROW_BITS, Priority, Row, draft
from edge_agent.sinks.influxdb_points import MAX_FIELDS, MAX_NAME, MAX_TEXT, Point, Unfit, points
from edge_agent.types import DEVICE, Event, Heartbeat, Metric, Stored, Telemetry
from tests.contract import SYNTHETIC
from tests.outbox_fixtures import UTC, make_event, make_metric, new_id

TAGS = {"site": "mill", "device": "box-7"}


def stored(item: Stored, number: int = 1) -> Row:
    """As the outbox has it."""
    made = draft(item, site="mill", device="box-7", boot_id="b")
    sequence = number if made.event is not None else None
    return Row((made.priority << ROW_BITS) + number, sequence, made.topic, made.payload(sequence, True))


def only(item: Stored, number: int = 1) -> Point:
    (point,) = points(stored(item, number), TAGS)
    return point


def telemetry(values: dict[str, Any], topic: str = "telemetry/boiler") -> Row:
    doc = values | {"time": "2026-01-31T12:00:00.250Z"}
    return Row((2 << ROW_BITS) + 5, None, topic, json.dumps(doc).encode())


def test_an_event() -> None:
    event = make_event(
        3, "started", "episode-1", distance_m=1, calibrated=True, zone="till", pairs=[{"a": 1}], ended=None
    )
    point = only(event, 42)
    assert point["measurement"] == "edge_event_synthetic"
    assert point["tags"] == TAGS | {
        "camera": "door",
        "use_case": SYNTHETIC,
        "what": "thing",
        "phase": "started",
    }
    assert point["fields"] == {
        "n": 3.0,
        "distance_m": 1.0,
        "calibrated": True,
        "zone": "till",
        "id": event.id,
        "episode": "episode-1",
        "sequence": 42,
        "clockok": True,
    }
    assert all(type(value) is float for name, value in point["fields"].items() if name in {"n", "distance_m"})
    assert point["time"] // 1_000_000 == (UTC + 3) * 1000


def test_an_event_about_the_box_is_one_of_the_camera_that_it_names() -> None:
    data = {"camera": "till-2", "state": "reconnecting", "previous": "delivering", "reason": ""}
    ident = new_id(UTC)
    point = only(Event(ident, DEVICE, "device", "camera_state", None, ident, UTC, data))
    assert point["tags"] == TAGS | {"camera": "till-2", "use_case": "device", "what": "camera_state"}
    assert "camera" not in point["fields"] and point["fields"]["state"] == "reconnecting"
    lost = Losses()
    lost.add(Priority.EVENT, "max_mb", 3)
    report = {**lost.data(), "sink": "mqtt"}
    about_none = only(Event(ident, DEVICE, "device", "outbox_drops", None, ident, UTC, report))
    assert about_none["tags"]["camera"] == DEVICE and about_none["fields"]["reasons_max_mb"] == 3.0


def test_a_metric() -> None:
    point = only(Metric("door", SYNTHETIC, UTC, 60.0, 58.5, {"people": {"mean": 1, "max": 3}, "violations": 2}))
    assert point["measurement"] == "edge_metric_synthetic"
    assert point["tags"] == TAGS | {"camera": "door", "use_case": SYNTHETIC}
    assert point["fields"] == {
        "people_mean": 1.0,
        "people_max": 3.0,
        "violations": 2.0,
        "interval_s": 60.0,
        "observed_s": 58.5,
    }


def test_a_sensor() -> None:
    point = only(Telemetry("boiler", UTC, 71, "°C", "good"))
    assert point["measurement"] == "edge_telemetry_boiler"
    assert point["tags"] == TAGS | {"sensor": "boiler"}
    assert point["fields"] == {"value": 71.0, "unit": "°C", "quality": "good"}
    assert only(Telemetry("door", UTC, True, "", "good"))["fields"]["value"] is True
    assert "value" not in only(Telemetry("boiler", UTC, None, "°C", "good"))["fields"]


def test_a_heartbeat_and_its_cameras() -> None:
    beat = {
        "time": "2026-01-31T12:00:00.250Z",
        "sequence": 7,
        "version": "1.0",
        "cameras": [{"id": "gate", "state": "delivering", "fps": 7}, {"id": "yard", "state": "stalled"}],
        "outbox": {"depth": 3},
        "model": None,
    }
    whole, gate, yard = points(stored(Heartbeat(beat)), TAGS)
    assert whole["measurement"] == "edge_heartbeat" and whole["tags"] == TAGS
    assert whole["fields"] == {"sequence": 7, "version": "1.0", "outbox_depth": 3.0}
    assert {gate["measurement"], yard["measurement"]} == {"edge_heartbeat_camera"}
    assert gate["tags"] == TAGS | {"camera": "gate"} and gate["fields"] == {"state": "delivering", "fps": 7.0}
    assert yard["fields"] == {"state": "stalled"}


def test_two_messages_of_one_series_in_one_millisecond_are_two_points_and_each_time_the_same_two() -> None:
    first, second = make_event(1, "started"), make_event(1, "started")
    assert only(first, 1)["time"] != only(second, 2)["time"]
    assert only(first, 1) == only(first, 1)
    minute = make_metric(1)  # told twice where the agent was started anew within a minute
    assert only(minute, 3)["time"] != only(minute, 4)["time"]


def test_names_need_no_escape_and_collide_with_nothing_of_influxdbs_own() -> None:
    data = {"zone/till": 1, "a b,c=d\n": 2, "time": 3, "_field": 4, "camera": 5, "Grüße": 6, "x" * 500: 7, "": 8}
    point = only(Metric("door", SYNTHETIC, UTC, 60.0, 58.5, data))
    assert point["fields"] == {
        "interval_s": 60.0,
        "observed_s": 58.5,
        "zone_till": 1.0,
        "a_b_c_d_": 2.0,
        "value_time": 3.0,
        "field": 4.0,
        "Gr__e": 6.0,
        "x" * MAX_NAME: 7.0,
        "value_": 8.0,
    }


def test_text_is_cut_and_on_one_line() -> None:
    (point,) = points(telemetry({"note": 'say "hi"\n\x00\\' + "x" * 1000}), TAGS)
    note = point["fields"]["note"]
    assert note.startswith('say "hi"  \\x') and len(note) == MAX_TEXT


def test_depth_and_number_of_fields_are_bounded() -> None:
    deep: Any = 1
    for _ in range(50):
        deep = {"in": deep}
    (point,) = points(telemetry({"deep": deep, "three": {"two": {"one": 1}}, **{f"f{n}": n for n in range(500)}}), TAGS)
    assert len(point["fields"]) == MAX_FIELDS
    assert point["fields"]["three_two_one"] == 1.0 and not any(name.startswith("deep") for name in point["fields"])


def test_what_cannot_be_a_tag_is_none() -> None:
    beat = {"time": "2026-01-31T12:00:00Z", "sequence": 0, "cameras": [{"id": "free text, with = signs", "fps": 1.0}]}
    assert points(stored(Heartbeat(beat)), TAGS)[1]["tags"] == TAGS


def test_what_holds_nothing_to_be_drawn_makes_no_point() -> None:
    assert points(telemetry({"list": [1, 2, 3], "nothing": None, "huge": 10**400}), TAGS) == []


@pytest.mark.parametrize(
    "row",
    [
        Row(1, 1, "events/door/x", b"{not json"),
        Row(1, 1, "events/door/x", b"\xff\xfe"),
        Row(1, 1, "events/door/x", b"[" * 100_000),
        Row(1, 1, "events/door/x", b"[]"),
        Row(1, 1, "events/door/x", b"{}"),
        Row(1, 1, "events/door", json.dumps({"time": "2026-01-31T12:00:00Z"}).encode()),
        Row(1, 1, "something/else", json.dumps({"time": "2026-01-31T12:00:00Z"}).encode()),
        Row(1, 1, "heartbeat", json.dumps({"time": "2026-01-31T12:00:00", "sequence": 1}).encode()),
        Row(1, 1, "heartbeat", json.dumps({"time": 5, "sequence": 1}).encode()),
        Row(1, 1, "heartbeat", json.dumps({"time": "2026-01-31T12:00:00Z", "sequence": 1, "cameras": [3]}).encode()),
        telemetry({}, "telemetry/a/b"),
        Row(1, 1, "telemetry/boiler", b"3"),
    ],
)
def test_a_message_read_back_from_a_damaged_file_is_told_from_a_good_one(row: Row) -> None:
    with pytest.raises(Unfit, match="not a message that InfluxDB can have"):
        points(row, TAGS)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


NAME = "[A-Za-z0-9][A-Za-z0-9_]*"
VALUE = r'([-+0-9.e]+i?|true|false|"([^"\\\n]|\\["\\])*")'
LINE = re.compile(f"{NAME}(,{NAME}=[A-Za-z0-9._-]+)* {NAME}={VALUE}(,{NAME}={VALUE})* [0-9]+", re.IGNORECASE)
"""Line protocol without escapes but in text."""


@given(st.dictionaries(st.text(), values, max_size=20))
def test_whatever_a_sensor_says_becomes_one_good_line_or_none(values: dict[str, Any]) -> None:
    for point in points(telemetry(values), TAGS):
        assert LINE.fullmatch(influxdb_client.Point.from_dict(point, write_precision="ns").to_line_protocol())
