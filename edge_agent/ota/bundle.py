"""A model version (or a release) as one file: the same folder makes the same bytes anywhere, and only such bytes become a folder.

POSIX ustar, not compressed (networks hardly get smaller, and nothing can blow up), names sorted, no times, owners or folders.
A folder's digest is the SHA-256 of the bundle it makes. So one number stands for the bundle on its way and, at any later
time, for the folder on the disk.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from pathlib import Path
from typing import IO, BinaryIO

from edge_agent.durable import sync_folder
from edge_agent.errors import Tampered, UsageError

MAX_FILES = 200
MAX_BYTES = 2 << 30
MANIFEST, RELEASE, LAYER = "manifest.yaml", "release.json", "config.json"
"""One of them is in every bundle, and says what it is."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What a model's manifest may name, and ustar has room for."""


def write_bundle(folder: Path, out: IO[bytes]) -> None:
    """Write the bundle of a model version's folder. Raises UsageError (what cannot be in one), OSError."""
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
        for path in _files(folder):
            with path.open("rb") as file:
                member = tarfile.TarInfo(path.name)
                member.size = os.fstat(file.fileno()).st_size
                tar.addfile(member, file)


def digest(folder: Path) -> str:
    """SHA-256 (hex) of the bundle that a folder makes. Raises as ``write_bundle``."""
    sink = _Hash()
    write_bundle(folder, sink)  # type: ignore[arg-type]
    return sink.sha256.hexdigest()


def unpack(archive: Path, folder: Path, sha256: str) -> None:
    """Make ``folder``, which is not there yet, of a bundle whose SHA-256 was checked; on disk when this returns.

    Raises Tampered where it is no bundle of ours, and OSError; a folder that is half made is the caller's to remove.
    """
    folder.mkdir()
    try:
        with archive.open("rb") as file:
            _unpack(file, folder, os.fstat(file.fileno()).st_size)
        sync_folder(folder)
        same = digest(folder) == sha256
    except (tarfile.TarError, FileExistsError, UsageError, ValueError) as error:
        raise Tampered(f"{archive.name} is signed but no bundle: {error}") from error
    if not same:
        raise Tampered(f"{archive.name} is signed but no bundle: what is in it does not make it again")


def member(archive: Path, name: str, limit: int = 1 << 16) -> bytes:
    """One file of a bundle, without unpacking it. Raises Tampered where it has none that is so small, OSError."""
    try:
        with archive.open("rb") as file:
            while (header := file.read(tarfile.BLOCKSIZE)) and header.strip(b"\0"):
                found = tarfile.TarInfo.frombuf(header, "ascii", "strict")
                if found.name == name and found.type == tarfile.REGTYPE and 0 <= found.size <= limit:
                    return file.read(found.size)
                file.seek(max(0, found.size) + -found.size % tarfile.BLOCKSIZE, os.SEEK_CUR)
    except (tarfile.TarError, ValueError) as error:
        raise Tampered(f"{archive.name} is no bundle: {error}") from error
    raise Tampered(f"{archive.name} is no bundle with a {name} in it")


def _unpack(file: BinaryIO, folder: Path, room: int) -> None:
    """Header by header, as ``tarfile`` would follow what no bundle has: links, long names, sparse files, headers of a gigabyte."""
    count = 0
    while (header := file.read(tarfile.BLOCKSIZE)) and header.strip(b"\0"):
        member = tarfile.TarInfo.frombuf(header, "ascii", "strict")
        count, room = count + 1, room - member.size
        if member.type != tarfile.REGTYPE or not _NAME.fullmatch(member.name):
            raise Tampered(
                f"{folder.name} is signed but no bundle: {member.name[:100]!r} is no regular file with a plain name"
            )
        if count > MAX_FILES or member.size < 0 or room < 0:
            raise Tampered(f"{folder.name} is signed but no bundle: it holds more than there is, or too many files")
        with (folder / member.name).open("xb") as out:
            _copy(file, out, member.size)
            out.flush()
            os.fsync(out.fileno())
        file.seek(-member.size % tarfile.BLOCKSIZE, os.SEEK_CUR)


def _copy(file: BinaryIO, out: BinaryIO, size: int) -> None:
    while size and (block := file.read(min(size, 1 << 20))):
        out.write(block)
        size -= len(block)


def _files(folder: Path) -> list[Path]:
    paths = sorted(folder.iterdir(), key=lambda path: path.name)
    if not any(path.name in {MANIFEST, RELEASE, LAYER} for path in paths):
        raise UsageError(f"{folder}: no {MANIFEST} there, this is no model")
    for path in paths:
        if path.is_symlink() or not path.is_file():
            raise UsageError(f"{path}: a bundle holds regular files only")
        if not _NAME.fullmatch(path.name):
            raise UsageError(f"{path}: a file's name must be letters, digits, '.', '_' and '-' only, at most 100")
    if len(paths) > MAX_FILES or sum(path.stat().st_size for path in paths) > MAX_BYTES:
        raise UsageError(f"{folder}: at most {MAX_FILES} files with {MAX_BYTES >> 30} GiB fit into a bundle")
    return paths


class _Hash:
    """A file to write to that only counts."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Take bytes."""
        self.sha256.update(data)
        return len(data)
