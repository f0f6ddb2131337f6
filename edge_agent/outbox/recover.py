"""A damaged database: moved aside, and what can still be read taken over."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_agent.errors import OutboxError
from edge_agent.outbox.messages import ROW_BITS, Priority, Row
from edge_agent.outbox.records import Episode
from edge_agent.outbox.schema import files, translated

_COLUMNS = "SELECT row, sequence, topic, payload FROM message"


def identity(path: Path) -> tuple[int, int] | None:
    """Which file this is: device and inode; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def aside(path: Path) -> Path:
    """Where the database goes when it is damaged."""
    return path.with_name(path.name + ".corrupt")


def move_aside(path: Path) -> Path:
    """Rename the database and its log to ``<name>.corrupt``; an earlier one there is lost. Raises OutboxError."""
    target = aside(path)
    with translated(f"move {path.name} aside"):
        for old in files(target):
            old.unlink(missing_ok=True)
        for source, destination in zip(files(path), files(target), strict=True):
            if source.exists():
                source.replace(destination)
    return target


def expire_aside(path: Path, wall: float, retention_s: float) -> bool:
    """Delete what was moved aside once its last write is longer ago than that; whether that was so. Raises OutboxError.

    By the wall clock, right or wrong: too early costs nothing, as its messages were taken over.
    """
    with translated(f"delete {aside(path).name}"):
        there = [file for file in files(aside(path)) if file.exists()]
        if not there or wall - max(file.stat().st_mtime for file in there) <= retention_s:
            return False
        for file in there:
            file.unlink(missing_ok=True)
        return True


def readable_rows(path: Path) -> Iterator[Row]:
    """Every message that can be read: from the front up to the damage, then from the back. May repeat rows; raises nothing."""
    last = -1
    for row in _until_damage(path, f"{_COLUMNS} ORDER BY row"):
        if (good := _checked(row)) is not None:
            last = max(last, good.row)
            yield good
    for row in _until_damage(path, f"{_COLUMNS} WHERE row>{last} ORDER BY row DESC"):
        if (good := _checked(row)) is not None:
            yield good


def readable_episodes(path: Path) -> Iterator[Episode]:
    """The open episodes, as far as they can be read."""
    for row in _until_damage(path, "SELECT * FROM episode"):
        with contextlib.suppress(TypeError, ValueError):
            episode = Episode(*row)
            if isinstance(json.loads(episode.data), dict) and isinstance(episode.updated - episode.started, float):
                yield episode


def _until_damage(path: Path, query: str) -> Iterator[tuple[Any, ...]]:
    if not path.exists():  # removed; SQLite would make an empty one
        return
    with contextlib.suppress(sqlite3.Error, OutboxError):
        # Opened for writing: only so does SQLite take in what a killed process left in the log.
        cx = sqlite3.connect(path, isolation_level=None)
        try:
            cx.text_factory = lambda raw: raw.decode("utf-8", "replace")
            yield from cx.execute(query)
        finally:
            cx.close()


def _checked(values: tuple[Any, ...]) -> Row | None:
    row, sequence, topic, payload = values
    if not (isinstance(row, int) and isinstance(topic, str) and isinstance(payload, bytes) and topic):
        return None
    if not (0 <= row >> ROW_BITS <= max(Priority)) or not (sequence is None or isinstance(sequence, int)):
        return None
    try:
        json.loads(payload)
    except ValueError:
        return None
    return Row(row, sequence, topic, payload)
