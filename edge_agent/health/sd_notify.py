"""Telling systemd how we are: sd_notify(3), silent where nobody listens.

The protocol is one datagram of ``KEY=value`` lines to the socket named by ``$NOTIFY_SOCKET``. systemd-python does it
where it is installed; otherwise the dozen lines below do.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

RESTART_S = 120
"""The watchdog waits so long for a process that starts again under the same number."""


class Notifier:
    """Sends READY, STATUS, STOPPING, RELOADING and, when asked, WATCHDOG. Call it from one thread (the main one). Never raises.

    The environment is read once at construction. ``watchdog()`` may be called as often as one likes: it sends at most
    every half of ``WATCHDOG_USEC``, as sd_watchdog_enabled(3) recommends, and nothing where ``WATCHDOG_PID`` names
    another process.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._address = _address(os.environ.get("NOTIFY_SOCKET", ""))
        self._watchdog_usec = _watchdog_usec() if self._address else None
        self.watchdog_interval_s = None if self._watchdog_usec is None else self._watchdog_usec / 2e6
        """Seconds between two signs of life; None when no watchdog is set."""
        self._last_watchdog: float | None = None
        self._status = ""
        self._send = (_systemd_python() if self._address else None) or self._send_plain

    @property
    def enabled(self) -> bool:
        """Whether a service manager listens."""
        return self._address is not None

    def ready(self, status: str = "") -> None:
        """Config, outbox and HTTP are up."""
        self._notify("READY=1", *self._watchdog_of(self._watchdog_usec), *_status_line(status))

    def stopping(self, status: str = "") -> None:
        """The clean stop began."""
        self._notify("STOPPING=1", *_status_line(status))

    def restarting(self, status: str = "") -> None:
        """We stop, and the same process starts again: to systemd a reload, as STOPPING would make it kill what comes back."""
        self._notify(
            "RELOADING=1",
            f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}",
            *self._watchdog_of(RESTART_S * 1_000_000),
            *_status_line(status),
        )

    def _watchdog_of(self, usec: int | None) -> tuple[str, ...]:
        return () if self.watchdog_interval_s is None else (f"WATCHDOG_USEC={usec}",)

    def status(self, text: str) -> None:
        """One line for ``systemctl status``; sent only when it changes."""
        if text != self._status:
            self._status = text
            self._notify(*_status_line(text))

    def watchdog(self, healthy: bool) -> bool:
        """Sign of life; whether one was sent. Not healthy (an essential worker is stuck): silence, and systemd restarts us."""
        now = self._clock()
        if self.watchdog_interval_s is None or not healthy:
            return False
        if self._last_watchdog is not None and now - self._last_watchdog < self.watchdog_interval_s:
            return False
        self._last_watchdog = now
        self._notify("WATCHDOG=1")
        return True

    def _notify(self, *lines: str) -> None:
        if self._address is None or not lines:
            return
        try:
            self._send("\n".join(lines))
        except OSError as error:
            log.warning("cannot reach the service manager: %s", error)

    def _send_plain(self, message: str) -> None:
        assert self._address is not None
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(1.0)
            sock.sendto(message.encode(), self._address)


def _address(name: str) -> str | None:
    """A path, or ``@name`` in Linux' abstract namespace, whose address begins with a zero byte."""
    if name.startswith("@"):
        return "\0" + name[1:]
    if name.startswith("/"):
        return name
    if name:
        log.warning("NOTIFY_SOCKET %r is neither a path nor an abstract name; not used", name[:100])
    return None


def _watchdog_usec() -> int | None:
    pid = os.environ.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return None
    try:
        usec = int(os.environ.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return usec if usec > 0 else None


def _status_line(text: str) -> tuple[str, ...]:
    return (f"STATUS={' '.join(text.split())[:500]}",) if text else ()


def _systemd_python() -> Callable[[str], object] | None:
    try:
        from systemd import daemon
    except ImportError:
        return None
    notify: Callable[[str], object] = daemon.notify
    return notify
