"""A live camera against a real RTSP server that is killed, stopped, restarted and replaced by worse."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.capture import opencv, reader, worker
from edge_agent.capture.source import open_source
from edge_agent.config import CameraConfig
from edge_agent.errors import WorkerDied
from tests.capture_helpers import Rig, wait_until
from tests.rtsp import RtspServer, SilentServer, free_port

pytestmark = pytest.mark.slow
NOTICED_S = 5.0
"""The promise; waiting may take longer on a busy box, the stamps may not."""


def camera(url: str) -> CameraConfig:
    return CameraConfig(id="cam", source=url)


def readers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("read-cam")]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.fixture
def server() -> Iterator[RtspServer]:
    with RtspServer() as running:
        yield running


@pytest.fixture
def silent() -> Iterator[SilentServer]:
    dumb = SilentServer()
    yield dumb
    dumb.close()
    wait_until(lambda: not readers(), 20, "hung readers to end once their connection is closed")


def test_kills_are_noticed_and_survived_without_a_leak(
    server: RtspServer, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with Rig(camera(server.url)) as rig:
        rig.wait_value("delivering", 20)
        held = (len(readers()), threading.active_count(), descriptors())
        for kill in range(3):
            since, frames = len(rig.changes), len(rig.frames)
            server.kill()
            rig.wait_value("reconnecting", NOTICED_S, since)
            server.start()
            rig.wait_value("delivering", 30, since)
            wait_until(lambda wanted=frames + 30: len(rig.frames) > wanted, 20, "steady frames")  # type: ignore[misc]
            assert rig.worker.stats.reconnects == kill + 1
        assert (len(readers()), threading.active_count(), descriptors()) == held
        assert 0 < rig.worker.stats.fps() < 40
    assert rig.values()[-1] == "ended"
    indices, times = [f[0] for f in rig.frames], [f[1] for f in rig.frames]
    assert indices == sorted(set(indices)) and times == sorted(set(times)) and indices[0] == 0 and times[0] == 0.0
    shown = capfd.readouterr()
    for text in (caplog.text, shown.err, shown.out, repr(rig.changes), rig.worker.stats.last_error):
        assert "s3cret" not in text
    wait_until(lambda: not readers(), 5, "the reader to end")


def test_a_stopped_server_is_a_stall_and_going_on_ends_it(server: RtspServer) -> None:
    with Rig(camera(server.url)) as rig:
        rig.wait_value("delivering", 20)
        last = rig.worker.stats.last_frame
        server.freeze()
        stalled = rig.wait_value("stalled", 8)
        assert stalled.previous == "delivering"
        frozen_for = time.monotonic() - (rig.worker.stats.last_frame or last or 0)
        assert frozen_for < NOTICED_S
        rig.wait_value("reconnecting", 10)
        since = len(rig.changes)
        server.thaw()
        rig.wait_value("delivering", 30, since)


def test_another_resolution_after_a_restart_is_told(server: RtspServer) -> None:
    with Rig(camera(server.url)) as rig:
        rig.wait_value("delivering", 20)
        server.kill()
        server.width, server.height = 400, 300
        server.start()
        wait_until(lambda: any("320x240 to 400x300" in c.reason for c in rig.changes), 30, "the new size")
        assert rig.changes[-1].value == "delivering" and rig.worker.stats.size == (400, 300)
        # The change is told by the capture's thread; the rig's own takes the frame out of the slot a moment later.
        wait_until(lambda: rig.frames[-1][3] == (400, 300), 5, "a frame of the new size")


def test_another_resolution_in_the_middle_of_the_stream_keeps_the_size_that_was_opened() -> None:
    """OpenCV scales to it without a word, so fractions of the frame stay true and nothing breaks."""
    with RtspServer(pattern="switch") as server, Rig(camera(server.url)) as rig:
        rig.wait_value("delivering", 20)
        wait_until(lambda: bool(rig.frames) and rig.frames[-1][1] > 5.0, 30, "frames after the change")
        assert {f[3] for f in rig.frames} == {(320, 240)}
        assert rig.values() == ["delivering"]


def test_a_refused_connection_is_noticed_and_retried_until_it_is_failed_and_then_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "BACKOFF_MAX_S", 2.0)
    server = RtspServer()
    with Rig(camera(server.url)) as rig:
        assert "refused" in rig.wait_value("reconnecting", NOTICED_S).reason
        rig.wait_value("failed", 15)
        with server:
            rig.wait_value("delivering", 30)
            assert rig.worker.stats.backoff_s == 0.0
    assert rig.values()[:3] == ["reconnecting", "failed", "delivering"]


def test_a_server_that_says_nothing_is_noticed_and_left_by_its_time_out(silent: SilentServer) -> None:
    with Rig(camera(silent.url)) as rig:
        rig.wait_value("reconnecting", NOTICED_S)
        wait_until(lambda: "timed out" in rig.worker.stats.last_error, 15, "the library's own time-out")
        wait_until(lambda: len(readers()) == 1, 15, "another attempt")


def test_a_reader_that_never_comes_back_is_left_behind_once(
    silent: SilentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opencv, "OPEN_TIMEOUT_S", 120.0)
    monkeypatch.setattr(worker, "OPEN_ABANDON_S", 3.5)
    monkeypatch.setattr(worker, "READ_ABANDON_S", 0.5)
    monkeypatch.setattr(worker, "HUNG_FATAL_S", 3.0)
    rig = Rig(camera(silent.url))
    with rig:
        wait_until(lambda: len(readers()) == 2, 20, "a second reader")
        wait_until(lambda: rig.error is not None, 20, "the end of patience")
        assert len(readers()) == 2
    assert isinstance(rig.error, WorkerDied)


def test_three_left_behind_in_the_process_are_its_end(silent: SilentServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opencv, "OPEN_TIMEOUT_S", 120.0)
    monkeypatch.setattr(worker, "OPEN_ABANDON_S", 1.0)
    monkeypatch.setattr(worker, "READ_ABANDON_S", 0.2)
    rigs = [Rig(camera(silent.url)) for _ in range(reader.ABANDONED_LIMIT)]
    for rig in rigs:
        rig.__enter__()
    try:
        wait_until(lambda: any(isinstance(rig.error, WorkerDied) for rig in rigs), 20, "WorkerDied")
    finally:
        for rig in rigs:
            rig.__exit__(None, None, None)


def test_stop_does_not_wait_for_a_camera_that_hangs(silent: SilentServer) -> None:
    rig = Rig(camera(silent.url))
    with rig:
        wait_until(lambda: bool(readers()), 10, "the reader")
        rig.stop.set()
        rig.join(3)


def test_max_frames_ends_a_live_run(server: RtspServer) -> None:
    with Rig(camera(server.url), max_frames=10) as rig:
        rig.join(30)
    assert rig.worker.stats.frames == 10


def test_a_device_that_is_missing_is_retried() -> None:
    with Rig(camera("/dev/video-none")) as rig:
        rig.wait_value("reconnecting", NOTICED_S)
        assert rig.error is None


def test_many_refused_attempts_leave_nothing_behind() -> None:
    """What a camera that is away for days does to the process, without its back-off."""
    url = camera(f"rtsp://127.0.0.1:{free_port()}/cam")

    def attempts(count: int) -> tuple[int, int, float]:
        for _ in range(count):
            one = reader.Reader("cam", open_source(url), lambda frame: None)
            one.start()
            one.join(20)
            assert one.error is not None
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return threading.active_count(), descriptors(), pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    threads, fds, rss_mb = attempts(50)
    threads_after, fds_after, rss_after_mb = attempts(400)
    assert (threads_after, fds_after) == (threads, fds)
    assert rss_after_mb - rss_mb < 4.0
