"""What a sensor says becomes a value, and what becomes of it when it says nothing more."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.errors import SensorError
from edge_agent.outbox.messages import draft
from edge_agent.sensors.sensors import Sensors
from edge_agent.sensors.sources import read, unit_of
from edge_agent.sensors.values import MAX_MESSAGE, from_message, from_text
from edge_agent.types import SensorValue, Telemetry
from tests.capture_helpers import CountingBeat
from tests.mosquitto import wait_for
from tests.outbox_fixtures import UTC
from tests.sensor_fixtures import Clock, make_sensors, said, sensor_config
from tests.sysfs_trees import AGX_ORIN, IIO, NUC, RYZEN, write_tree


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Ryzen with an AGX Orin's power chips and a bus full of sensors."""
    return write_tree(tmp_path_factory.mktemp("box"), {**RYZEN, **AGX_ORIN, **IIO})


# ---- what a text or a message says


@pytest.mark.parametrize(
    ("text", "value"),
    [("23450\n", 23450.0), ("-1.5e-3", -0.0015), (" .5 ", 0.5), ("ON", True), ("false", False), ("0", 0.0), ("1", 1.0)],
)
def test_a_text(text: str, value: Any) -> None:
    found = from_text(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text", ["", "nan", "inf", "1_000", "0x10", "23 °C", "٣", "yes", "1" * 65, "1 2", "--1"])
def test_what_is_no_value(text: str) -> None:
    with pytest.raises(SensorError, match="is no number"):
        from_text(text)


DOOR = {"contact": False, "ENERGY": {"Power": 12.5, "Total": [1, {"kWh": "7.25"}]}, "a/b": {"~": 3}, "state": "OFF"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("contact", False),
        ("ENERGY.Power", 12.5),
        ("ENERGY.Total.1.kWh", 7.25),
        ("/ENERGY/Total/0", 1.0),
        ("/a~1b/~0", 3.0),
        ("state", False),
    ],
)
def test_a_place_in_a_message(key: str, value: Any) -> None:
    found = from_message(json.dumps(DOOR).encode(), key)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("payload", "key", "says"),
    [
        (b"{}", "contact", "no 'contact' in the message"),
        (b'{"a": [1]}', "a.1", "no 'a.1'"),
        (b'{"a": [1]}', "a.-1", "no 'a.-1'"),
        (b'{"a": {}}', "a", "a list or an object"),
        (b'{"a": null}', "a", "but null"),
        (b'{"a": "wet"}', "a", "'wet' is no number"),
        (b'{"a": ' + b"9" * 400 + b"}", "a", "out of all range"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a", "no JSON"),
        (b"[" * 30_000, "a", "no JSON"),
        (b"\xff", "a", "no UTF-8"),
        (b"\xff", None, "no UTF-8"),
        (b" " * (MAX_MESSAGE + 1), None, "65537 bytes"),
        (b"1", "a", "no 'a'"),
    ],
)
def test_a_message_without_a_value_says_why(payload: bytes, key: str | None, says: str) -> None:
    with pytest.raises(SensorError, match=says) as caught:
        from_message(payload, key)
    assert len(str(caught.value)) < 200 and str(caught.value).isprintable()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "0", ""]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    payload=st.binary(max_size=200) | JSON.map(lambda doc: json.dumps(doc).encode()),
    key=st.none() | st.text("ab0./~", min_size=1),
)
def test_any_message_is_a_value_or_refused(payload: bytes, key: str | None) -> None:
    try:
        found = from_message(payload, key)
    except SensorError as error:
        assert str(error)
    else:
        assert isinstance(found, bool | float)


@given(payload=st.binary(max_size=200) | JSON.map(lambda doc: json.dumps(doc).encode()))
def test_no_message_reaches_anybody_unless_it_can_be_told(payload: bytes) -> None:
    sensors = make_sensors(sensor_config(mqtt={"topic": "t", "key": "a"}, scale=1e300))
    sensors.subscriptions["t"](payload)
    for output in sensors.look():
        assert isinstance(output, Telemetry)
        json.loads(draft(output, site="s", device="d", boot_id="b").payload(None, True))


# ---- files


