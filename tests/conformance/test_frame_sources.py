"""What every FrameSource must do. A new source is one more entry in ``MAKERS``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edge_agent.capture.source import FrameSource, LiveClock, open_source
from edge_agent.config import CameraConfig
from edge_agent.types import Frame
from tests.capture_helpers import write_folder, write_video
from tests.rtsp import RtspServer

COUNT = 20


@dataclass
class Case:
    uri: str
    size: tuple[int, int]
    live: bool

    def make(self, max_fps: float | None = None, clock: LiveClock | None = None) -> FrameSource:
        return open_source(CameraConfig(id="cam", source=self.uri, max_fps=max_fps), clock)


@contextmanager
def video(tmp: Path) -> Iterator[Case]:
    yield Case(str(write_video(tmp / "a.avi", COUNT)), (96, 64), False)


@contextmanager
def folder(tmp: Path) -> Iterator[Case]:
    yield Case(str(write_folder(tmp / "images", COUNT)), (96, 64), False)


@contextmanager
def rtsp(_: Path) -> Iterator[Case]:
    with RtspServer(160, 120, 15) as server:
        yield Case(server.url, (160, 120), True)


MAKERS: dict[str, Callable[[Path], AbstractContextManager[Case]]] = {"video": video, "folder": folder, "rtsp": rtsp}


@pytest.fixture(
    scope="module",
    params=["video", "folder", pytest.param("rtsp", marks=pytest.mark.slow)],
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    with MAKERS[request.param](tmp_path_factory.mktemp("source")) as made:
        yield made


def read(source: FrameSource, count: int) -> list[Frame]:
    frames: list[Frame] = []
    while len(frames) < count:
        frame = source.read()
        if frame is None:
            break
        frames.append(frame)
    return frames


def test_frames_are_as_the_seam_says(case: Case) -> None:
    source = case.make()
    assert source.live is case.live
    source.open()
    try:
        frames = read(source, COUNT)
    finally:
        source.close()
    assert (source.length, source.fps) == ((None, 0.0) if case.live else (COUNT, 10.0))
    assert len(frames) == COUNT
    assert [f.index for f in frames] == list(range(COUNT))
    assert frames[0].t == 0.0
    assert np.all(np.diff([f.t for f in frames]) > 0)
    for frame in frames:
        assert frame.camera == "cam"
        assert frame.size == case.size
        assert frame.image.shape == (case.size[1], case.size[0], 3) and frame.image.dtype == np.uint8
        assert abs(frame.utc - frames[0].utc - frame.t) < 0.1


def test_a_frame_keeps_its_pixels_while_others_are_read(case: Case) -> None:
    source = case.make()
    source.open()
    try:
        first = read(source, 1)[0]
        copy = first.image.copy()
        later = read(source, 5)
    finally:
        source.close()
    assert np.array_equal(first.image, copy)
    assert not any(np.shares_memory(first.image, other.image) for other in later)


def test_the_rate_limit_passes_over_frames_and_counts_them(case: Case) -> None:
    source = case.make(max_fps=5)
    source.open()
    try:
        frames = read(source, 5)
    finally:
        source.close()
    steps = np.diff([f.index for f in frames])
    assert np.all(steps >= 1) and steps.mean() >= 1.5
    assert (len(frames) - 1) / (frames[-1].t - frames[0].t) < 6.5


def test_progress_moves(case: Case) -> None:
    source = case.make()
    made = source.progress
    source.open()
    try:
        read(source, 2)
        assert source.progress > made
    finally:
        source.close()


def test_close_is_allowed_in_every_state(case: Case) -> None:
    case.make().close()
    source = case.make()
    source.open()
    source.close()
    source.close()


def test_it_may_be_used_by_another_thread_than_made_it(case: Case) -> None:
    source, got = case.make(), []

    def use() -> None:
        source.open()
        got.extend(read(source, 2))
        source.close()

    thread = threading.Thread(target=use)
    thread.start()
    thread.join(20)
    assert len(got) == 2


def test_a_live_clock_goes_on_and_a_file_ends(case: Case) -> None:
    if case.live:
        clock = LiveClock()
        indices, times = [], []
        for _ in range(2):
            source = case.make(clock=clock)
            source.open()
            for frame in read(source, 3):
                indices.append(frame.index)
                times.append(frame.t)
            source.close()
        assert indices == list(range(6))
        assert np.all(np.diff(times) > 0)
    else:
        source = case.make()
        source.open()
        assert len(read(source, COUNT + 5)) == COUNT
        assert source.read() is None
        source.close()
