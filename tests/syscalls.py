"""What a process did to its files and sockets, from ``strace``: what of a file would be left by a power cut at any moment.

A file's content counts from its last ``fsync`` or ``fdatasync`` that had returned; what was written since is lost.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_CALLS = "pwrite64,write,ftruncate,fdatasync,fsync,sendto,sendmsg"
_LINE = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)(?: resumed>|\()(.*)$")
_ARGUMENTS = re.compile(r'^(\d+)<([^>]*)>(?:, (?:"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?, )?(?:(\d+)(?:, (\d+))?)?)?')
_SENT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(frozen=True, slots=True)
class Call:
    """One that came back without an error, in the order of coming back (of sends: of going in)."""

    name: str
    path: str
    data: bytes = b""
    number: int = 0
    """Offset of a write, length of a truncation."""


def traced(command: Sequence[str], log: Path, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run under strace."""
    strace = ["strace", "-f", "-y", "-xx", "-s", "200000", "-e", f"trace={_CALLS}", "-e", "signal=none", "-o", str(log)]
    return subprocess.run([*strace, *command], capture_output=True, text=True, timeout=timeout_s, check=False)


def calls(log: Path) -> Iterator[Call]:
    """Everything in a log of ``traced``."""
    begun: dict[str, str] = {}
    for line in log.read_text().splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        pid, name, rest = match.groups()
        if rest.endswith("<unfinished ...>"):
            begun[pid] = rest.removesuffix("<unfinished ...>")
            if name.startswith("send"):
                yield _call(name, rest)
            continue
        resumed = "resumed>" in line
        arguments = begun.pop(pid) if resumed else rest
        failed = re.search(r"= -1 ", rest) is not None
        if not failed and not (resumed and name.startswith("send")):
            yield _call(name, arguments)


def _call(name: str, arguments: str) -> Call:
    if name.startswith("send"):
        return Call(name, "", b"".join(map(_bytes, _SENT.findall(arguments))))
    match = _ARGUMENTS.match(arguments)
    assert match is not None, arguments[:200]
    _, path, text, cut, first, second = match.groups()
    assert cut is None, "raise -s"
    path = _bytes(path).decode() if path.startswith("\\x") else path
    number = second if name == "pwrite64" else first
    return Call(name, path, _bytes(text or ""), int(number or 0))


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


@dataclass(slots=True)
class Disk:
    """Files as a power cut would leave them."""

    written: dict[str, bytearray] = field(default_factory=dict)
    synced: dict[str, bytes] = field(default_factory=dict)

    def take(self, call: Call) -> None:
        """The next call."""
        if call.name == "pwrite64":
            content = self.written.setdefault(call.path, bytearray())
            content.extend(bytes(max(0, call.number + len(call.data) - len(content))))
            content[call.number : call.number + len(call.data)] = call.data
        elif call.name == "ftruncate":
            content = self.written.setdefault(call.path, bytearray())
            del content[call.number :]
            content.extend(bytes(call.number - len(content)))
        elif call.name in {"fsync", "fdatasync"} and call.path in self.written:
            self.synced[call.path] = bytes(self.written[call.path])

    def leave(self, folder: Path, *names: Path) -> None:
        """Write what is left of these files into a folder."""
        folder.mkdir()
        for path in names:
            if (content := self.synced.get(str(path))) is not None:
                (folder / path.name).write_bytes(content)
