"""A release of the agent: what its archive says, and how it becomes a folder that can run (docs/adr/013-releases.md).

Needs Python's standard library only, as a box's first installation has nothing else::

    PYTHONPATH=edge_agent-0.2.0-py3-none-any.whl python3 -m edge_agent.ota.release FILE.tar /opt/edge-agent
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.durable import sync_disk, sync_folder, write_file
from edge_agent.errors import EdgeAgentError, NoRoom, Tampered, UsageError, WrongHardware
from edge_agent.ota.bundle import RELEASE, unpack
from edge_agent.ota.child import run

LOCK = "requirements.txt"
CURRENT, UPDATER = "current", "updater"
VENV_S, INSTALL_S = 600.0, 3600.0
"""A slow SD card under load takes minutes for what a desktop does in seconds."""
FULL = 16 << 20
"""Bytes: with fewer left a failure is the disk's."""
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_LINE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]* --hash=sha256:[0-9a-f]{64}")
_HASH = re.compile(r"[0-9a-f]{64}")


def this_python() -> str:
    """As releases name it."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def release_name(machine: str | None = None, python: str | None = None) -> str:
    """Under which releases are published for this box, or another one."""
    return f"edge-agent-{machine or platform.machine()}-py{python or this_python()}"


@dataclass(frozen=True, slots=True)
class SeedModel:
    """A model that comes with a release: a bundle in its archive."""

    name: str
    version: str
    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Release:
    """``release.json``. ``glibc`` is the oldest that its wheels run with; ``installed_bytes`` what they are on the disk."""

    name: str
    version: str
    python: str
    machine: str
    glibc: str
    installed_bytes: int
    models: tuple[SeedModel, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Release:
        """Of an unpacked archive. Raises Tampered: it is none of ours."""
        try:
            with (folder / RELEASE).open("rb") as file:
                content = file.read(1 << 16)
        except OSError as error:
            raise Tampered(f"{folder.name} holds no release of the agent: {error}") from error
        return cls.parse(content, folder.name)

    @classmethod
    def parse(cls, content: bytes, where: str) -> Release:
        """Raises Tampered, with ``where``."""
        try:
            told = json.loads(content)
            if told.pop("format") != 1:
                raise ValueError("its format is newer than this agent")
            models = tuple(SeedModel(**model) for model in told.pop("models"))
            release = cls(**told, models=models)
            release._check()
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise Tampered(f"{where} holds no release of the agent: {error}") from error
        return release

    def _check(self) -> None:
        words = [self.name, self.version, *(text for m in self.models for text in (m.name, m.version, m.file))]
        if wrong := [word for word in words if not _WORD.fullmatch(word)]:
            raise ValueError(f"{wrong[0]!r} is no name")
        if not all(_HASH.fullmatch(model.sha256) for model in self.models):
            raise ValueError("a model's hash is none")
        if not all(re.fullmatch(r"[0-9]{1,3}\.[0-9]{1,3}", text) for text in (self.python, self.glibc)):
            raise ValueError("python and glibc must be two numbers")
        if not isinstance(self.machine, str) or not isinstance(self.installed_bytes, int):
            raise TypeError("machine must be a word, installed_bytes a number")

    def check_fits(self) -> None:
        """Raises WrongHardware."""
        label = f"{self.name}@{self.version}"
        if self.machine != platform.machine():
            raise WrongHardware(f"{label} is for {self.machine}; this box is {platform.machine()}")
        if self.python != this_python():
            raise WrongHardware(f"{label} is for Python {self.python}; this box has {this_python()}")
        kind, here = platform.libc_ver()
        if kind != "glibc" or _numbers(here) < _numbers(self.glibc):
            raise WrongHardware(f"{label} needs glibc {self.glibc}; this box has {kind or 'another libc'} {here}")


class Home:
    """Where releases live, ``/opt/edge-agent``; root's alone."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.releases, self.update = folder, folder / "releases", folder / "update"

    def place(self, version: str) -> Path:
        """The folder of a release: its venv."""
        return self.releases / version

    def built(self, version: str) -> tuple[str, str] | None:
        """Name and SHA-256 of what a complete release was made of; None where it is not there or half made."""
        try:
            with (self.place(version) / RELEASE).open("rb") as file:
                told = json.loads(file.read(1 << 16))
            return str(told["name"]), str(told["sha256"])
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def linked(self, link: str) -> str | None:
        """The version that ``current`` or ``updater`` leads to; None where it leads nowhere."""
        path = self.folder / link
        if not path.is_symlink() or not (path / "bin" / "edge-agent").exists():
            return None
        target = (self.folder / path.readlink()).resolve()
        return target.name if target.parent == self.releases.resolve() else None

    def lead(self, link: str, version: str | None) -> None:
        """Let a link lead to a release, by one rename that is on the disk when this returns; None: nowhere. Raises OSError."""
        path, target = self.folder / link, f"releases/{version}"
        if version is None:
            path.unlink(missing_ok=True)
        elif not path.is_symlink() or str(path.readlink()) != target:
            fresh = path.with_name(f"{link}.new")
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(target)
            fresh.replace(path)
        sync_folder(self.folder)


