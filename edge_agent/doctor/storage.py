"""The state folder and what lies in it."""

from __future__ import annotations

import os
import re
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

from edge_agent.config import Config
from edge_agent.doctor.box import Box
from edge_agent.doctor.finding import Check, Outcome, fail, ok, skip, warn
from edge_agent.errors import OutboxCorrupt, OutboxError
from edge_agent.health.host import HostProbe
from edge_agent.outbox.schema import MIGRATIONS, connect_reader, pragma, size_on_disk, translated

AREA = "storage"
_MB = 2**20
_NO_CONFIG = "no configuration that names a state folder"
_BLOCK = 256 * 1024
_WRITE_S = 1.5
_COMMITS = 20
_CHECK_S = 4.0
_MEMORY = {"tmpfs", "ramfs"}


def checks(_: Box) -> list[Check]:
    """Of this area."""
    return [
        Check(AREA, "state folder", state_folder),
        Check(AREA, "disk space", disk_space),
        Check(AREA, "write speed", write_speed, timeout_s=12.0),
        Check(AREA, "outbox", outbox),
    ]


def _there(path: Path) -> Path:
    """``path``, or the nearest folder above it that exists: there it will lie."""
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def state_folder(box: Box) -> Outcome:
    """Whether the agent's user can write it, what it lies on, and whether an agent holds it."""
    if box.config is None:
        return skip(_NO_CONFIG)
    folder = box.config.state_dir
    there = _there(folder)
    text = f"{folder}" + ("" if there == folder else " (made at the first start)")
    if box.user.uid is not None and not _may_write(box, there):
        stat = there.stat()
        fix = (
            f"sudo chown -R {box.user.name} {there}"
            if there == folder
            else f"sudo install -d -o {box.user.name} {folder}"
        )
        return fail(f"{text}: user {box.user.name} may not write {there} (mode {stat.st_mode & 0o777:o})", fix)
    kind, options = _mount(box, there)
    if "ro" in options.split(","):
        return fail(f"{text} lies on a read-only file system ({kind})", "name another state_dir, or mount it writable")
    held = "held by the running agent" if box.agent is not None else "free"
    if kind in _MEMORY:
        return warn(f"{text}, {held}; {kind}: everything in it is lost at a restart", "name a state_dir on a disk")
    return ok(f"{text}, {kind or 'unknown file system'}, {held}")


def _may_write(box: Box, folder: Path) -> bool:
    if box.user.uid == os.geteuid():
        return os.access(folder, os.W_OK | os.X_OK)
    return box.may_use(folder, wanted=3)


def _mount(box: Box, folder: Path) -> tuple[str, str]:
    """(file system, options) that ``folder`` lies on, from /proc/self/mounts."""
    best, found = -1, ("", "")
    for line in box.read("proc/self/mounts").splitlines():
        parts = line.split()
        if len(parts) < 4:
            continue
        point = Path(re.sub(r"\\040", " ", parts[1]))
        if (folder == point or point in folder.parents) and len(point.parts) >= best:
            best, found = len(point.parts), (parts[2], parts[3])
    return found


def disk_space(box: Box) -> Outcome:
    """Room for the outbox to grow as far as it may."""
    folder = _there(box.config.state_dir) if box.config else box.root
    host = HostProbe(folder, root=box.root).sample()
    if host.disk_free_bytes is None or host.disk_total_bytes is None:
        return skip("the file system does not tell")
    free = host.disk_free_bytes // _MB
    text = f"{free} of {host.disk_total_bytes // _MB} MB free"
    inodes = os.statvfs(folder)
    if inodes.f_files and inodes.f_favail < 1000:
        return fail(
            f"{text}, but only {inodes.f_favail} more files fit", "remove small files: look under /var and /tmp"
        )
    if box.config is None:
        return ok(text)
    used = size_on_disk(box.config.state_dir / "outbox.db") // _MB
    grows = max(0, box.config.outbox.max_mb - used)
    if free < 200:
        return fail(text, "make room: sudo apt clean; sudo journalctl --vacuum-size=50M; docker system prune")
    if free < grows + 200:
        return warn(f"{text}; the outbox may grow by {grows:.0f} MB more", "make room, or lower outbox.max_mb")
    return ok(f"{text}; the outbox may take {box.config.outbox.max_mb:g} MB")


