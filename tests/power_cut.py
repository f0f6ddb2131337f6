"""What a folder looks like after the power was cut, at any moment of a program's run: a model of a disk, fed from ``strace``.

A file's content is on the disk from its fsync on; a name (made, renamed, removed) from the fsync of its folder on. What was not
synced may have got there all the same, names without contents or contents without names: each is tried.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CALLS = (
    "openat,close,lseek,write,pwrite64,ftruncate,sendfile,copy_file_range,fsync,fdatasync,"
    "rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,symlink,symlinkat"
)
_LINE = re.compile(r"^(\w+)\((.*)\) += (-?\d+)")
_FD = re.compile(r"^(AT_FDCWD|\d+)(?:<([^>]*)>)?$")


@dataclass(eq=False)
class File:
    """``content`` as programs see it, and what is on the disk."""

    content: bytearray = field(default_factory=bytearray)
    synced: bytes = b""


@dataclass(eq=False)
class Folder:
    """Names as programs see them, and those on the disk."""

    names: dict[str, File | Folder] = field(default_factory=dict)
    synced: dict[str, File | Folder] = field(default_factory=dict)


Node = File | Folder


@dataclass
class Opened:
    node: Node
    at: int = 0


def load(path: Path) -> Folder:
    """A folder that is on the disk as it is."""
    folder = Folder()
    for entry in path.iterdir():
        if entry.is_symlink():
            continue
        content = b"" if entry.is_dir() else entry.read_bytes()
        folder.names[entry.name] = load(entry) if entry.is_dir() else File(bytearray(content), content)
    folder.synced = dict(folder.names)
    return folder


@dataclass(frozen=True)
class Cut:
    """What gets to the disk beside what was synced: the names in some folders, and contents."""

    words: str
    names: Callable[[Folder], bool]
    contents: bool = False


def cuts(disk: Disk) -> Iterator[Cut]:
    """What may be left of the disk if the power is cut now."""
    yield Cut("only what was synced", lambda _: False)
    yield Cut("names too", lambda _: True)
    yield Cut("contents too", lambda _: False, contents=True)
    yield Cut("everything", lambda _: True, contents=True)
    for name, folder in disk.unsynced():
        yield Cut(f"names in {name} too", lambda other, it=folder: other is it)  # type: ignore[misc]
        yield Cut(f"names but those in {name} too", lambda other, it=folder: other is not it)  # type: ignore[misc]


def materialise(folder: Folder, target: Path, cut: Cut) -> None:
    """Write what would be found after ``cut``."""
    target.mkdir(parents=True)
    for name, node in _names(folder, cut).items():
        if isinstance(node, Folder):
            materialise(node, target / name, cut)
        else:
            (target / name).write_bytes(_content(node, cut))


def fingerprint(folder: Folder, cut: Cut) -> str:
    """The same for what is the same."""
    digest = hashlib.sha256()
    for name, node in sorted(_names(folder, cut).items()):
        inside = (
            fingerprint(node, cut).encode()
            if isinstance(node, Folder)
            else hashlib.sha256(_content(node, cut)).digest()
        )
        digest.update(f"{name}/{type(node).__name__}/".encode() + inside)
    return digest.hexdigest()


def _names(folder: Folder, cut: Cut) -> dict[str, Node]:
    return folder.names if cut.names(folder) else folder.synced


def _content(file: File, cut: Cut) -> bytes:
    return bytes(file.content) if cut.contents else file.synced


class Disk:
    """Below ``root``, beginning as ``before`` is; everything else is not looked at."""

    def __init__(self, root: Path, before: Path) -> None:
        self._root, self.top = root.resolve(), load(before)
        self._opened: dict[int, Opened] = {}

    def unsynced(self) -> Iterator[tuple[str, Folder]]:
        """Folders whose names are others than on the disk."""
        waiting = [("its top", self.top)]
        while waiting:
            name, folder = waiting.pop()
            if folder.names != folder.synced:
                yield name, folder
            waiting += [(inner, node) for inner, node in folder.names.items() if isinstance(node, Folder)]

    def take(self, line: str) -> str:
        """One line of the log; the call's name where it changed something here, else ""."""
        match = _LINE.match(line)
        if match is None or int(match[3]) < 0:
            return ""
        name, arguments, result = match[1], _split(match[2]), int(match[3])
        handler: Callable[[list[str], int], bool] | None = getattr(self, f"_{name}", None)
        return name if handler is not None and handler(arguments, result) else ""

    # ---- names

    def _find(self, path: Path) -> tuple[Folder, str] | None:
        """The folder a path is in, and its last part."""
        if not path.is_relative_to(self._root) or path == self._root:
            return None
        *parents, last = path.relative_to(self._root).parts
        node: Node = self.top
        for part in parents:
            assert isinstance(node, Folder)
            node = node.names[part]
        assert isinstance(node, Folder)
        return node, last

    def _node(self, path: Path) -> Node | None:
        if path == self._root:
            return self.top
        found = self._find(path)
        return None if found is None else found[0].names.get(found[1])

    def _openat(self, arguments: list[str], result: int) -> bool:
        path, flags = _at(arguments[0], arguments[1]), arguments[2]
        self._opened.pop(result, None)
        node, found = self._node(path), self._find(path)
        changed = False
        if node is None and found is not None and "O_CREAT" in flags:
            node = found[0].names[found[1]] = File()
            changed = True
        if node is not None:
            if isinstance(node, File) and "O_TRUNC" in flags and node.content:
                node.content.clear()
                changed = True
            self._opened[result] = Opened(node)
        return changed

    def _close(self, arguments: list[str], _: int) -> bool:
        self._opened.pop(_number(arguments[0]), None)
        return False

    def _mkdir(self, arguments: list[str], _: int) -> bool:
        return self._add(_at("AT_FDCWD", arguments[0]))

    def _mkdirat(self, arguments: list[str], _: int) -> bool:
        return self._add(_at(arguments[0], arguments[1]))

    def _add(self, path: Path) -> bool:
        if (found := self._find(path)) is not None:
            found[0].names[found[1]] = Folder()
        return found is not None

    def _rename(self, arguments: list[str], _: int) -> bool:
        return self._move(_at("AT_FDCWD", arguments[0]), _at("AT_FDCWD", arguments[1]))

    def _renameat(self, arguments: list[str], _: int) -> bool:
        return self._move(_at(arguments[0], arguments[1]), _at(arguments[2], arguments[3]))

    _renameat2 = _renameat

    def _move(self, old: Path, new: Path) -> bool:
        source, target = self._find(old), self._find(new)
        if source is not None and target is not None:
            target[0].names[target[1]] = source[0].names.pop(source[1])
        return source is not None

    def _unlink(self, arguments: list[str], _: int) -> bool:
        return self._remove(_at("AT_FDCWD", arguments[0]))

    _rmdir = _unlink

    def _unlinkat(self, arguments: list[str], _: int) -> bool:
        return self._remove(_at(arguments[0], arguments[1]))

    def _remove(self, path: Path) -> bool:
        found = self._find(path)
        return found is not None and found[0].names.pop(found[1], None) is not None  # links are not in the model

    # ---- contents

    def _lseek(self, arguments: list[str], result: int) -> bool:
        if (opened := self._opened.get(_number(arguments[0]))) is not None:
            opened.at = result
        return False

    def _write(self, arguments: list[str], result: int) -> bool:
        opened = self._opened.get(_number(arguments[0]))
        if opened is None or not isinstance(opened.node, File):
            return False
        data = _bytes(arguments[1])
        assert len(data) == result, "raise -s"
        content = opened.node.content
        content.extend(bytes(max(0, opened.at - len(content))))
        content[opened.at : opened.at + result] = data
        opened.at += result
        return True

    def _ftruncate(self, arguments: list[str], _: int) -> bool:
        opened = self._opened.get(_number(arguments[0]))
        if opened is None or not isinstance(opened.node, File):
            return False
        length = int(arguments[1])
        changed = len(opened.node.content) != length
        del opened.node.content[length:]
        opened.node.content.extend(bytes(length - len(opened.node.content)))
        return changed

    def _sendfile(self, arguments: list[str], result: int) -> bool:
        target, source = (self._opened.get(_number(text)) for text in arguments[:2])
        if target is None or not isinstance(target.node, File):
            return False
        assert source is not None and isinstance(source.node, File), "copied from elsewhere"
        data = source.node.content[target.at : target.at + result]
        target.node.content[target.at : target.at + result] = data
        target.at += result
        return result > 0

    def _fsync(self, arguments: list[str], _: int) -> bool:
        opened = self._opened.get(_number(arguments[0]))
        if opened is None:
            return False
        if isinstance(opened.node, File):
            opened.node.synced = bytes(opened.node.content)
        else:
            opened.node.synced = dict(opened.node.names)
        return True

    _fdatasync = _fsync