def build(
    folder: Path, home: Home, sha256: str, cancel: threading.Event | None = None, *, system: bool | None = None
) -> Release:
    """Make the release of an unpacked archive of that SHA-256; complete and on the disk when this returns.

    ``system``: it sees the system's Python packages too (JetPack's OpenCV, TensorRT); None: as who runs this does.
    Raises Tampered, WrongHardware, ActivationFailed, NoRoom, Interrupted, OSError.
    """
    release = Release.read(folder)
    release.check_fits()
    _check_lock(folder)
    place = home.place(release.version)
    if home.built(release.version) == (release.name, sha256):
        return release
    before = os.umask(0o022)  # the service's user must read it, whatever root's habits are
    shutil.rmtree(place, ignore_errors=True)
    try:
        home.releases.mkdir(parents=True, exist_ok=True)
        _install(folder, place, cancel, system=_sees_system() if system is None else system)
        _add_models(folder, release, place / "models")
        # A venv has thousands of files, written by others: all of them, before anything says that it is there.
        sync_disk(place)
        told = {"name": release.name, "version": release.version, "sha256": sha256}
        write_file(place / RELEASE, json.dumps(told, indent=1).encode())
        sync_folder(home.releases)
        sync_folder(home.folder)
    except BaseException as error:
        free = shutil.disk_usage(home.folder).free
        shutil.rmtree(place, ignore_errors=True)
        if free < FULL and isinstance(error, EdgeAgentError | OSError):
            raise NoRoom(f"{place}: the disk ran full ({free >> 20} MiB left): {error}") from error
        raise
    finally:
        os.umask(before)
    return release


def _install(folder: Path, place: Path, cancel: threading.Event | None, *, system: bool) -> None:
    python = str(getattr(sys, "_base_executable", sys.executable))  # a venv of a venv would go with the old one
    options = ["--system-site-packages"] if system else []
    own = next(folder.glob("pip-*.whl"), None)
    if own is not None:  # runs as it lies there, and is not installed itself
        options, program = [*options, "--without-pip"], [f"{own}/pip"]
    else:
        program = ["-m", "pip"]
    run([python, "-I", "-m", "venv", *options, str(place)], "making an environment", VENV_S, cancel)
    pip = [str(place / "bin" / "python"), "-I", *program, "--isolated", "--disable-pip-version-check", "--no-input"]
    what = ["install", "--quiet", "--no-index", "--no-cache-dir", "--no-deps", "--only-binary", ":all:"]
    from_here = ["--require-hashes", "--find-links", str(folder), "--requirement", str(folder / LOCK)]
    run([*pip, *what, *from_here], "installing the wheels", INSTALL_S, cancel)


def _check_lock(folder: Path) -> None:
    try:
        lines = (folder / LOCK).read_text("ascii").splitlines()
    except (OSError, ValueError) as error:
        raise Tampered(f"{folder.name}: no {LOCK}: {error}") from error
    if wrong := [line for line in lines if not _LINE.fullmatch(line)]:
        raise Tampered(f"{folder.name}: {LOCK} holds something else than versions and hashes: {wrong[0][:100]!r}")


def _add_models(folder: Path, release: Release, models: Path) -> None:
    models.mkdir()
    for model in release.models:
        if (hashed := _sha256(folder / model.file)) != model.sha256:
            raise Tampered(f"{model.file} has the SHA-256 {hashed}, not the one that {RELEASE} says")
        (models / model.name).mkdir(exist_ok=True)
        unpack(folder / model.file, models / model.name / model.version, model.sha256)


def _sees_system() -> bool:
    try:
        told = (Path(sys.prefix) / "pyvenv.cfg").read_text("utf-8")
    except OSError:
        return False
    return re.search(r"^include-system-site-packages *= *true$", told, re.MULTILINE) is not None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def archive_sha256(path: Path) -> str:
    """Of an archive that somebody names. Raises UsageError where there is none."""
    try:
        return _sha256(path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; give the archive of a release") from error


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", version)[:2])


def first(archive: Path, home: Home, *, system: bool) -> Release:
    """Install a release where there is none. Raises UsageError where there is one, and as ``build``."""
    if (there := home.linked(CURRENT)) is not None:
        raise UsageError(
            f"{home.folder}: {there} is installed; update it by {home.folder}/updater/bin/edge-agent update --from"
        )
    sha256 = archive_sha256(archive)
    home.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="new-", dir=home.folder) as work:
        folder = Path(work) / "archive"
        unpack(archive, folder, sha256)
        release = build(folder, home, sha256, system=system)
    for link in (UPDATER, CURRENT):
        home.lead(link, release.version)
    return release


def main(words: list[str] | None = None) -> int:
    """The first installation; the exit code."""
    parser = argparse.ArgumentParser(prog="edge_agent.ota.release", description="Install a release for the first time.")
    parser.add_argument("archive", type=Path, help="its file")
    parser.add_argument("home", type=Path, help="where to, /opt/edge-agent; made where it is not there")
    parser.add_argument("--system-site-packages", action="store_true", help="JetPack: see its OpenCV and TensorRT")
    args: Any = parser.parse_args(words)
    try:
        release = first(args.archive, Home(args.home), system=args.system_site_packages)
    except (EdgeAgentError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code if isinstance(error, EdgeAgentError) else 1
    sys.stdout.write(f"{release.name}@{release.version} is installed in {args.home}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
