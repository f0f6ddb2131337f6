"""Reads a sensor that Linux shows as files. A read may hang: each sensor has a thread of its own for it."""

from __future__ import annotations

import re
from pathlib import Path

from edge_agent import sysfs
from edge_agent.config_sensors import HwmonSource, IioSource, SensorConfig
from edge_agent.errors import SensorError
from edge_agent.sensors.values import from_text

_HWMON = {
    "temp": (0.001, "°C"),
    "in": (0.001, "V"),
    "curr": (0.001, "A"),
    "power": (1e-6, "W"),
    "energy": (1e-6, "J"),
    "humidity": (0.001, "%"),
    "fan": (1.0, "rpm"),
    "freq": (1.0, "Hz"),
}
"""Kind of input → what turns the kernel's unit into ours (Documentation/hwmon/sysfs-interface.rst)."""
_IIO = {
    "temp": (0.001, "°C"),
    "voltage": (0.001, "V"),
    "current": (0.001, "A"),
    "power": (0.001, "W"),
    "humidityrelative": (0.001, "%"),
    "concentration": (1.0, "%"),
    "pressure": (1.0, "kPa"),
    "illuminance": (1.0, "lx"),
    "accel": (1.0, "m/s²"),
}
"""Type of channel, the same (Documentation/ABI/testing/sysfs-bus-iio); others are taken as they are."""


def unit_of(config: SensorConfig) -> str:
    """The unit of its values."""
    if config.unit is not None:
        return config.unit
    return _conversion(config)[1]


def read(config: SensorConfig, root: Path) -> bool | float:
    """The value now, before ``scale`` and ``offset``. ``root`` stands in front of /sys. Raises SensorError."""
    try:
        if config.hwmon is not None:
            value = _hwmon(config.hwmon, root)
        elif config.iio is not None:
            value = _iio(config.iio, root)
        else:
            value = from_text(sysfs.read(Path(str(config.file))))
    except OSError as error:
        raise SensorError(f"{error.filename or config.file}: {error.strerror}") from error
    except ValueError as error:
        raise SensorError(f"it cannot be read: {error}") from error
    return value if isinstance(value, bool) else value * _conversion(config)[0]


def _conversion(config: SensorConfig) -> tuple[float, str]:
    if config.hwmon is not None:
        return _HWMON[config.hwmon.input.rstrip("0123456789")]
    if config.iio is not None:
        return _IIO.get(_kind(config.iio.channel), (1.0, ""))
    return 1.0, ""


def _hwmon(source: HwmonSource, root: Path) -> bool | float:
    return from_text(sysfs.read(_chip(root / sysfs.HWMON, source.chip, source.device) / f"{source.input}_input"))


def _iio(source: IioSource, root: Path) -> bool | float:
    """``in_<channel>_input``, else (raw + offset) × scale; these may stand once for all channels of a type."""
    device = _chip(root / sysfs.IIO, source.name, source.device)
    try:
        return from_text(sysfs.read(device / f"in_{source.channel}_input"))
    except FileNotFoundError:
        raw = from_text(sysfs.read(device / f"in_{source.channel}_raw"))
    return (raw + _factor(device, source.channel, "offset", 0.0)) * _factor(device, source.channel, "scale", 1.0)


def _factor(device: Path, channel: str, what: str, default: float) -> float:
    names = (channel, re.sub(r"[0-9]", "", channel), _kind(channel))
    files = [device / f"in_{name}_{what}" for name in names]
    file = next((file for file in files if file.exists()), None)
    return default if file is None else from_text(sysfs.read(file))


def _kind(channel: str) -> str:
    return re.split(r"[^a-z]", channel, maxsplit=1)[0]


def _chip(folder: Path, name: str, device: str | None) -> Path:
    """The one of that name. Its number changes from boot to boot, so it is looked up each time."""
    named = [chip for there, chip in sysfs.chips(folder) if there == name]
    found = [chip for chip in named if device is None or device in chip.resolve().parts]
    if len(found) == 1:
        return found[0]
    if found:
        places = ", ".join(str(chip.resolve()) for chip in found[:3])
        raise SensorError(f"several are named {name}: say by `device` which: {places}"[:300])
    if named:
        raise SensorError(f"no {name} at {device}, but {named[0].resolve()}"[:300])
    raise SensorError(f"no {name} in {folder}")
