"""Takes a file from outside into a folder of ours: what is it, is it whole, does it reach for anything it should not.

Runs in the inspecting child process. Nothing here trusts a name, a size or a count that the file gives.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from edge_agent.errors import ModelError
from edge_agent.model_tools.facts import MAX_FILE_BYTES, MIB, Format

MAX_ENTRIES = 1000
NETWORKS = (".onnx", ".tflite", ".xml")
TO_ONNX = "export it to ONNX with the tool that trained it; it was not loaded"
_FOREIGN = {
    ".pt": f"a PyTorch checkpoint, which can run any program when it is loaded: {TO_ONNX}",
    ".pth": f"a PyTorch checkpoint, which can run any program when it is loaded: {TO_ONNX}",
    ".pkl": f"a Python pickle, which can run any program when it is loaded: {TO_ONNX}",
    ".safetensors": f"weights without a network: {TO_ONNX}",
    ".h5": "a Keras model: convert it to TFLite or ONNX",
    ".keras": "a Keras model: convert it to TFLite or ONNX",
    ".pb": "a TensorFlow graph: convert it to TFLite or ONNX",
    ".engine": "a TensorRT engine, which fits one GPU and one TensorRT version: give the ONNX file that it was built from",
    ".plan": "a TensorRT engine, which fits one GPU and one TensorRT version: give the ONNX file that it was built from",
    ".trt": "a TensorRT engine, which fits one GPU and one TensorRT version: give the ONNX file that it was built from",
    ".bin": "weights: give the .xml file that lies beside it",
    ".mlmodel": f"a Core ML model: {TO_ONNX}",
    ".blob": "compiled for another device: give the ONNX file or IR that it was made from",
    ".hef": "compiled for another device: give the ONNX file or IR that it was made from",
    ".param": f"an ncnn network: {TO_ONNX}",
}
_MAGIC = {
    b"\x89HDF": ".h5",
    b"ftrt": ".engine",
    b"ptrt": ".engine",
    **{bytes((0x80, protocol)): ".pkl" for protocol in range(2, 6)},
}


def open_regular(path: Path, *, follow: bool = True) -> BinaryIO:
    """Open a regular file of bearable size; never waits on a FIFO or a device. Raises ModelError."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        number = os.open(path, flags)
    except OSError as error:
        why = "it is a symbolic link" if not follow and path.is_symlink() else error.strerror
        raise ModelError(str(why)) from error
    found = os.fstat(number)
    if stat.S_ISREG(found.st_mode) and 0 < found.st_size <= MAX_FILE_BYTES:
        return os.fdopen(number, "rb")
    os.close(number)
    if not stat.S_ISREG(found.st_mode):
        raise ModelError(f"it is no regular file but a {_kind(found.st_mode)}")
    if not found.st_size:
        raise ModelError("it is empty")
    raise ModelError(f"it has {found.st_size} bytes; at most {MAX_FILE_BYTES // MIB} MiB are taken")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "pipe", stat.S_IFDIR: "folder", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")


def take(source: Path, folder: Path) -> tuple[Format, Path]:
    """Copy the network in ``source`` to ``folder``; its format and the copy. Raises ModelError."""
    with open_regular(source) as file:
        kind = sniff(file.read(4096), source.name)
        file.seek(0)
        if kind == "zip":
            return _take_zip(file, folder)
        suffix = {"onnx": ".onnx", "tflite": ".tflite", "openvino": ".xml"}[kind]
        copy = folder / _safe_name(source.stem, suffix)
        _copy(file, copy)
    if kind == "openvino":
        take_beside(source.parent, source.with_suffix(".bin").name, folder, copy.with_suffix(".bin").name)
    return kind, copy  # type: ignore[return-value] # zip was returned above


def sniff(head: bytes, name: str) -> str:
    """``onnx``, ``tflite``, ``openvino`` or ``zip``, by content. Raises ModelError that says what else it is."""
    suffix = Path(name).suffix.lower()
    for magic, foreign in _MAGIC.items():
        if head.startswith(magic):
            raise ModelError(f"it is {_FOREIGN[foreign]}")
    if head[4:8] == b"TFL3":
        return "tflite"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if suffix in _FOREIGN:
        raise ModelError(f"it is {_FOREIGN[suffix]}")
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        return "openvino"
    # ONNX has no magic number; every writer begins with field 1, the IR version.
    if head.startswith(b"\x08") or suffix == ".onnx":
        return "onnx"
    raise ModelError("it is none of ONNX, TFLite, OpenVINO IR (.xml) or a .zip with one of them")


