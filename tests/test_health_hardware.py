"""Trees of sysfs made after real boxes: which files there are, what they are called and in which unit."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.health.hardware import EVERY_S, HardwareProbe, hottest
from edge_agent.health.status import HardwareStatus
from tests.capture_helpers import CountingBeat
from tests.mosquitto import wait_for
from tests.sensor_fixtures import Clock
from tests.sysfs_trees import AGX_ORIN, NUC, ORIN_NX, RASPBERRY_PI_5, RYZEN, write_tree


class Box:
    """A tree, looked at every five seconds; ``then`` changes files first."""

    def __init__(self, root: Path, tree: Mapping[str, str]) -> None:
        self._root, self._clock = root, Clock()
        write_tree(root, tree)
        self.probe = HardwareProbe(root, self._clock)
        self.probe.look()

    def then(self, **files: str) -> HardwareStatus:
        self._clock.now += EVERY_S
        for name, text in files.items():
            write_tree(self._root, {FILES[name]: text})
        return self.probe.look()


THROTTLE = "sys/devices/system/cpu/cpu0/thermal_throttle/"
FILES = {
    "alarm": "sys/class/hwmon/hwmon2/in0_lcrit_alarm",
    "bits": "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled",
    "core": THROTTLE + "core_throttle_count",
    "package": THROTTLE + "package_throttle_count",
    "fan": "sys/class/thermal/cooling_device0/cur_state",
    "alert": "sys/class/thermal/cooling_device1/cur_state",
    "over_current": "sys/class/hwmon/hwmon2/oc3_event_cnt",
}


def test_an_orin_nx(tmp_path: Path) -> None:
    box = Box(tmp_path, ORIN_NX)
    seen = box.then()
    assert (seen.temperature_c, seen.hottest) == (51.25, "tj-thermal"), "neither the PMIC nor the GPU that sleeps"
    assert seen.power_w == {"VDD_IN": 7.06, "VDD_CPU_GPU_CV": 1.01, "VDD_SOC": 2.02}
    assert seen.input_w == 7.06
    assert (seen.throttled, seen.throttled_s) == ((), 0.0)
    assert box.then(fan="3").throttled == (), "a fan that turns is no throttling"
    assert box.then(alert="1").throttled == ("temperature",)
    assert box.then(over_current="12").throttled == ("power", "temperature")
    over = box.then(alert="0")
    assert (over.throttled, over.throttled_s) == ((), 10.0)


def test_an_agx_orin_has_rails_but_no_total(tmp_path: Path) -> None:
    seen = Box(tmp_path, AGX_ORIN).then()
    assert seen.power_w == {"VDD_GPU_SOC": 6.07, "VDD_CPU_CV": 3.27, "VIN_SYS_5V0": 4.74, "VDDQ_VDD2_1V8AO": 0.4}
    assert seen.input_w is None


@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        ("0", ()),
        ("50005", ("voltage",)),  # throttled, because of the voltage
        ("10000", ("voltage",)),  # since the kernel last asked
        ("4", ("temperature",)),  # throttled, and the voltage is right
        ("e0008", ("temperature",)),
        ("80001", ("temperature", "voltage")),
        ("nonsense", ()),
        ("-1", ()),
        ("", ()),
    ],
)
def test_the_bits_of_a_raspberry_pi(tmp_path: Path, bits: str, reasons: tuple[str, ...]) -> None:
    seen = Box(tmp_path, RASPBERRY_PI_5).then(bits=bits)
    assert seen.throttled == reasons
    assert (seen.temperature_c, seen.hottest, seen.power_w) == (56.75, "cpu-thermal", {})


def test_too_little_voltage_is_known_without_the_firmwares_file(tmp_path: Path) -> None:
    box = Box(tmp_path, {path: text for path, text in RASPBERRY_PI_5.items() if "firmware" not in path})
    assert box.then().throttled == ()
    assert box.then(alarm="1").throttled == ("voltage",)


def test_a_nuc_is_throttled_while_its_counters_grow(tmp_path: Path) -> None:
    box = Box(tmp_path, NUC)
    calm = box.then()
    assert calm.throttled == (), "what happened before the start is no news"
    assert (calm.temperature_c, calm.hottest) == (62.0, "x86_pkg_temp")
    assert box.then(core="5").throttled == ("temperature",)
    assert box.then().throttled == ()
    seen = box.then(package="900")
    assert (seen.throttled, seen.throttled_s) == (("temperature",), 10.0)


def test_a_cpu_whose_zone_says_nothing_is_asked_itself(tmp_path: Path) -> None:
    seen = Box(tmp_path, RYZEN).then()
    assert (seen.temperature_c, seen.hottest) == (71.5, "Tctl")
    assert (seen.throttled, seen.throttled_s) == (None, None), "it does not tell, which is not the same as no"


def test_a_box_that_tells_nothing(tmp_path: Path) -> None:
    assert Box(tmp_path, {}).then() == HardwareStatus()
    assert hottest(tmp_path) == (None, "")


def test_this_machine() -> None:
    seen = HardwareProbe().look()
    assert seen.temperature_c is None or -40 < seen.temperature_c < 150


@pytest.fixture(scope="module")
def every_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("box"), {**ORIN_NX, **NUC, **RASPBERRY_PI_5})


@given(name=st.binary(max_size=40), value=st.binary(max_size=40))
def test_whatever_the_files_hold(every_tree: Path, name: bytes, value: bytes) -> None:
    for file in every_tree.rglob("*"):
        if file.is_file():
            file.write_bytes(name if file.name in {"name", "type", "in1_label"} else value)
    HardwareProbe(every_tree).look()


def test_a_sensor_that_hangs_leaves_nothing_known_and_comes_back(tmp_path: Path) -> None:
    write_tree(tmp_path, NUC)
    pipe = tmp_path / "sys/class/thermal/thermal_zone0/temp"
    clock, stop, beat = Clock(), threading.Event(), CountingBeat()
    probe = HardwareProbe(tmp_path, clock)
    probe.look()
    pipe.unlink()
    os.mkfifo(pipe)
    thread = threading.Thread(target=probe.run, args=(beat, stop), daemon=True)
    thread.start()
    wait_for(lambda: beat.begun > beat.ended)
    clock.now = 3600.0
    assert probe.latest == HardwareStatus(), "an old value is not shown for a new one"
    with pipe.open("w") as writer:  # returns once it is read
        writer.write("40000\n")
    wait_for(lambda: probe.latest.hottest == "x86_pkg_temp")
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
