"""A large file comes whole, however often the line breaks, and what is here is not fetched again."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import random
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from edge_agent.errors import DownloadError, EndlessData, Interrupted, NoRoom, SlowRetrieval, Tampered
from edge_agent.ota import transfer as module
from edge_agent.ota.source import Folder, Web
from edge_agent.ota.transfer import Wanted, transfer
from edge_agent.web import Way
from tests.file_server import Server, serve, unsized

SIZE = 1_000_000
CONTENT = os.urandom(SIZE)
NEVER = threading.Event()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.001)


@pytest.fixture
def served(tmp_path: Path) -> Path:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "bundle").write_bytes(CONTENT)
    return folder


@pytest.fixture
def server(served: Path) -> Iterator[Server]:
    with serve({}, folder=served) as running:
        yield running


def wanted(server: Server, tmp_path: Path) -> Wanted:
    return Wanted(f"{server.url}/bundle", SIZE, hashlib.sha256(CONTENT).hexdigest(), tmp_path / "downloads")


def fetch(wish: Wanted, progress: object = None) -> Path:
    return transfer(Web(Way()), wish, progress or (lambda _: None), NEVER)  # type: ignore[arg-type]


def left(wish: Wanted) -> list[str]:
    return sorted(path.name for path in wish.folder.iterdir()) if wish.folder.exists() else []


def test_it_comes_whole_and_progress_is_told(server: Server, tmp_path: Path) -> None:
    seen: list[float] = []
    wish = wanted(server, tmp_path)
    assert fetch(wish, seen.append).read_bytes() == CONTENT
    assert seen == sorted(seen) and seen[-1] == 1.0
    assert left(wish) == [wish.path.name]
    fetch(wish)
    assert server.ranges == [""]  # what is here and right is not asked for again


def test_it_goes_on_after_every_cut(server: Server, tmp_path: Path) -> None:
    cuts = sorted(random.Random(0).sample(range(1, SIZE), 20))
    server.cuts += [b - a for a, b in zip([0, *cuts], cuts, strict=False)]
    assert fetch(wanted(server, tmp_path)).read_bytes() == CONTENT
    assert server.ranges == ["", *(f"bytes={cut}-" for cut in cuts)]


def test_it_goes_on_in_another_process_after_every_cut(server: Server, tmp_path: Path) -> None:
    wish = wanted(server, tmp_path)
    for cut in (1, 65_536, 500_000, SIZE - 1):
        wish.folder.mkdir(exist_ok=True)
        wish.path.write_bytes(CONTENT[:cut])
        server.ranges.clear()
        assert fetch(wish).read_bytes() == CONTENT
        assert server.ranges == [f"bytes={cut}-"]


def test_it_begins_anew_where_the_server_has_something_else_now(server: Server, served: Path, tmp_path: Path) -> None:
    wish = wanted(server, tmp_path)
    (served / "bundle").write_bytes(bytes(SIZE))
    server.cuts += [1000]
    with pytest.raises(Tampered):
        fetch(wish)
    assert left(wish) == []
    assert server.ranges == ["", "bytes=1000-"]
    (served / "bundle").write_bytes(bytes(SIZE))
    server.cuts += [1000, 0]
    server.ranges.clear()

    def put_right(_: float) -> None:
        (served / "bundle").write_bytes(CONTENT)

    assert fetch(wish, put_right).read_bytes() == CONTENT
    assert server.ranges[:2] == ["", "bytes=1000-"]  # the second one was answered with the whole: its mark was another


@pytest.mark.parametrize("rubbish", [bytes(1000), CONTENT[:-1] + b"x", CONTENT + b"longer", b""])
def test_what_a_power_cut_left_is_fetched_anew_where_it_is_wrong(
    server: Server, tmp_path: Path, rubbish: bytes
) -> None:
    wish = wanted(server, tmp_path)
    wish.folder.mkdir()
    wish.path.write_bytes(rubbish)
    assert fetch(wish).read_bytes() == CONTENT


def test_a_server_that_knows_no_ranges_gives_the_whole(served: Path, tmp_path: Path) -> None:
    with serve({"/bundle": unsized(CONTENT)}, folder=served) as server:
        wish = wanted(server, tmp_path)
        wish.folder.mkdir()
        wish.path.write_bytes(CONTENT[:1000])
        assert fetch(wish).read_bytes() == CONTENT


@pytest.mark.parametrize("part", ["bytes 0-999/1000000", "bytes 999-/", "pages 1-2/3", ""])
def test_another_part_than_asked_for_is_refused(part: str, served: Path, tmp_path: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(206)
        handler.send_header("Content-Range", part)
        handler.end_headers()
        handler.wfile.write(CONTENT[1000:])

    with serve({"/bundle": answer}, folder=served) as server:
        wish = wanted(server, tmp_path)
        wish.folder.mkdir()
        wish.path.write_bytes(CONTENT[:1000])
        with pytest.raises(DownloadError, match="another part"):
            fetch(wish)
        assert wish.path.read_bytes() == CONTENT[:1000]


def test_more_than_was_signed_for_leaves_nothing(served: Path, tmp_path: Path) -> None:
    with serve({"/bundle": unsized(CONTENT + b"x")}, folder=served) as server:
        wish = wanted(server, tmp_path)
        with pytest.raises(EndlessData):
            fetch(wish)
        assert left(wish) == []


def test_it_gives_up_where_nothing_comes_and_keeps_what_is_here(server: Server, tmp_path: Path) -> None:
    wish = wanted(server, tmp_path)
    server.cuts += [1000] + [0] * 50
    with pytest.raises(DownloadError, match="broke off after 1000 of 1000000 bytes"):
        fetch(wish)
    assert len(server.ranges) == 1 + module.TRIES
    assert wish.path.read_bytes() == CONTENT[:1000]
    server.cuts.clear()
    assert fetch(wish).read_bytes() == CONTENT


def test_a_byte_by_connection_is_too_slow(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_S", 0.5)
    monkeypatch.setattr(module, "SLOWEST", SIZE)
    server.cuts += [1] * 1_000_000
    with pytest.raises(SlowRetrieval, match=r"bytes came|too slow|too long"):
        fetch(wanted(server, tmp_path))


def test_it_stops_when_told_and_goes_on_later(server: Server, tmp_path: Path) -> None:
    wish, cancel = wanted(server, tmp_path), threading.Event()
    with pytest.raises(Interrupted):
        transfer(Web(Way()), wish, lambda done: cancel.set() if done > 0.3 else None, cancel)
    here = wish.path.stat().st_size
    assert 0.3 * SIZE < here < SIZE
    assert fetch(wish).read_bytes() == CONTENT
    assert server.ranges == ["", f"bytes={here}-"]


def test_the_rate_is_kept_and_not_held_against_the_server(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENCE_S", 0.5)
    wish = dataclasses.replace(wanted(server, tmp_path), max_bytes_s=SIZE)
    began = time.monotonic()
    fetch(wish)
    assert time.monotonic() - began >= 0.9  # never faster; slower is the machine's business


def test_a_full_disk_is_told_before_anything_comes(server: Server, tmp_path: Path) -> None:
    wish = dataclasses.replace(wanted(server, tmp_path), keep_free=1 << 60)
    with pytest.raises(NoRoom, match=r"ota\.keep_free_mb"):
        fetch(wish)
    assert server.asked == []


def test_a_folder_serves_as_well_and_what_it_must_not_read_it_does_not(served: Path, tmp_path: Path) -> None:
    url = (served / "bundle").as_uri()
    wish = Wanted(url, SIZE, hashlib.sha256(CONTENT).hexdigest(), tmp_path / "downloads")
    wish.folder.mkdir()
    wish.path.write_bytes(CONTENT[:1000])
    assert transfer(Folder(), wish, lambda _: None, NEVER).read_bytes() == CONTENT
    os.mkfifo(served / "pipe")
    for name, text in (("pipe", "no regular file"), ("nothing", "is not there"), ("", "Is a directory")):
        with pytest.raises(DownloadError, match=text), contextlib.ExitStack() as stack:
            stack.enter_context(Folder().open((served / name).as_uri(), total_s=5))