@pytest.mark.parametrize(
    ("source", "value", "unit"),
    [
        ({"hwmon": {"chip": "k10temp", "input": "temp1"}}, 71.5, "°C"),
        ({"hwmon": {"chip": "nct6798", "input": "fan1"}}, 1204.0, "rpm"),
        ({"hwmon": {"chip": "nct6798", "input": "in0"}}, 1.016, "V"),
        ({"hwmon": {"chip": "ina3221", "input": "curr2", "device": "1-0041"}}, 0.08, "A"),
        ({"hwmon": {"chip": "ina3221", "input": "curr2", "device": "1-0040"}}, 0.272, "A"),
        ({"iio": {"name": "bme280", "channel": "temp"}}, 23.45, "°C"),
        ({"iio": {"name": "bme280", "channel": "humidityrelative"}}, 45.123, "%"),
        ({"iio": {"name": "bme280", "channel": "pressure"}}, 101.32525, "kPa"),
        ({"iio": {"name": "hdc100x", "channel": "temp"}}, 20.4247, "°C"),  # (24000 - 15887.5) × 2.5177
        ({"iio": {"name": "ads1015", "channel": "voltage0", "device": "1-0048"}}, 2.0, "V"),
        ({"iio": {"name": "ads1015", "channel": "voltage0", "device": "1-0049"}}, 1.5, "V"),  # one scale for all
        ({"iio": {"name": "ads1015", "channel": "voltage1", "device": "1-0048"}}, 0.009, "V"),  # no scale: it is done
        ({"iio": {"name": "vcnl4000", "channel": "illuminance"}}, 25.0, "lx"),
        ({"iio": {"name": "vcnl4000", "channel": "proximity"}, "unit": "steps"}, 2211.0, "steps"),
    ],
)
def test_chips_by_their_name(box: Path, source: dict[str, Any], value: float, unit: str) -> None:
    config = sensor_config(**source)
    assert read(config, box) == pytest.approx(value, rel=1e-4)
    assert unit_of(config) == unit


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"hwmon": {"chip": "it87", "input": "temp1"}}, "no it87 in .*sys/class/hwmon"),
        (
            {"hwmon": {"chip": "ina3221", "input": "curr1"}},
            "several are named ina3221: say by `device` which: .*1-0040/",
        ),
        ({"hwmon": {"chip": "ina3221", "input": "curr1", "device": "1-0077"}}, "no ina3221 at 1-0077, but .*1-0040"),
        ({"hwmon": {"chip": "nct6798", "input": "temp9"}}, "temp9_input: No such file"),
        ({"iio": {"name": "bme280", "channel": "voltage3"}}, "in_voltage3_raw: No such file"),
        ({"file": "/proc/self/mem"}, "Input/output error"),
        ({"file": "/dev/zero"}, "longer than 4096 bytes"),
        ({"file": "/proc"}, "Is a directory"),
        ({"file": "/proc/version"}, "is no number"),
    ],
)
def test_a_sensor_that_cannot_be_read_says_why(box: Path, source: dict[str, Any], says: str) -> None:
    with pytest.raises(SensorError, match=says):
        read(sensor_config(**source), box)


def test_a_chip_is_found_again_under_another_number(tmp_path: Path) -> None:
    config = sensor_config(hwmon={"chip": "coretemp", "input": "temp1"})
    folder = write_tree(tmp_path, NUC) / "sys/class/hwmon"
    assert read(config, tmp_path) == 61.0
    (folder / "hwmon3").rename(folder / "hwmon0")
    assert read(config, tmp_path) == 61.0


# ---- what is told


QUALITIES = ("good", "stale", "failed")


