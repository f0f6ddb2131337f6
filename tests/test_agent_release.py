"""The archive of a release: what is read from wheels, and what a box refuses before anything is built."""

from __future__ import annotations

import hashlib
import json
import platform
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import NoRoom, Tampered, UsageError, WrongHardware
from edge_agent.ota.archive import Archive
from edge_agent.ota.bundle import unpack, write_bundle
from edge_agent.ota.release import Home, Release, build, release_name, this_python
from edge_agent.ota.repository.pack import pack, pack_bundle
from tests.agent_releases import write_release, write_wheel
from tests.ota_fixtures import model_folder


def native(folder: Path, tags: str, name: str = "fast", python: str = "cp311-cp311") -> Path:
    """A wheel with machine code, as far as its name says so."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-2.0-{python}-{tags}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "x = 1\n" * 1000)
        archive.writestr(f"{name}-2.0.dist-info/METADATA", f"Name: {name}\nVersion: 2.0\n")
    return path


def packed(folder: Path) -> Release:
    """What the archive of the wheels in a folder says it is."""
    return pack(folder, folder.parent / "made.tar").release


def test_what_a_release_is_for_is_read_from_its_wheels(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    write_wheel(wheels, "1.2")
    assert packed(wheels).name == release_name()  # nothing in it is for one kind of box only
    native(wheels, "manylinux2014_aarch64.manylinux_2_17_aarch64")
    native(wheels, "manylinux_2_28_aarch64.manylinux_2_34_aarch64", "newer", "cp310-abi3")
    release = packed(wheels)
    assert (release.name, release.version) == ("edge-agent-aarch64-py3.11", "1.2")
    assert (release.python, release.machine, release.glibc) == ("3.11", "aarch64", "2.28")
    assert release.installed_bytes > 24_000_000
    assert pack(wheels, tmp_path / "again.tar").sha256 == pack(wheels, tmp_path / "once.tar").sha256


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "manylinux_2_28_x86_64",
            "not for the same machine: fast-2.0-cp311-cp311-manylinux2014_aarch64.whl is for aarch64",
        ),
        ("musllinux_1_2_aarch64", "no platform that the agent runs on"),
        ("macosx_11_0_arm64", "no platform that the agent runs on"),
    ],
)
def test_wheels_that_do_not_fit_together_are_refused(tmp_path: Path, name: str, text: str) -> None:
    wheels = tmp_path / "wheels"
    write_wheel(wheels, "1.2")
    native(wheels, "manylinux2014_aarch64")
    native(wheels, name, "other")
    with pytest.raises(UsageError, match=text):
        packed(wheels)


def test_what_is_missing_or_too_much_is_told(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    with pytest.raises(UsageError, match="no wheel of edge-agent among 0"):
        packed(wheels)
    write_wheel(wheels, "1.2")
    (wheels / "systemd-python-235.tar.gz").touch()
    with pytest.raises(UsageError, match="build a wheel of it: pip wheel"):
        packed(wheels)
    (wheels / "systemd-python-235.tar.gz").unlink()
    write_wheel(wheels, "1.3")
    with pytest.raises(UsageError, match="more than one wheel of edge-agent"):
        packed(wheels)
    (wheels / "broken-1-py3-none-any.whl").write_text("no zip")
    with pytest.raises(UsageError, match="cannot be read as a wheel"):
        packed(wheels)


def test_a_name_too_long_for_an_archive_keeps_the_oldest_platform_that_will_do(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    write_wheel(wheels, "1.2")
    native(
        wheels, "manylinux2014_x86_64.manylinux_2_17_x86_64.manylinux_2_28_x86_64", "a_rather_long_name_for_one_package"
    )
    pack(wheels, tmp_path / "made.tar")
    with tarfile.open(tmp_path / "made.tar") as tar:
        names = tar.getnames()
    assert "a_rather_long_name_for_one_package-2.0-cp311-cp311-manylinux2014_x86_64.whl" in names


def test_a_bundles_models_and_root_come_along(tmp_path: Path) -> None:
    write_wheel(tmp_path / "bundle" / "wheels", "1.2")
    model_folder(tmp_path / "bundle" / "models", "1.0")
    (tmp_path / "bundle" / "root.json").write_text("{}")
    made = pack_bundle(tmp_path / "bundle", tmp_path / "made.tar")
    (seed,) = made.release.models
    assert (seed.name, seed.version, seed.file) == ("eyes", "1.0", "eyes-1.0.tar")
    unpack(tmp_path / "made.tar", tmp_path / "out", made.sha256)
    assert {"root.json", "eyes-1.0.tar", "requirements.txt"} <= {path.name for path in (tmp_path / "out").iterdir()}


# ---- on the box


def changed(tmp_path: Path, **facts: Any) -> Path:
    """The unpacked archive of a release that says something else."""
    made = write_release(tmp_path, "1.2")
    unpack(made.path, tmp_path / "out", made.sha256)
    told = json.loads((tmp_path / "out" / "release.json").read_text())
    (tmp_path / "out" / "release.json").write_text(json.dumps(told | facts))
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("facts", "kind", "text"),
    [
        ({"machine": "riscv64"}, WrongHardware, f"is for riscv64; this box is {platform.machine()}"),
        ({"python": "3.99"}, WrongHardware, f"is for Python 3.99; this box has {this_python()}"),
        ({"glibc": "9.9"}, WrongHardware, "needs glibc 9.9; this box has glibc"),
        ({"format": 2}, Tampered, "its format is newer than this agent"),
        ({"version": "../1"}, Tampered, "'../1' is no name"),
        ({"more": 1}, Tampered, "unexpected keyword argument 'more'"),
        ({"installed_bytes": "1"}, Tampered, "installed_bytes a number"),
        (
            {"models": [{"name": "a", "version": "1", "file": "a.tar", "sha256": "0"}]},
            Tampered,
            "a model's hash is none",
        ),
    ],
)
def test_what_is_not_for_this_box_is_not_built(
    tmp_path: Path, facts: dict[str, Any], kind: type[Exception], text: str
) -> None:
    folder, home = changed(tmp_path, **facts), Home(tmp_path / "opt")
    with (tmp_path / "changed.tar").open("wb") as file:
        write_bundle(folder, file)
    with pytest.raises(kind, match=text):
        Archive(tmp_path / "changed.tar", home.update, 0).look()
    with pytest.raises(kind, match=text):
        build(folder, home, "0" * 64)
    assert not home.folder.exists()


@pytest.mark.parametrize("line", ["--index-url https://evil.example", "-e .", "fast==2.0", "fast==2.0 --hash=md5:00"])
def test_a_lock_that_holds_more_than_hashes_is_refused(tmp_path: Path, line: str) -> None:
    folder = changed(tmp_path)
    with (folder / "requirements.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(Tampered, match="holds something else than versions and hashes"):
        build(folder, Home(tmp_path / "opt"), "0" * 64)


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(tmp_path: Path) -> None:
    made = write_release(tmp_path, "1.2")
    archive = Archive(made.path, tmp_path / "downloads", keep_free_mb=1 << 30)
    with pytest.raises(NoRoom, match="MiB are needed"):
        archive.fetch(archive.look(), lambda _: None, None)  # type: ignore[arg-type]
    assert list((tmp_path / "downloads").iterdir()) == []


def test_a_file_that_is_no_release_is_told(tmp_path: Path) -> None:
    for content in (b"", b"x" * 4096, hashlib.sha256().digest() * 64):
        (tmp_path / "no.tar").write_bytes(content)
        with pytest.raises(Tampered, match="is no bundle"):
            Archive(tmp_path / "no.tar", tmp_path, 0).look()
    with pytest.raises(UsageError, match="give the archive of a release"):
        Archive(tmp_path / "nothing.tar", tmp_path, 0).look()
