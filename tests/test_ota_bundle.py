"""A folder and its bundle: the same bytes anywhere, there and back, and nothing else comes out of an archive."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.errors import Tampered, UsageError
from edge_agent.ota import bundle
from edge_agent.ota.bundle import digest, unpack, write_bundle
from tests.ota_attacks import HOSTILE_BUNDLES

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True)


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def packed(folder: Path) -> bytes:
    out = io.BytesIO()
    write_bundle(folder, out)
    return out.getvalue()


def test_the_bytes_of_a_bundle_never_change(tmp_path: Path) -> None:
    """Boxes compare what they have with what was signed years ago: a new Python must make the same."""
    folder = fill(
        tmp_path / "m", {"manifest.yaml": b"name: m\n", "network.onnx": bytes(range(256)) * 3, "a" * 100: b""}
    )
    (folder / "network.onnx").chmod(0o755)
    os.utime(folder / "manifest.yaml", (1, 1))
    assert digest(folder) == "21b11727845ff650b3da66985284dae615cb776fd175611d08e60af7041bc89a"
    assert hashlib.sha256(packed(folder)).hexdigest() == digest(folder)


@given(files=st.dictionaries(NAMES, st.binary(max_size=2000), max_size=6))
def test_a_folder_comes_back_as_it_was(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("bundle")
    files = {**files, "manifest.yaml": b"x"}
    folder = fill(place / "in", files)
    archive = place / "a.tar"
    archive.write_bytes(packed(folder))
    unpack(archive, place / "out", digest(folder))
    assert {path.name: path.read_bytes() for path in (place / "out").iterdir()} == files
    assert digest(place / "out") == digest(folder)


@pytest.mark.parametrize("name", HOSTILE_BUNDLES)
def test_nothing_but_a_bundle_becomes_a_folder(name: str, tmp_path: Path) -> None:
    archive = tmp_path / "box" / "a.tar"
    archive.parent.mkdir()
    archive.write_bytes(HOSTILE_BUNDLES[name])
    with pytest.raises(Tampered, match="is signed but no bundle"):
        unpack(archive, tmp_path / "box" / "v", hashlib.sha256(HOSTILE_BUNDLES[name]).hexdigest())
    made = [path for path in tmp_path.rglob("*") if path.is_file() or path.is_symlink()]
    assert all(path.is_relative_to(tmp_path / "box") and path.is_file() and not path.is_symlink() for path in made)
    assert not Path("/tmp/owned").exists()


def test_more_bytes_after_the_end_are_no_bundle(tmp_path: Path) -> None:
    content = packed(fill(tmp_path / "m", {"manifest.yaml": b"x"})) + bytes(512)
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(Tampered, match="does not make it again"):
        unpack(tmp_path / "a.tar", tmp_path / "out", hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda folder: (folder / "manifest.yaml").unlink(), "no manifest.yaml there"),
        (lambda folder: (folder / "sub").mkdir(), "holds regular files only"),
        (lambda folder: (folder / "link").symlink_to("manifest.yaml"), "holds regular files only"),
        (lambda folder: os.mkfifo(folder / "pipe"), "holds regular files only"),
        (lambda folder: (folder / "two words").touch(), "letters, digits"),
        (lambda folder: (folder / ("a" * 101)).touch(), "at most 100"),
        (lambda folder: [(folder / f"f{n}").touch() for n in range(201)], "at most 200 files"),
    ],
)
def test_what_cannot_be_in_a_bundle_is_told(spoil: object, text: str, tmp_path: Path) -> None:
    folder = fill(tmp_path / "m", {"manifest.yaml": b"x"})
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(UsageError, match=text):
        packed(folder)


def test_a_bundle_that_is_too_large_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_BYTES", 1000)
    with pytest.raises(UsageError, match="fit into a bundle"):
        packed(fill(tmp_path / "m", {"manifest.yaml": bytes(1001)}))
