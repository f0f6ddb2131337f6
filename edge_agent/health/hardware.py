"""Heat, throttling and power of the box, from sysfs.

Where it stands: thermal zones and cooling devices, Documentation/driver-api/thermal/sysfs-api.rst of the kernel; counters of
Intel CPUs, admin-guide/thermal/intel_thermal_throttle.rst; hwmon/ina3221.rst and NVIDIA's Jetson Linux Developer Guide
(power rails, ``oc*_event_cnt``); Raspberry Pi, drivers/firmware/raspberrypi.c and drivers/hwmon/raspberrypi-hwmon.c of its
kernel. Nothing here needs a privilege. What cannot be read is left out.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from edge_agent import sysfs
from edge_agent.health.status import HardwareStatus, Throttling
from edge_agent.types import Beat

Chip: TypeAlias = tuple[str, Path]
EVERY_S = 5.0
DEADLINE_S = 30.0
"""Of one look; a sensor behind a bus that hangs holds it up."""
_CPU_CHIPS = {"coretemp", "k10temp"}
"""Where a CPU has no thermal zone that says the truth (AMD). Other chips are left alone: asking wakes a sleeping disk."""
_COOLED_BY_SLOWING = re.compile(r"Processor|(thermal-)?(cpufreq|devfreq)-.*|.*-throttle-alert")
"""Types of cooling devices, other than fans: of ACPI, of the kernel's frequency scaling, of Jetsons."""


class HardwareProbe:
    """Looks every few seconds, in a thread of its own. ``root`` stands in front of /sys."""

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._root, self._clock = root, clock
        self._at: float | None = None
        self._throttled_s = 0.0
        self._counts: Counter[Throttling] = Counter()
        self._seen = HardwareStatus()

    @property
    def latest(self) -> HardwareStatus:
        """What was seen last, for any thread; nothing while a look hangs."""
        recent = self._at is not None and self._clock() - self._at < DEADLINE_S
        return self._seen if recent else HardwareStatus()

    def run(self, beat: Beat, stop: threading.Event) -> None:
        """Look until ``stop``."""
        while not stop.is_set():
            beat.begin()
            self._seen = self.look()
            beat.end()
            stop.wait(EVERY_S)

    def look(self) -> HardwareStatus:
        """The present state; takes as long as the sensors do. A counter that grew since the last look is throttling now."""
        chips = list(sysfs.chips(self._root / sysfs.HWMON))
        degrees, where = _hottest(self._root, chips)
        throttled = self._throttled(chips)
        now = self._clock()
        if throttled and self._at is not None:
            self._throttled_s += min(now - self._at, DEADLINE_S)  # a look that hung saw nothing meanwhile
        self._at = now
        return HardwareStatus(
            temperature_c=degrees,
            hottest=where,
            throttled=throttled,
            throttled_s=None if throttled is None else self._throttled_s,
            power_w=_rails(chips),
        )

    def _throttled(self, chips: Sequence[Chip]) -> tuple[Throttling, ...] | None:
        said = [*_raspberry_pi(self._root, chips), *_cooling(self._root)]
        counts = list(_counters(self._root, chips))
        if not said and not counts:
            return None
        grown: Counter[Throttling] = Counter()
        for reason, count in counts:
            grown[reason] += count
        reasons = {reason for reason, now in said if now}
        if self._at is not None:
            reasons |= set(grown - self._counts)
        self._counts = grown
        return tuple(sorted(reasons))


def hottest(root: Path = Path("/")) -> tuple[float | None, str]:
    """The hottest part in °C, and its name."""
    return _hottest(root, sysfs.chips(root / sysfs.HWMON))


def _hottest(root: Path, chips: Iterable[Chip]) -> tuple[float | None, str]:
    found = [*_zones(root), *_cpu_chips(chips)]
    return max(found, default=(None, ""))


