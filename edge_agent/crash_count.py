"""Crashes in a row, counted on the disk: what tells a bad night from a box on which the agent cannot run.

A start that follows a run which did not end in order, on the same boot of the kernel, follows a crash; on another boot the
power was cut, or the kernel went down, and nothing is counted. An end in order, ``WELL_S`` seconds of work, or another version of
the agent set the count back to zero: a bad release that is taken back must not leave the good one in safe mode.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from edge_agent import __version__
from edge_agent.durable import write_file

log = logging.getLogger(__name__)

NAME = "crashes.json"
LAST_EXIT = "last-exit"
"""Where systemd (ExecStopPost in the unit) writes how the process ended: ``$SERVICE_RESULT $EXIT_CODE $EXIT_STATUS``."""
LIMIT = 3
"""Crashes in a row, after which the agent starts in safe mode."""
WELL_S = 600.0
"""Seconds of work without a crash that end a row."""
RETRY_S = (300.0, 900.0, 3600.0, 6 * 3600.0)
"""Seconds of safe mode before the next try: after ``LIMIT`` crashes, one more, and so on; the last one for ever."""
_MAX_FILE = 1 << 14
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_RESULTS = {
    "watchdog": "gave no sign of life any more and was ended by systemd",
    "timeout": "did not start or stop in time and was ended by systemd",
    "oom-kill": "was ended by the kernel, as memory ran out",
}


class Crashes(BaseModel):
    """What is remembered. ``boot``: the kernel's boot id while an agent works, "" after an end in order."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[1] = 1
    boot: Annotated[str, StringConstraints(max_length=64)] = ""
    in_a_row: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    reason: Annotated[str, StringConstraints(max_length=500)] = ""
    """Of the last crash; "" while it is not known."""
    version: Annotated[str, StringConstraints(max_length=64)] = ""
    """Of the agent whose crashes these are."""


class CrashCount:
    """One start of the agent, which holds the state folder. One thread. A disk that cannot be written is logged, never raised."""

    def __init__(self, state_dir: Path, boot: str, version: str = __version__) -> None:
        """Count this start. ``boot`` is the kernel's, see ``kernel_boot``; "": nothing is counted, and no file is touched."""
        self._path, self._boot, self._left = state_dir / NAME, boot, False
        before = _read(self._path) if boot else Crashes()
        if before.version != version:
            before = Crashes(version=version)
        self.crashed = bool(boot) and before.boot == boot
        """Whether the run before this one ended by a crash."""
        reason = before.reason
        if self.crashed:
            reason = reason or _last_exit(state_dir) or "ended without a word (killed, or by a fault in native code)"
        self._now = before.model_copy(
            update={"boot": boot, "in_a_row": min(before.in_a_row + self.crashed, 1_000_000), "reason": ""}
        )
        self.reason = reason if self._now.in_a_row else ""
        """Why the last run of the row ended, "" where there is none."""
        if boot:
            with contextlib.suppress(OSError):
                state_dir.mkdir(parents=True, exist_ok=True)
                (state_dir / LAST_EXIT).unlink(missing_ok=True)
            self._write()

    @property
    def in_a_row(self) -> int:
        """Crashes without a run between them that was well."""
        return self._now.in_a_row

    @property
    def safe_mode(self) -> str:
        """Why this start has to be one in safe mode; "" where it has not.

        After an end in order or a new boot of the kernel it is a try, whatever was before.
        """
        if not self.crashed or self.in_a_row < LIMIT or self._left:
            return ""
        return f"{self.in_a_row} crashes in a row, the last: {self.reason}"

    @property
    def retry_s(self) -> float:
        """Seconds of safe mode before the next try."""
        return RETRY_S[max(0, min(self.in_a_row - LIMIT, len(RETRY_S) - 1))]

    def look(self, uptime_s: float) -> bool:
        """Call it now and then; True once safe mode has lasted for long enough, and the agent should start anew."""
        if self.safe_mode:
            return uptime_s >= self.retry_s
        if self.in_a_row and uptime_s >= WELL_S:
            self.forgive()
        return False

    def leave_to_others(self) -> None:
        """No safe mode for this start: what is on probation is taken back first, by its own count of crashes."""
        self._left = True

    def blame(self, reason: str) -> None:
        """The process is about to end for ``reason``, which is a crash."""
        self._keep(reason=" ".join(reason.split())[:500])

    def forgive(self) -> None:
        """It has been well for long enough, or what crashed was taken away (a model was rolled back): the row is over."""
        self.crashed, self.reason = False, ""
        self._keep(in_a_row=0)

    def dismiss(self) -> None:
        """This start came to nothing, and that is no crash: the operator's configuration is wrong."""
        self._keep(boot="")

    def ended(self, *, again: bool) -> None:
        """The agent ends in order; with ``again`` it starts anew by itself, which ends no row."""
        self.dismiss()
        if not again:
            self._keep(in_a_row=0)

    def _keep(self, **changes: object) -> None:
        changed = self._now.model_copy(update=changes)
        if self._boot and changed != self._now:
            self._now = changed
            self._write()

    def _write(self) -> None:
        try:
            write_file(self._path, self._now.model_dump_json().encode())
        except OSError as error:
            log.error("%s: %s; crashes are not counted", self._path, error.strerror)


def kernel_boot(path: Path = _BOOT_ID) -> str:
    """The id that the kernel gave itself at its start; "" where it cannot be read."""
    try:
        return path.read_text().strip()[:64]
    except OSError:
        return ""


def _read(path: Path) -> Crashes:
    try:
        with path.open("rb") as file:
            return Crashes.model_validate_json(file.read(_MAX_FILE))
    except FileNotFoundError:
        return Crashes()
    except (OSError, ValidationError) as error:
        log.error("%s cannot be read, so crashes are counted from zero: %s", path, error)
        return Crashes()


def _last_exit(state_dir: Path) -> str:
    try:
        with (state_dir / LAST_EXIT).open(encoding="ascii", errors="replace") as file:
            result, code, status = (*file.read(200).split(), "", "", "")[:3]
    except OSError:
        return ""
    if known := _RESULTS.get(result):
        return known
    if code in {"killed", "dumped"}:
        return f"was ended by SIG{status}"
    return f"ended with exit code {status}" if code == "exited" else ""
