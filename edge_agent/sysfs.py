"""Files of one value each, as sysfs has them, and the chips that stand there by name.

A read may hang as long as the bus behind it does (I2C): none of this belongs on the way of frames or in the main thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

HWMON = "sys/class/hwmon"
"""Below the root; Documentation/hwmon/sysfs-interface.rst of the kernel says what is in it."""
IIO = "sys/bus/iio/devices"
"""Documentation/ABI/testing/sysfs-bus-iio."""
_MAX_BYTES = 4096


def read(path: Path) -> str:
    """The text of a file, stripped. Raises OSError, and ValueError where it is longer than a page or no text.

    Plain system calls: a file object of Python turns EAGAIN, which the sensor of a GPU that sleeps answers on a Jetson,
    into a TypeError.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        raw = os.read(file, _MAX_BYTES + 1)
    finally:
        os.close(file)
    if len(raw) > _MAX_BYTES:
        raise ValueError(f"longer than {_MAX_BYTES} bytes")
    return raw.decode().strip()


def chips(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name, folder) of the chips below ``folder``; their numbers change from boot to boot, their names do not."""
    for chip in sorted(folder.glob("*")):
        try:
            name = read(chip / "name")
        except (OSError, ValueError):
            continue
        yield name, chip