class Watched:
    """One MQTT sensor, whose clock and messages are the test's."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        config = sensor_config(**{"mqtt": {"topic": "t"}, "every_s": 1, "stale_after_s": 30, "report_s": 60, **options})
        self.sensors = make_sensors(config, clock=self.clock)

    def at(self, seconds: float, payload: bytes | None = None) -> list[Any]:
        self.clock.now = seconds
        if payload is not None:
            self.sensors.subscriptions["t"](payload)
        return said(self.sensors.look())

    @property
    def latest(self) -> SensorValue | None:
        return self.sensors.latest().get("door")


def test_a_value_is_told_when_it_changes_and_now_and_then() -> None:
    sensor = Watched(min_change=0.5)
    assert sensor.at(0, b"20") == [(20.0, "good")]
    assert sensor.at(5, b"20.5") == [], "by no more than min_change"
    assert sensor.at(10, b"20.6") == [(20.6, "good")]
    assert sensor.at(35, b"20.6") == []
    assert sensor.at(60, b"20.4") == []
    assert sensor.at(70) == [(20.4, "good")], "report_s is over"
    assert sensor.at(70.5, b"30") == []
    assert sensor.at(71) == [(30.0, "good")], "not before every_s"


def test_a_contact_is_told_at_each_change() -> None:
    sensor = Watched(min_change=5)
    told = [sensor.at(n, payload) for n, payload in enumerate((b"true", b"true", b"false", b"on"))]
    assert told == [[(True, "good")], [], [(False, "good")], [(True, "good")]]


def test_a_number_is_scaled_and_must_be_plausible() -> None:
    sensor = Watched(scale=0.1, offset=-40, min=-40, max=85, unit="°C")
    assert sensor.at(0, b"634") == [(23.4, "good")]
    assert sensor.at(1, b"9999") == []
    assert sensor.latest == SensorValue(23.4, "°C", 1.0), "the last good one is still young"
    assert sensor.at(31) == [(None, "failed"), ("failed", "good")]
    assert sensor.latest == SensorValue(23.4, "°C", 31.0, "failed", "959.9 °C is outside of min and max")


def test_silence_is_told_once_and_its_end_too() -> None:
    sensor = Watched()
    assert sensor.at(0, b"1") == [(1.0, "good")]
    assert sensor.at(30) == []
    assert sensor.at(30.1) == [(None, "stale"), ("stale", "good")]
    assert sensor.at(500) == [], "it is said once"
    assert sensor.latest == SensorValue(1.0, "", 500.0, "stale", "nothing came for 30 s")
    assert sensor.at(501, b"wet") == [(None, "failed"), ("failed", "stale")], "it speaks, but says nothing"
    assert sensor.at(502, b"wet") == []
    assert sensor.at(503, b"1") == [(1.0, "good"), ("good", "failed")]


def test_one_that_never_speaks_is_told_after_its_time() -> None:
    sensor = Watched()
    assert (sensor.at(30), sensor.sensors.latest()) == ([], {})
    assert sensor.at(31) == [(None, "stale"), ("stale", "starting")]
    assert sensor.latest == SensorValue(None, "", None, "stale", "nothing came for 30 s")
    other = Watched()
    other.at(1, b"")
    assert other.at(31) == [(None, "failed"), ("failed", "starting")]


def test_one_that_fails_now_and_then_is_no_news() -> None:
    sensor = Watched(report_s=3600)
    told = [sensor.at(n, b"5" if n % 20 == 0 else b"error") for n in range(200)]
    assert told == [[(5.0, "good")], *[[]] * 199]


@given(st.lists(st.tuples(st.floats(0, 100), st.none() | st.sampled_from([b"1", b"2", b"true", b"x"])), max_size=30))
def test_whatever_happens_the_last_word_is_how_it_is(steps: list[tuple[float, bytes | None]]) -> None:
    sensor, now, words = Watched(), 0.0, list[Any]()
    for pause, payload in steps:
        now += pause
        words += [told for told in sensor.at(now, payload) if told[1] != "starting" and told[0] not in QUALITIES]
    assert all((value is None) == (quality != "good") for value, quality in words)
    latest = sensor.latest
    assert [quality for _, quality in words[-1:]] == ([] if latest is None else [latest.quality])


def test_two_sensors_in_one_message_and_none_at_all() -> None:
    climate = make_sensors(
        sensor_config("warm", mqtt={"topic": "hall", "key": "t"}),
        sensor_config("wet", mqtt={"topic": "hall", "key": "h"}),
    )
    assert list(climate.subscriptions) == ["hall"]
    climate.subscriptions["hall"](b'{"t": 21, "h": 40}')
    assert {name: value.value for name, value in climate.latest().items()} == {"warm": 21.0, "wet": 40.0}
    assert (make_sensors().latest(), make_sensors().look()) == ({}, [])


def test_the_payload() -> None:
    made = draft(Telemetry("door", UTC, True, "", "good"), site="s", device="d", boot_id="b")
    assert made.topic == "telemetry/door"
    assert json.loads(made.payload(None, True)) == {
        "time": "2023-11-14T22:13:20.000Z",
        "value": True,
        "unit": "",
        "quality": "good",
    }


# ---- threads


@pytest.fixture
def reading() -> Any:
    """Runs the readers of sensors, each in its thread, and ends them."""
    stop, threads = threading.Event(), list[threading.Thread]()

    def start(sensors: Sensors) -> None:
        for reader in sensors.readers:
            thread = threading.Thread(target=reader.run, args=(CountingBeat(), stop), daemon=True)
            thread.start()
            threads.append(thread)

    yield start
    stop.set()
    for thread in threads:
        thread.join(5)


def test_a_read_that_hangs_holds_up_nobody_else(tmp_path: Path, reading: Callable[[Sensors], None]) -> None:
    clock = Clock()
    pipe, file = tmp_path / "hangs", tmp_path / "works"
    os.mkfifo(pipe)
    file.write_text("1")
    sensors = make_sensors(
        sensor_config("hangs", file=pipe, every_s=0.1),
        sensor_config("works", file=file, every_s=0.1),
        clock=clock,
    )
    reading(sensors)
    wait_for(lambda: "works" in sensors.latest())
    clock.now = 100.0
    wait_for(lambda: sensors.latest()["works"].quality == "good")
    assert sensors.latest()["hangs"] == SensorValue(None, "", None, "stale", "nothing came for 5 s")
    with pipe.open("w") as writer:  # returns once somebody reads
        writer.write("7")
    wait_for(lambda: sensors.latest()["hangs"].quality == "good")
    assert sensors.latest()["hangs"].value == 7.0
    with pipe.open("w"):  # so that its thread can end
        pass


def test_a_file_that_goes_and_comes_back(tmp_path: Path, reading: Callable[[Sensors], None]) -> None:
    clock, file = Clock(), tmp_path / "temp"
    file.write_text("21500\n")
    sensors = make_sensors(sensor_config("hall", file=file, every_s=0.1, scale=0.001, unit="°C"), clock=clock)
    reading(sensors)
    wait_for(lambda: sensors.latest().get("hall") == SensorValue(21.5, "°C", 0.0))
    file.unlink()
    clock.now = 60.0
    wait_for(lambda: sensors.latest()["hall"].quality == "failed")
    assert sensors.latest()["hall"].reason == f"{file}: No such file or directory"
    file.write_text("22000\n")
    wait_for(lambda: sensors.latest()["hall"] == SensorValue(22.0, "°C", 0.0))
