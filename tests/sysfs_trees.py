"""What sysfs looks like on real boxes, cut down to what the agent reads: path from the root → content, ``-> target`` a link.

ORIN_NX, AGX_ORIN: labels and addresses from the kernel's ``tegra234-p3767.dtsi`` and ``tegra234-p3701.dtsi``, chips and cooling
devices as JetPack 6 shows them (``ina3221``, ``soctherm_oc``, ``pwm-fan``, ``cpu-throttle-alert``). RASPBERRY_PI_5: drivers
raspberrypi-firmware and raspberrypi-hwmon. NUC: intel_thermal_throttle.rst. RYZEN: k10temp.rst, and an ACPI zone that stands still.
IIO: the channels that the drivers bmp280, hdc100x and ti-ads1015 show.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_I2C = "sys/devices/platform/bus@0/c240000.i2c/i2c-1/"


def _ina3221(address: str, hwmon: int, rails: list[tuple[str, int, int]]) -> dict[str, str]:
    """``rails``: label, mV, mA."""
    folder = f"{_I2C}{address}/hwmon/hwmon{hwmon}/"
    tree = {f"sys/class/hwmon/hwmon{hwmon}": f"-> {folder}", folder + "name": "ina3221"}
    for number, (label, millivolts, milliamperes) in enumerate(rails, 1):
        tree[f"{folder}in{number}_label"] = label
        tree[f"{folder}in{number}_input"] = str(millivolts)
        tree[f"{folder}curr{number}_input"] = str(milliamperes)
        tree[f"{folder}in{number + 3}_input"] = "4"  # the shunt, µV
    return tree | {
        folder + "in7_label": "sum of shunt voltages",
        folder + "in7_input": "12",
        folder + "curr4_input": "9",
    }


def _zone(number: int, kind: str, millidegrees: str) -> dict[str, str]:
    folder = f"sys/class/thermal/thermal_zone{number}/"
    return {folder + "type": kind, folder + "temp": millidegrees}


def _cooling(number: int, kind: str, state: str) -> dict[str, str]:
    folder = f"sys/class/thermal/cooling_device{number}/"
    return {folder + "type": kind, folder + "cur_state": state}


def _chip(number: int, name: str, **files: str) -> dict[str, str]:
    folder = f"sys/class/hwmon/hwmon{number}/"
    return {folder + "name": name} | {folder + file: text for file, text in files.items()}


ORIN_NX = {
    **_zone(0, "cpu-thermal", "50437"),
    **_zone(1, "gpu-thermal", ""),  # asleep: reading it fails
    **_zone(8, "tj-thermal", "51250"),
    **_zone(9, "PMIC-Die", "100000"),
    **_cooling(0, "pwm-fan", "2"),
    **_cooling(1, "cpu-throttle-alert", "0"),
    **_cooling(2, "hot-surface-alert", "1"),
    **_cooling(3, "cpufreq-cpu0", "0"),
    **_ina3221("1-0040", 1, [("VDD_IN", 5040, 1400), ("VDD_CPU_GPU_CV", 5040, 200), ("VDD_SOC", 5040, 400)]),
    **_chip(2, "soctherm_oc", oc1_event_cnt="0", oc2_event_cnt="0", oc3_event_cnt="7"),
}
AGX_ORIN = {
    **_zone(0, "CPU-therm", "48500"),
    **_ina3221("1-0040", 3, [("VDD_GPU_SOC", 12040, 504), ("VDD_CPU_CV", 12040, 272), ("VIN_SYS_5V0", 4968, 954)]),
    **_ina3221("1-0041", 4, [("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 4968, 80), ("NC", 0, 0)]),
}
_FIRMWARE = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware"
RASPBERRY_PI_5 = {
    **_zone(0, "cpu-thermal", "56750"),
    **_cooling(0, "pwm-fan", "1"),
    **_chip(0, "cpu_thermal", temp1_input="56750"),
    **_chip(2, "rpi_volt", in0_lcrit_alarm="0"),
    f"{_FIRMWARE}/get_throttled": "0",
    "sys/bus/platform/drivers/raspberrypi-firmware/soc@107c000000:firmware": f"-> {_FIRMWARE}",
}
NUC = {
    **_zone(0, "acpitz", "27800"),
    **_zone(1, "x86_pkg_temp", "62000"),
    **_cooling(0, "Processor", "0"),
    **_cooling(4, "intel_powerclamp", "-1"),
    **_cooling(5, "TCC Offset", "3"),
    **_chip(3, "coretemp", temp1_input="61000", temp1_label="Package id 0", temp2_input="58000", temp2_label="Core 0"),
    **_chip(1, "nvme", temp1_input="90000"),
    **{
        f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle/{what}_throttle_count": count
        for cpu in range(2)
        for what, count in (("core", "3"), ("package", "8"))
    },
}
RYZEN = {
    **_zone(0, "acpitz", "16800"),
    **_chip(1, "k10temp", temp1_input="71500", temp1_label="Tctl"),
    **_chip(0, "nct6798", temp1_input="35000", fan1_input="1204", in0_input="1016"),
}


def _iio(number: int, device: str, name: str, **files: str) -> dict[str, str]:
    folder = f"{_I2C}{device}/iio:device{number}/"
    tree = {f"sys/bus/iio/devices/iio:device{number}": f"-> {folder}", folder + "name": name}
    return tree | {folder + f"in_{file}": text for file, text in files.items()}


IIO = {
    **_iio(0, "1-0076", "bme280", temp_input="23450", pressure_input="101.325250000", humidityrelative_input="45123"),
    **_iio(1, "1-0040", "hdc100x", temp_raw="24000", temp_scale="2.517700195", temp_offset="-15887.515151"),
    **_iio(2, "1-0048", "ads1015", voltage0_raw="1000", voltage0_scale="2.000000000", voltage1_raw="9"),
    **_iio(3, "1-0049", "ads1015", voltage0_raw="500", voltage_scale="3.000000000"),
    **_iio(4, "1-0029", "vcnl4000", proximity_raw="2211", illuminance_raw="100", illuminance_scale="0.25"),
    "sys/bus/iio/devices/trigger0/name": "hdc100x-dev1",
}


def write_tree(root: Path, tree: Mapping[str, str]) -> Path:
    """Make the files, or write them anew; the root."""
    for name, text in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            path.symlink_to(root / text.removeprefix("-> "))
        else:
            path.write_text(text, encoding="utf-8")
    return root
