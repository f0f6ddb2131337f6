from __future__ import annotations

import itertools
import math
import threading
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.capture.source import RateLimit, is_live, kind_of, open_source
from edge_agent.config import CameraConfig, redact
from edge_agent.errors import SourceLost, SourceNotFound
from tests.capture_helpers import Rig, number_of, write_folder, write_video


def camera(source: object, **more: object) -> CameraConfig:
    return CameraConfig.model_validate({"id": "cam", "source": str(source), **more})


@given(st.text(alphabet="abcXYZ0189:@!$&'()*+,;=-._~%", min_size=1, max_size=30))
def test_redact_never_shows_the_password(password: str) -> None:
    assert redact(f"rtsp://user:{password}@host/path") == "rtsp://***@host/path"


def test_kinds(tmp_path: Path) -> None:
    assert kind_of("0") == kind_of("/dev/video2") == "device"
    assert kind_of("rtsps://h/x") == kind_of("http://h/x.mjpg") == "url"
    assert kind_of(str(tmp_path)) == kind_of(tmp_path.as_uri()) == "images"
    assert kind_of("missing.mp4") == "file"
    assert is_live("rtsp://h/x") and is_live("/dev/video0") and not is_live("a.avi")


def test_file_time_is_the_containers_or_the_configured_rate(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.avi", 8, fps=10)
    start = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
    for fps, step in ((None, 0.1), (7, 1 / 7)):
        source = open_source(camera(path, fps=fps, start=start))
        source.open()
        frames = [f for f in iter(source.read, None) if f is not None]
        source.close()
        assert np.allclose([f.t for f in frames], np.arange(8) * step, atol=1e-6)
        assert frames[0].utc == start.timestamp()
        assert math.isclose(frames[5].utc, start.timestamp() + 5 * step, abs_tol=1e-3)
        assert [number_of(f.image) for f in frames] == list(range(8))


def test_folder_is_read_in_natural_order_and_a_damaged_picture_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_folder(tmp_path / "f", 12)
    (folder / "img5.png").write_bytes(b"not a picture")
    (folder / "notes.txt").write_text("no picture either")
    source = open_source(camera(folder, fps=4))
    source.open()
    frames = [f for f in iter(source.read, None) if f is not None]
    assert [number_of(f.image) for f in frames] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert [f.index for f in frames] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert frames[-1].t == 11 / 4
    assert "img5.png" in caplog.text


@pytest.mark.parametrize("what", ["missing", "text", "empty", "cut", "empty folder", "folder of junk"])
def test_what_cannot_be_read_is_told_before_the_first_frame(what: str, tmp_path: Path) -> None:
    path = tmp_path / "it.mp4"
    if what == "text":
        path.write_text("this is no video\n" * 100)
    elif what == "empty":
        path.touch()
    elif what == "cut":
        path.write_bytes(write_video(tmp_path / "v.avi").read_bytes()[:600])
    elif "folder" in what:
        path.mkdir()
        if "junk" in what:
            (path / "a.jpg").write_bytes(b"\xff\xd8junk")
    rig = Rig(camera(path))
    with pytest.raises(SourceNotFound) as caught:
        rig.worker.prepare()
    assert "camera cam" in str(caught.value) and str(path) in str(caught.value)


def test_a_live_camera_that_is_not_there_is_lost_not_missing() -> None:
    source = open_source(camera("/dev/video-none"))
    assert source.live
    with pytest.raises(SourceLost):
        source.open()
    source.close()


def test_file_that_ends_early_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = write_video(tmp_path / "v.avi", 40).read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole[: len(whole) // 2])
    with Rig(camera(cut)) as rig:
        rig.join()
    assert 5 < len(rig.frames) < 36
    assert rig.error is None and rig.values()[-1] == "ended"
    assert "ends after" in caplog.text


def test_every_frame_of_a_file_comes_through_a_slow_consumer(tmp_path: Path) -> None:
    with Rig(camera(write_video(tmp_path / "v.avi", 30)), consume_s=0.005) as rig:
        rig.join()
    assert [f[0] for f in rig.frames] == list(range(30))
    assert rig.values() == ["delivering", "ended"]
    assert rig.slot.exhausted and rig.worker.dropped == 0
    assert rig.worker.length == 30 and rig.worker.nominal_fps == 10.0
    assert rig.worker.stats.frames == 30 and rig.worker.stats.size == (96, 64)
    assert rig.beat.begun == rig.beat.ended > 30


def test_max_frames_ends_the_run(tmp_path: Path) -> None:
    with Rig(camera(write_video(tmp_path / "v.avi", 30)), max_frames=7) as rig:
        rig.join()
    assert [f[0] for f in rig.frames] == list(range(7))
    assert rig.values()[-1] == "ended"


@pytest.mark.slow
def test_realtime_keeps_the_files_pace_and_drops_what_comes_too_late(tmp_path: Path) -> None:
    began = threading.Event()
    with Rig(camera(write_video(tmp_path / "v.avi", 20, fps=20)), realtime=True, consume_s=0.2) as rig:
        began.set()
        rig.join()
    indices = [f[0] for f in rig.frames]
    assert indices == sorted(set(indices)) and len(indices) < 15
    assert len(indices) + rig.worker.dropped == 20
    first, last = rig.changes[0], rig.changes[-1]
    assert (first.value, last.value) == ("delivering", "ended")
    assert last.utc - first.utc >= 0.94  # 19 intervals of 50 ms


def test_stop_ends_a_file_whose_frames_nobody_takes(tmp_path: Path) -> None:
    rig = Rig(camera(write_video(tmp_path / "v.avi", 30)))
    capture = threading.Thread(target=rig.worker.run, args=(rig.beat,))
    capture.start()
    capture.join(0.3)
    assert capture.is_alive()
    rig.stop.set()
    capture.join(5)
    assert not capture.is_alive()


def test_a_file_that_vanishes_is_failed_and_raised(tmp_path: Path) -> None:
    with Rig(camera(tmp_path / "none.avi")) as rig:
        rig.join()
    assert isinstance(rig.error, SourceNotFound)
    assert rig.values() == ["failed"]


@given(
    st.floats(0.5, 60),
    st.lists(st.floats(0.001, 0.5), min_size=20, max_size=200),
)
def test_rate_limit_never_exceeds_the_mean_rate_and_passes_what_is_slower(max_fps: float, steps: list[float]) -> None:
    times = list(itertools.accumulate(steps, initial=0.0))
    limit = RateLimit(max_fps)
    passed = [t for t in times if limit.passes(t)]
    assert passed[0] == 0.0
    # Any stretch of n passed frames lasts at least n - 2 periods: one frame may come early to make up for a late one.
    for i, j in itertools.combinations(range(len(passed)), 2):
        assert passed[j] - passed[i] >= (j - i - 1) / max_fps - 1e-5
    if max(1 / s for s in steps) < max_fps:
        assert passed == times