def take_beside(where: Path, name: str, folder: Path, as_name: str | None = None) -> None:
    """Copy ``name``, which a network file refers to, from the folder it lies in. Raises ModelError."""
    if not name or name != Path(name).name or name in (".", "..") or "\\" in name or "\0" in name:
        raise ModelError(f"it wants data from {name[:200]!r}, outside its own folder: refused")
    if (as_name or name) != _safe_name(as_name or name, ""):
        raise ModelError(f"the data file is called {name[:100]!r}: only letters, digits, '.', '_' and '-' are taken")
    target = folder / (as_name or name)
    if not target.exists():
        try:
            with open_regular(where / name, follow=False) as file:
                _copy(file, target)
        except ModelError as error:
            raise ModelError(f"it needs {name}, but: {error}") from error


def _safe_name(stem: str, suffix: str) -> str:
    clean = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in stem)[:100]
    return (clean if clean[:1].isalnum() else f"model{clean}") + suffix


def _copy(source: BinaryIO, target: Path, limit: int = MAX_FILE_BYTES) -> int:
    total = 0
    with target.open("xb") as out:
        while block := source.read(MIB):
            total += len(block)
            if total > limit:
                raise ModelError(f"{target.name}: it grows beyond {limit // MIB} MiB")
            out.write(block)
    return total


# ---- archives


def _take_zip(file: BinaryIO, folder: Path) -> tuple[Format, Path]:
    try:
        with zipfile.ZipFile(file) as archive:
            return _from_archive(archive, folder)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, zlib.error) as error:
        raise ModelError(f"the archive is damaged: {error}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # an entry that is said to begin before the file; others are faults of the disk
            raise
        raise ModelError("the archive is damaged: an entry is said to lie outside of it") from error


def _from_archive(archive: zipfile.ZipFile, folder: Path) -> tuple[Format, Path]:
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise ModelError(f"the archive has {len(entries)} entries; at most {MAX_ENTRIES} are taken")
    for entry in entries:
        _check_entry(entry)
    if sum(entry.file_size for entry in entries) > MAX_FILE_BYTES:
        raise ModelError(f"the archive unpacks to more than {MAX_FILE_BYTES // MIB} MiB")
    names = {entry.filename for entry in entries if not _is_litter(entry.filename)}
    if any(PurePosixPath(name).name in ("data.pkl", "constants.pkl") for name in names):
        raise ModelError(f"it is {_FOREIGN['.pt']}")
    networks = sorted(name for name in names if name.lower().endswith(NETWORKS))
    if len(networks) != 1:
        found = ", ".join(networks[:5]) or "none"
        raise ModelError(f"the archive must hold one network (.onnx, .tflite, or .xml with .bin); it holds: {found}")
    return _unpack(archive, PurePosixPath(networks[0]), folder)


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = entry.filename
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\\" in name or PureWindowsPath(name).drive:
        raise ModelError(f"the archive holds {name[:200]!r}, which would be written outside the folder: refused")
    mode = entry.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ModelError(f"the archive holds {name[:200]!r}, a symbolic link or device: refused")
    if entry.flag_bits & 1:
        raise ModelError("the archive is encrypted: unpack it first")


def _is_litter(name: str) -> bool:
    return name.startswith("__MACOSX/") or PurePosixPath(name).name.startswith(".")


def _unpack(archive: zipfile.ZipFile, network: PurePosixPath, folder: Path) -> tuple[Format, Path]:
    """The network under a safe name, and what lies in its own folder of the archive under its own."""
    copy = folder / _safe_name(network.stem, network.suffix.lower())
    left = MAX_FILE_BYTES
    beside = folder / ".beside"
    beside.mkdir()
    for entry in archive.infolist():
        path = PurePosixPath(entry.filename)
        if entry.is_dir() or path.parent != network.parent or _is_litter(entry.filename):
            continue
        target = copy if path == network else beside / path.name
        with archive.open(entry) as source:
            left -= _copy(source, target, left)  # type: ignore[arg-type]
    with copy.open("rb") as file:
        kind = sniff(file.read(4096), copy.name)
    if kind == "zip":
        raise ModelError("the archive holds another archive: unpack it first")
    if kind == "openvino":
        take_beside(beside, network.with_suffix(".bin").name, folder, copy.with_suffix(".bin").name)
    return kind, copy  # type: ignore[return-value]


def neighbours(source: Path, folder: Path) -> Path:
    """Where the files that lay beside the network are: unpacked, or in the folder the user has it in."""
    beside = folder / ".beside"
    return beside if beside.is_dir() else source.parent


def tidy(folder: Path) -> None:
    """Remove what was unpacked and not asked for."""
    shutil.rmtree(folder / ".beside", ignore_errors=True)
