"""Files that are whole after a power cut: the old content or the new, never half of one."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path


def write_file(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Put ``content`` in the place of what is at ``path``; on disk when this returns. Raises OSError, then the old one stays.

    ``mode``, less the umask, is that of a file that is made.
    """
    fresh = path.with_name(path.name + ".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    with os.fdopen(os.open(fresh, flags, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """What was made, renamed and removed in a folder is so on disk when this returns. Raises OSError."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sync_disk(path: Path) -> None:
    """Everything that was written to the disk that ``path`` is on is there when this returns (syncfs(2)). Raises OSError.

    For thousands of files. Not ``os.sync``, which waits for every disk, and for ever for a network's that is gone.
    """
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(folder):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(folder)