def record(command: Sequence[str], log: Path, timeout_s: float) -> None:
    """Run under strace, one thread of it."""
    strace = ["strace", "-y", "-xx", "-s", "2000000", "-e", f"trace={CALLS}", "-e", "signal=none", "-o", str(log)]
    done = subprocess.run([*strace, *command], capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stderr


def moments(root: Path, before: Path, log: Path) -> Iterator[tuple[str, Disk]]:
    """The disk before the first change and after each: (what was done last, the disk). Before the next one is asked for."""
    disk = Disk(root, before)
    yield "start", disk
    with log.open() as lines:
        for line in lines:
            if name := disk.take(line):
                yield name, disk


def places(
    command: Sequence[str], state: Path, before: Path, folder: Path, timeout_s: float, every: int = 1
) -> Iterator[tuple[Path, str]]:
    """Run a program that begins with ``before`` and changes ``state``; then each different disk that a power cut could leave.

    One of ``every`` is laid out below ``folder`` as ``.../state``, and is gone when the next is asked for; with it, in words, when.
    """
    log, seen = folder / "log", set[str]()
    record(command, log, timeout_s)
    for number, (call, disk) in enumerate(moments(state, before, log)):
        for cut in cuts(disk):
            mark = fingerprint(disk.top, cut)
            if mark in seen:
                continue
            seen.add(mark)
            if len(seen) % every:
                continue
            place = folder / f"cut-{len(seen)}"
            materialise(disk.top, place / "state", cut)
            yield place / "state", f"power cut after change {number} ({call}), left: {cut.words}"
            shutil.rmtree(place)


def killed_at(call: str, number: int, command: Sequence[str], timeout_s: float) -> bool:
    """Run, and kill -9 the process as it makes its ``number``-th such call. Whether it came to that."""
    inject = f"inject={call}:signal=SIGKILL:when={number}"
    strace = ["strace", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject]
    done = subprocess.run([*strace, *command], capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode in (0, -9, 137), done.stderr
    return done.returncode != 0


def _split(arguments: str) -> list[str]:
    """At commas that are not in a string or a path."""
    return (
        re.findall(r'(?:"[^"]*"(?:\.\.\.)?|<[^>]*>|\{[^}]*\}|\[[^\]]*\]|[^,"<])+', arguments.replace(", ", ","))
        if arguments
        else []
    )


def _number(text: str) -> int:
    match = _FD.match(text)
    return int(match[1]) if match is not None and match[1] != "AT_FDCWD" else -1


def _at(base: str, text: str) -> Path:
    match = _FD.match(base)
    assert match is not None, base
    folder = match[2] or ""
    return Path(_bytes(folder).decode() if folder.startswith("\\x") else folder) / _bytes(text).decode()


def _bytes(text: str) -> bytes:
    assert not text.endswith("..."), "raise -s"
    return bytes.fromhex(text.strip('"').replace("\\x", ""))
