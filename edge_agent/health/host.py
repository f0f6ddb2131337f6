"""How the box is doing, from /proc and /sys: no library, a fraction of a millisecond a sample."""

from __future__ import annotations

import ctypes
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from edge_agent.health.status import HostStatus

_PAGE = os.sysconf("SC_PAGE_SIZE")
_STA_UNSYNC = 0x0040
"""adjtimex(2): the clock is not synchronised."""
_TIMESYNC = Path("/run/systemd/timesync/synchronized")


class HostProbe:
    """Samples the box. ``sample`` is thread-safe and keeps its answer for ``min_interval_s``; CPU shares are means since the last one.

    ``root`` stands in front of /proc and /sys. What cannot be read is None, never an error.
    """

    def __init__(
        self,
        disk: Path,
        *,
        root: Path = Path("/"),
        min_interval_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._disk, self._root, self._min_interval_s, self._clock = disk, root, min_interval_s, clock
        self._lock = threading.Lock()
        self._last: HostStatus | None = None
        self._at = self._clock()
        self._cpu = _cpu_times(root)
        self._own = _own_cpu_s()

    def sample(self) -> HostStatus:
        """The present state, at most ``min_interval_s`` old."""
        with self._lock:
            now = self._clock()
            if self._last is None or now - self._at >= self._min_interval_s:
                self._last = self._measure(now)
            return self._last

    def _measure(self, now: float) -> HostStatus:
        cpu, own = _cpu_times(self._root), _own_cpu_s()
        share = own_share = None
        if cpu is not None and self._cpu is not None and cpu[1] > self._cpu[1]:
            share = round(100 * (cpu[0] - self._cpu[0]) / (cpu[1] - self._cpu[1]), 1)
        if now > self._at:
            own_share = round(100 * (own - self._own) / (now - self._at), 1)
        self._cpu, self._own, self._at = cpu, own, now
        total, available = _memory(self._root)
        disk_total, disk_free = _disk(self._disk)
        return HostStatus(
            cpu_pct=share,
            process_cpu_pct=own_share,
            rss_bytes=_rss(),
            ram_total_bytes=total,
            ram_available_bytes=available,
            disk_total_bytes=disk_total,
            disk_free_bytes=disk_free,
            clock_synchronised=clock_synchronised(),
        )


def _cpu_times(root: Path) -> tuple[int, int] | None:
    """(busy, total) ticks since boot, proc(5) /proc/stat; time spent waiting for I/O is idle."""
    try:
        with (root / "proc/stat").open() as file:
            ticks = [int(field) for field in file.readline().split()[1:9]]
        return sum(ticks) - ticks[3] - ticks[4], sum(ticks)
    except (OSError, ValueError, IndexError):
        return None


def _own_cpu_s() -> float:
    times = os.times()
    return times.user + times.system


def _rss() -> int | None:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return None


def _memory(root: Path) -> tuple[int | None, int | None]:
    found: dict[str, int] = {}
    try:
        with (root / "proc/meminfo").open() as file:
            for line in file:
                name, _, rest = line.partition(":")
                if name in {"MemTotal", "MemAvailable"}:
                    found[name] = int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return None, None
    return found.get("MemTotal"), found.get("MemAvailable")


def _disk(path: Path) -> tuple[int | None, int | None]:
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None, None
    return usage.total, usage.free


class _Timex(ctypes.Structure):
    """The head of ``struct timex``, adjtimex(2); ``rest`` is larger than what follows on any platform."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


def clock_synchronised() -> bool | None:
    """Whether the kernel holds the clock to be disciplined (NTP, PTP, chrony); None where it will not say."""
    if _TIMESYNC.exists():
        return True
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return None
    timex = _Timex()  # modes 0: read only, needs no privilege
    if adjtimex(ctypes.byref(timex)) < 0:
        return None
    return not timex.status & _STA_UNSYNC
