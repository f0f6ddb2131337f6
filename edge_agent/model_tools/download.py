"""Takes one file whose size and SHA-256 are known beforehand, from the network or from a disk; no other content comes through."""

from __future__ import annotations

import errno
import hashlib
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from edge_agent.errors import DownloadError, HardwareError, ModelError, UsageError
from edge_agent.model_tools.intake import open_regular
from edge_agent.web import BLOCK, SILENCE_S, SLOWEST, get

Progress = Callable[[int], None]
"""Called in the same thread with the number of bytes that are here."""


@dataclass(frozen=True, slots=True)
class Known:
    """The file that is wanted: ``size`` in bytes, ``sha256`` in hex."""

    name: str
    size: int
    sha256: str


def mirror(url: str) -> str | Path:
    """What ``--url`` names: an address, or the path of a ``file://``. Raises UsageError."""
    try:
        parts = urlsplit(url)
        host, user = parts.hostname or "", parts.username
        _ = parts.port
    except ValueError as error:
        raise UsageError(f"--url: no address: {error}") from error
    if parts.scheme == "file" and host in ("", "localhost") and parts.path:
        return Path(urllib.request.url2pathname(parts.path))
    if user is not None:
        raise UsageError("--url: a name or password in an address is not taken; fetch the file and give it with --file")
    if parts.scheme not in ("https", "http") or not host or not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError("--url: give https://HOST/FILE, http://HOST/FILE or file:///PATH, blanks in it as %20")
    return url


def take_file(source: Path, target: Path, known: Known, progress: Progress) -> None:
    """Copy ``source`` to ``target``. Raises ModelError (no such file, another file), HardwareError (no room)."""
    try:
        with open_regular(source) as file:
            total, digest = _copy(_blocks_of(file), target, known, progress)
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from error
    if total < known.size:
        raise ModelError(f"{source}: it has {total} bytes, {known.name} has {known.size}: this is another file")
    _check(digest, known, str(source))


def download(
    url: str,
    target: Path,
    known: Known,
    progress: Progress,
    *,
    silence_s: float = SILENCE_S,
    total_s: float | None = None,
) -> None:
    """Fetch ``url`` to ``target``; proxies and certificates as the environment has them (``https_proxy``, ``SSL_CERT_FILE``).

    ``total_s`` limits the whole; by default the time that the file takes at the slowest rate. Raises DownloadError (refused,
    silent, broken off: another way or another time may help), ModelError (another file), HardwareError (no room).
    """
    with get(url, total_s=total_s or 2 * silence_s + known.size / SLOWEST, silence_s=silence_s) as answer:
        if answer.length not in (None, known.size):
            raise ModelError(
                f"{answer.host} gives {answer.length} bytes for it, {known.name} has {known.size}: this is something else, "
                "perhaps the page of a proxy or a login; refused"
            )
        total, digest = _copy(answer.blocks(), target, known, progress)
        if total < known.size:
            raise DownloadError(f"{answer.host} broke off after {total} of {known.size} bytes")
        _check(digest, known, f"what {answer.host} gave")


# ---- what both share


def _copy(blocks: Iterator[bytes], target: Path, known: Known, progress: Progress) -> tuple[int, str]:
    """Write ``target``; how many bytes came, and their SHA-256. Never more than ``known.size``."""
    digest, total = hashlib.sha256(), 0
    try:
        with target.open("xb") as out:
            for block in blocks:
                total += len(block)
                if total > known.size:
                    raise ModelError(f"more than the {known.size} bytes of {known.name} came: this is something else")
                digest.update(block)
                out.write(block)
                progress(total)
    except OSError as error:  # of the disk: those of the network are ours already
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"no room for the {known.size} bytes of {known.name} in the models directory: {error.strerror}"
            raise HardwareError(text) from error
        raise
    return total, digest.hexdigest()


def _check(digest: str, known: Known, what: str) -> None:
    if digest != known.sha256:
        raise ModelError(
            f"{what} is not {known.name}: its SHA-256 is {digest}, it must be {known.sha256}; refused, nothing was kept"
        )


def _blocks_of(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block
