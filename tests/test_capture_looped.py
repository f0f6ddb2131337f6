"""A file that is looped: pictures begin again, time and index go on."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from edge_agent.capture.looped import LoopedFile
from edge_agent.config import CameraConfig
from edge_agent.errors import SourceNotFound
from tests.capture_helpers import number_of, write_folder, write_video


@pytest.mark.parametrize("kind", ["video", "folder"])
@pytest.mark.parametrize("fps", [None, 7.0])
def test_index_and_time_go_on_over_the_seam(kind: str, fps: float | None, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", 5) if kind == "video" else write_folder(tmp_path / "a", 5)
    source = LoopedFile(CameraConfig(id="cam", source=str(path), fps=fps))
    source.open()
    frames = [source.read() for _ in range(17)]
    source.close()
    assert source.fps == (fps or 10.0)
    seen = [frame for frame in frames if frame is not None]
    assert [frame.index for frame in seen] == list(range(17))
    assert [number_of(frame.image) for frame in seen] == [n % 5 for n in range(17)]
    for i, frame in enumerate(seen):
        assert frame.t == pytest.approx(i / source.fps)
        assert frame.utc - frame.t == pytest.approx(seen[0].utc)
    assert source.progress > 0


def test_a_limit_to_the_rate_holds_in_each_turn(tmp_path: Path) -> None:
    source = LoopedFile(CameraConfig(id="cam", source=str(write_video(tmp_path / "a.avi", 6)), max_fps=5))
    source.open()
    times = [frame.t for _ in range(9) if (frame := source.read()) is not None]
    source.close()
    assert len(times) == 9
    assert all(b > a for a, b in itertools.pairwise(times))


def test_a_file_that_goes_away_is_told(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", 3)
    source = LoopedFile(CameraConfig(id="cam", source=str(path)))
    source.open()
    assert all(source.read() is not None for _ in range(3))
    path.unlink()
    with pytest.raises(SourceNotFound):
        source.read()
    source.close()


def test_a_file_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound):
        LoopedFile(CameraConfig(id="cam", source=str(tmp_path / "none.avi")))