def write_speed(box: Box) -> Outcome:
    """Megabytes a second, and how long a commit takes: small writes that are forced to the disk."""
    folder = _there(box.config.state_dir if box.config else Path.cwd())
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            speed = _stream(file.fileno())
            commit_ms = _commits(file.fileno())
    except OSError as error:
        return skip(f"{folder}: {error.strerror}")
    text = f"{speed:.0f} MB/s, {commit_ms:.1f} ms for a commit"
    if commit_ms > 250 or speed < 1:
        return fail(text, "the disk is too slow or dying: see `dmesg`; use an SSD or an industrial SD card")
    if commit_ms > 50 or speed < 5:
        return warn(text, "use an SSD or a faster SD card (class A2); events wait for it under load")
    return ok(text)


def _stream(file: int) -> float:
    block, written, began = os.urandom(_BLOCK), 0, time.monotonic()
    while written < 16 * _MB and time.monotonic() - began < _WRITE_S:
        written += os.pwrite(file, block, written)
        os.fdatasync(file) if written % (4 * _MB) == 0 else None
    os.fdatasync(file)
    return written / _MB / max(1e-6, time.monotonic() - began)


def _commits(file: int) -> float:
    """Milliseconds, the median, to write a page and force it to the disk, as SQLite does at each commit."""
    page, began = os.urandom(4096), time.monotonic()
    times: list[float] = []
    while len(times) < _COMMITS and time.monotonic() - began < _WRITE_S:
        since = time.monotonic()
        os.pwrite(file, page, len(times) * 4096)
        os.fdatasync(file)
        times.append(time.monotonic() - since)
    return 1000 * statistics.median(times)


def outbox(box: Box) -> Outcome:
    """The database, read beside whoever writes it."""
    if box.config is None:
        return skip(_NO_CONFIG)
    path = box.config.state_dir / "outbox.db"
    if not path.is_file():
        return ok("not made yet")
    if not os.access(path, os.R_OK):
        return skip(f"{path} may be read by its owner only; run doctor as that user or as root")
    try:
        return _judge(path, box.config)
    except OutboxCorrupt as error:
        return fail(
            f"damaged: {error}", "the next start saves what can be read and begins a new one; is the disk dying?"
        )
    except OutboxError as error:
        return fail(f"{path}: {error}", "is it a file of the agent? may this user read it?")


def _judge(path: Path, config: Config) -> Outcome:
    cx = connect_reader(path)
    try:
        until = time.monotonic() + _CHECK_S
        with translated("look into the outbox"):
            schema = pragma(cx, "user_version")
            if schema > len(MIGRATIONS):
                return fail(
                    f"written by a newer edge-agent (schema {schema})", "update edge-agent, or name another state_dir"
                )
            waiting, born = cx.execute("SELECT count(*), min(born) FROM message").fetchone()
            meta = dict(cx.execute("SELECT key, value FROM meta WHERE key IN ('age', 'wall')"))
            letters = cx.execute("SELECT count(*) FROM dead_letter").fetchone()[0]
            cx.set_progress_handler(lambda: int(time.monotonic() > until), 10_000)
            try:
                damage = cx.execute("PRAGMA quick_check(1)").fetchone()[0]
            except sqlite3.OperationalError as error:
                if "interrupt" not in str(error):
                    raise
                damage = "ok"  # it is large; what could be looked at in the time is whole
    finally:
        cx.close()
    if damage != "ok":
        return fail(
            f"damaged: {damage}", "the next start saves what can be read and begins a new one; is the disk dying?"
        )
    size, age = size_on_disk(path) / _MB, _oldest_s(born, meta)
    text = f"{waiting} waiting, oldest {_told(age)}, {letters} refused, {size:.1f} of {config.outbox.max_mb:g} MB"
    if letters:
        return warn(text, "the broker refused messages: its access rules; `edge-agent outbox stat` and docs/outbox.md")
    if size > 0.8 * config.outbox.max_mb or age > 0.8 * 86400 * config.outbox.max_age_days:
        return warn(
            f"{text}: soon the least important and oldest are dropped", "bring the broker back; see `broker` below"
        )
    if age > 3600:
        return warn(text, "messages are not delivered: see `network`")
    return ok(text if waiting else f"empty, {size:.1f} of {config.outbox.max_mb:g} MB")


def _oldest_s(born: float | None, meta: dict[str, float | None]) -> float:
    """Age of the oldest message. It is kept in seconds of the store's own clock (``AgeClock``), whose last mark is ``meta``."""
    mark, wall = meta.get("age"), meta.get("wall")
    if born is None or mark is None:
        return 0.0
    since = time.time() - wall if wall is not None else 0.0
    return max(0.0, mark - born) + max(0.0, since)


def _told(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.0f} h"
    )
