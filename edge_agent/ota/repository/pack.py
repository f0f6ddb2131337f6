"""A folder of wheels becomes a release's archive (docs/adr/013-releases.md): what they are for is read from them, not told."""

from __future__ import annotations

import email
import hashlib
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_agent.durable import sync_folder
from edge_agent.errors import UsageError
from edge_agent.ota.bundle import RELEASE, digest, write_bundle
from edge_agent.ota.release import LOCK, Release, SeedModel, release_name, this_python

PACKAGE, INSTALLER = "edge-agent", "pip"
"""pip puts the others in place, from its own wheel, and is not installed itself."""
VENV_BYTES = 24 << 20
"""Of an environment with nothing but pip in it."""
MAX_NAME = 100
_GLIBC = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
_OLDEST = (2, 17)
"""No Python that the agent runs on is on an older one."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """One file, by its name (PEP 427) and its content."""

    path: Path
    name: str
    version: str
    python: str | None
    """It is for this very one ("3.11"); None: for any that the agent runs on."""
    platforms: tuple[str, ...]
    sha256: str
    installed_bytes: int

    @property
    def machine(self) -> str | None:
        """None: any."""
        found = re.fullmatch(r"(?:manylinux(?:1|2010|2014|_[0-9]+_[0-9]+)|linux)_([a-z0-9_]+)", self.platforms[0])
        return found[1] if found else None

    @property
    def glibc(self) -> tuple[int, ...]:
        """The oldest that will do."""
        return min((_glibc(tag) for tag in self.platforms), default=_OLDEST)

    @property
    def file_name(self) -> str:
        """As it is kept: what a bundle has no room for loses platform tags, of which one is enough."""
        if len(self.path.name) <= MAX_NAME:
            return self.path.name
        front, _, _ = self.path.name.removesuffix(".whl").rpartition("-")
        tag = min(self.platforms, key=_glibc)
        return f"{front}-{tag}.whl"


@dataclass(frozen=True, slots=True)
class Packed:
    """What was made."""

    path: Path
    release: Release
    sha256: str
    bytes: int
    wheels: int


def pack(
    wheels: Path,
    out: Path | None,
    *,
    models: Sequence[tuple[str, str, Path]] = (),
    root: Path | None = None,
    name: str | None = None,
) -> Packed:
    """Write the archive of the wheels in a folder; ``models``: (name, version, folder) that come with it. Raises UsageError.

    ``out`` None: here, under the name that archives have.
    """
    found = [_read(path) for path in sorted(wheels.iterdir())] if wheels.is_dir() else []
    own = _one_of_each(found, wheels)
    with tempfile.TemporaryDirectory(dir=Path() if out is None else out.parent, prefix="pack-") as work:
        folder = Path(work) / "release"
        folder.mkdir()
        for wheel in found:
            _place(wheel.path, folder / wheel.file_name)
        lines = sorted(
            f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n"
            for wheel in found
            if wheel.name != INSTALLER
        )
        folder.joinpath(LOCK).write_text("".join(lines), "ascii")
        seeds = tuple(_add_model(*model, folder) for model in models)
        if root is not None:
            shutil.copyfile(root, folder / "root.json")
        release = _describe(found, own, seeds, name)
        folder.joinpath(RELEASE).write_text(json.dumps({"format": 1, **asdict(release)}, indent=1) + "\n", "utf-8")
        fresh = Path(work) / "archive"
        with fresh.open("wb") as file:
            write_bundle(folder, file)
            file.flush()
            os.fsync(file.fileno())
        sha256, size = digest(folder), fresh.stat().st_size
        out = out or Path(f"{release.name}-{release.version}.tar")
        fresh.replace(out)
    sync_folder(out.parent)
    return Packed(out, release, sha256, size, len(found))


def pack_bundle(folder: Path, out: Path | None, **more: Any) -> Packed:
    """The same of an unpacked bundle (``make bundle``): its ``wheels/``, ``models/`` and ``root.json``. ``more`` as ``pack``."""
    models = [(path.parent.name, path.name, path) for path in sorted(folder.glob("models/*/*")) if path.is_dir()]
    root = folder / "root.json"
    return pack(folder / "wheels", out, **{"models": models, "root": root if root.is_file() else None} | more)


def _describe(found: list[Wheel], own: Wheel, models: tuple[SeedModel, ...], name: str | None) -> Release:
    python = _agree("Python", {wheel.python: wheel.path.name for wheel in found if wheel.python}) or this_python()
    machine = _agree("machine", {wheel.machine: wheel.path.name for wheel in found if wheel.machine})
    machine = machine or os.uname().machine
    glibc = max((wheel.glibc for wheel in found), default=_OLDEST)
    return Release(
        name=name or release_name(machine, python),
        version=own.version,
        python=python,
        machine=machine,
        glibc=".".join(map(str, max(glibc, _OLDEST))),
        installed_bytes=VENV_BYTES + sum(wheel.installed_bytes for wheel in found if wheel.name != INSTALLER),
        models=models,
    )


def _read(path: Path) -> Wheel:
    parts = path.name.removesuffix(".whl").split("-")
    if path.suffix != ".whl" or len(parts) not in {5, 6}:
        hint = "; build a wheel of it: pip wheel --no-deps" if path.name.endswith((".tar.gz", ".zip")) else ""
        raise UsageError(f"{path}: no wheel, and nothing else belongs into this folder{hint}")
    python, abi, platforms = parts[-3:]
    if not all(tag == "any" or re.match(r"(many)?linux", tag) for tag in platforms.split(".")):
        raise UsageError(f"{path}: {platforms} is no platform that the agent runs on (Linux with glibc)")
    exact = re.fullmatch(r"cp3([0-9]+)", python)
    try:
        with zipfile.ZipFile(path) as archive:
            (metadata,) = (n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
            told = email.message_from_bytes(archive.read(metadata))
            files = archive.infolist()
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: cannot be read as a wheel: {error}") from error
    compiled = sum(file.file_size for file in files if file.filename.endswith(".py"))
    return Wheel(
        path=path,
        name=re.sub(r"[-_.]+", "-", told["Name"]).lower(),
        version=told["Version"],
        python=f"3.{exact[1]}" if exact and abi != "abi3" else None,
        platforms=tuple(platforms.split(".")),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        installed_bytes=sum(file.file_size for file in files) + compiled,
    )


def _one_of_each(found: list[Wheel], folder: Path) -> Wheel:
    """The agent's own."""
    names = [wheel.name for wheel in found]
    if double := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"{folder}: more than one wheel of {', '.join(sorted(double))}; keep the one that is meant")
    own = next((wheel for wheel in found if wheel.name == PACKAGE), None)
    if own is None:
        raise UsageError(f"{folder}: no wheel of {PACKAGE} among {len(found)}; `make bundle` puts all there")
    return own


def _agree(what: str, found: dict[str, str]) -> str | None:
    if len(found) > 1:
        told = ", ".join(f"{file} is for {value}" for value, file in sorted(found.items()))
        raise UsageError(f"the wheels are not for the same {what}: {told}")
    return next(iter(found), None)


def _add_model(name: str, version: str, source: Path, folder: Path) -> SeedModel:
    file = f"{name}-{version}.tar"
    with (folder / file).open("wb") as out:
        write_bundle(source, out)
    return SeedModel(name, version, file, digest(source))


def _place(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk
        shutil.copyfile(source, target)


def _glibc(tag: str) -> tuple[int, ...]:
    if (new := re.match(r"manylinux_([0-9]+)_([0-9]+)_", tag)) is not None:
        return int(new[1]), int(new[2])
    return next((version for old, version in _GLIBC.items() if tag.startswith(f"{old}_")), _OLDEST)