def _zones(root: Path) -> Iterator[tuple[float, str]]:
    """Jetson's PMIC zone always says 100 °C, a zone of what is switched off cannot be read: both are left out."""
    for zone in root.glob("sys/class/thermal/thermal_zone*"):
        kind, degrees = _text(zone / "type"), _number(zone / "temp")
        if kind and "pmic" not in kind.lower() and degrees and -40_000 < degrees < 150_000:
            yield degrees / 1000, kind


def _cpu_chips(chips: Iterable[Chip]) -> Iterator[tuple[float, str]]:
    for name, chip in chips:
        for file in chip.glob("temp*_input") if name in _CPU_CHIPS else ():
            if degrees := _number(file):
                yield degrees / 1000, _text(file.with_name(file.name.replace("_input", "_label"))) or name


def _raspberry_pi(root: Path, chips: Iterable[Chip]) -> Iterator[tuple[Throttling, bool]]:
    """The firmware's bits, as the kernel asked for them within the last two seconds: 0 to 3 what is now, 16 to 19 what was since.

    Bits: 0 voltage too low, 1 clock capped, 2 throttled, 3 soft limit of the temperature. The kernel warns of the file once
    after each boot; it is the only one that tells of heat.
    """
    for name, chip in chips:
        if name == "rpi_volt" and (alarm := _number(chip / "in0_lcrit_alarm")) is not None:
            yield "voltage", alarm > 0
    # By the driver: the path of the device differs between models (soc:firmware, soc@107c000000:firmware).
    for file in root.glob("sys/bus/platform/drivers/raspberrypi-firmware/*/get_throttled"):
        if re.fullmatch(r"[0-9a-f]{1,8}", text := _text(file)):
            bits = int(text, 16) | int(text, 16) >> 16
            low = bool(bits & 1)
            yield "voltage", low
            yield "temperature", bool(bits & 8) or (bool(bits & 6) and not low)


def _cooling(root: Path) -> Iterator[tuple[Throttling, bool]]:
    for device in root.glob("sys/class/thermal/cooling_device*"):
        if (
            _COOLED_BY_SLOWING.fullmatch(_text(device / "type"))
            and (state := _number(device / "cur_state")) is not None
        ):
            yield "temperature", state > 0


def _counters(root: Path, chips: Iterable[Chip]) -> Iterator[tuple[Throttling, int]]:
    for file in root.glob("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count"):
        if (count := _number(file)) is not None:
            yield "temperature", count
    for name, chip in chips:
        for file in chip.glob("oc*_event_cnt") if name == "soctherm_oc" else ():
            if (count := _number(file)) is not None:
                yield "power", count


def _rails(chips: Iterable[Chip]) -> dict[str, float]:
    """Watts by the label of the rail, else the name of the chip."""
    found: dict[str, float] = {}
    for name, chip in chips:
        for rail, watts in [*_measured(name, chip)] or [*_products(chip)]:
            found[rail if rail not in found else f"{rail} {len(found)}"] = round(watts, 2)
    return found


def _measured(name: str, chip: Path) -> Iterator[tuple[str, float]]:
    for file in sorted(chip.glob("power[0-9]*_input")):
        if (microwatts := _number(file)) is not None:
            yield _text(file.with_name(file.name.replace("_input", "_label"))) or name, microwatts / 1e6


def _products(chip: Path) -> Iterator[tuple[str, float]]:
    """Labelled pairs of voltage and current, as of an INA3221; its sums of shunt voltages have no such pair."""
    for file in sorted(chip.glob("curr[0-9]*_input")):
        number = file.name.removeprefix("curr").removesuffix("_input")
        label = _text(chip / f"in{number}_label")
        volts, amperes = _number(chip / f"in{number}_input"), _number(file)
        if label not in {"", "NC"} and volts is not None and amperes is not None:
            yield label, volts * amperes / 1e6


def _text(path: Path) -> str:
    try:
        return sysfs.read(path)
    except (OSError, ValueError):
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(sysfs.read(path))
    except (OSError, ValueError):
        return None
