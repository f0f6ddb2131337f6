"""One large file onto the disk, however often the connection breaks: what is there stays, also over a restart of the box."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_agent.errors import DownloadError, EndlessData, Interrupted, NoRoom, SlowRetrieval, Tampered
from edge_agent.ota.source import Source
from edge_agent.web import BLOCK, SILENCE_S, SLOWEST

TRIES = 5
"""In a row that bring nothing."""
PAUSE_S = 0.5
"""Before the next try; twice as long after each that brought nothing."""
Progress = Callable[[float], None]
"""Called in the same thread with the fraction that is here."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to fetch: its bytes are known beforehand. ``folder`` takes it; it must not be used by anybody else."""

    url: str
    length: int
    sha256: str
    folder: Path
    installed: int = 0
    """Bytes that it takes beside the file and the same again unpacked."""
    keep_free: int = 0
    """Bytes that must be left on the disk after that."""
    max_bytes_s: int | None = None

    @property
    def path(self) -> Path:
        """Where it ends up."""
        return self.folder / f"{self.sha256}.part"

    @property
    def tag(self) -> Path:
        """Beside it: the server's mark of the content."""
        return self.folder / f"{self.sha256}.tag"


def transfer(source: Source, wanted: Wanted, progress: Progress, cancel: threading.Event) -> Path:
    """Fetch what is missing of ``wanted``; its path, complete and checked.

    Raises NoRoom, Interrupted (``cancel``), DownloadError, SlowRetrieval; what is there stays for the next time. Raises
    EndlessData and Tampered: then nothing stays.
    """
    wanted.folder.mkdir(parents=True, exist_ok=True)
    # Over all connections: a server that gives a byte and hangs up is as slow as one that trickles. Our own limit is no fault of its.
    deadline = time.monotonic() + 2 * SILENCE_S + wanted.length / min(SLOWEST, wanted.max_bytes_s or SLOWEST)
    if wanted.path.exists():
        # What is there may be at fault (a disk after a power cut, another file): then once more from the beginning.
        with contextlib.suppress(Tampered):
            return _complete(source, wanted, progress, cancel, deadline)
    return _complete(source, wanted, progress, cancel, deadline)


def _complete(source: Source, wanted: Wanted, progress: Progress, cancel: threading.Event, deadline: float) -> Path:
    failures = 0
    while (here := _size(wanted.path)) != wanted.length:
        _check_room(wanted, here)
        try:
            _go_on(source, wanted, progress, cancel, deadline)
        except DownloadError as error:
            failures = 0 if _size(wanted.path) > here else failures + 1
            if failures >= TRIES or error.status is not None or isinstance(error, SlowRetrieval):
                raise
            if cancel.wait(PAUSE_S * 2**failures):
                raise Interrupted("stopped before it was fetched") from error
    if _sha256(wanted.path) != wanted.sha256:
        _forget(wanted)
        raise Tampered("what came has not the SHA-256 that was signed")
    wanted.tag.unlink(missing_ok=True)
    progress(1.0)
    return wanted.path


def _go_on(source: Source, wanted: Wanted, progress: Progress, cancel: threading.Event, deadline: float) -> None:
    """As far as this connection lasts."""
    pace, left_s = _Pace(wanted.max_bytes_s), deadline - time.monotonic()
    if left_s <= 0:
        raise SlowRetrieval(f"only {_size(wanted.path)} of {wanted.length} bytes came: given up for now")
    with source.open(wanted.url, total_s=left_s, start=_size(wanted.path), tag=_tag(wanted)) as stream:
        if stream.tag is not None:
            wanted.tag.write_text(stream.tag, "ascii")
        with wanted.path.open("r+b" if stream.start else "wb") as file:
            here = file.seek(stream.start)
            for block in stream.blocks:
                here += len(block)
                if here > wanted.length:
                    break
                file.write(block)
                progress(here / wanted.length)
                if cancel.wait(pace.pause(len(block))):
                    raise Interrupted("stopped before it was fetched")
            file.truncate()
    if here > wanted.length:
        _forget(wanted)
        raise EndlessData(f"more came than the {wanted.length} bytes that were signed for")
    if here < wanted.length:
        raise DownloadError(f"broke off after {here} of {wanted.length} bytes")


class _Pace:
    """Keeps a rate on the average."""

    def __init__(self, rate: int | None) -> None:
        self._rate, self._began, self._total = rate, time.monotonic(), 0

    def pause(self, size: int) -> float:
        """Seconds to wait after so many more bytes."""
        self._total += size
        if self._rate is None:
            return 0.0
        return max(0.0, self._began + self._total / self._rate - time.monotonic())


def _check_room(wanted: Wanted, here: int) -> None:
    needed = wanted.length - here + wanted.length + wanted.installed  # unpacked it is as large again
    check_room(wanted.folder, needed, wanted.keep_free)


def check_room(folder: Path, needed: int, keep_free: int) -> None:
    """Raises NoRoom where so many bytes more would leave less than ``keep_free``."""
    free = shutil.disk_usage(folder).free
    if free < needed + keep_free:
        raise NoRoom(
            f"{folder}: {free >> 20} MiB are free, {needed + keep_free >> 20} MiB are needed: to fetch it, to unpack it, and to leave "
            f"{keep_free >> 20} MiB (ota.keep_free_mb)"
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _tag(wanted: Wanted) -> str | None:
    try:
        return wanted.tag.read_text("ascii")[:256] or None
    except (OSError, ValueError):
        return None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _forget(wanted: Wanted) -> None:
    wanted.path.unlink(missing_ok=True)
    wanted.tag.unlink(missing_ok=True)
