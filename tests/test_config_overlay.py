"""Changes from afar: what they may touch, how they lie over the operator's file, and how they are taken back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import config_trial
from edge_agent.config import Config
from edge_agent.config_file import ConfigFile
from edge_agent.config_layer import MAX_STARTS
from edge_agent.config_overlay import laid_over, one_patch
from edge_agent.config_trial import HOLD_S, NAME, Overlay, Readiness, Trial, begin, effective, give_up, read
from edge_agent.errors import ConfigError
from edge_agent.state_dir import state_lock
from tests.agent_process import run_agent, write_config

TEXT = """
device: box
cameras:
  - id: hall
    source: rtsp://viewer:${CAMERA_PASSWORD}@192.0.2.1/a
    zones: {door: [[0, 0], [1, 0], [1, 1]]}
  - id: yard
    source: rtsp://192.0.2.2/a
detect: {workers: 2}
privacy: {images: true, retention_days: 10}
use_cases:
  social_distancing: {zone: door, cameras: [hall]}
"""
READY = Readiness(status="ok", cameras={"hall": True, "yard": True})
HALF = Readiness(status="degraded", cameras={"hall": True, "yard": False})


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CAMERA_PASSWORD", "s3cret")
    (tmp_path / ".state").mkdir()
    file = tmp_path / "config.yaml"
    file.write_text(TEXT)
    return file


@pytest.fixture
def change(path: Path) -> Callable[[dict[str, Any]], Config]:
    return ConfigFile(path).overlaid


def test_a_patch_lies_over_the_file(path: Path, change: Callable[[dict[str, Any]], Config]) -> None:
    config = change(
        {
            "cameras": {"yard": {"max_fps": 5, "source": "rtsp://192.0.2.9/b"}},
            "detect": {"workers": None, "score_threshold": 0.1},
            "privacy": {"images": False},
        }
    )
    hall, yard = config.cameras
    assert hall == ConfigFile(path).config.cameras[0] and "s3cret" in hall.source
    assert (yard.source, yard.max_fps) == ("rtsp://192.0.2.9/b", 5)
    assert config.detect.workers is None and config.detect.score_threshold == 0.1
    assert not config.privacy.images and config.privacy.retention_days == 10
    assert config.device == "box" and config.digest() != ConfigFile(path).config.digest()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"detect": {"workers": 0}}, "detect.workers: given 0; must be at least 1"),
    ({"detect": {"wrokers": 1}}, "detect.wrokers: unknown key; did you mean workers?"),
    ({"track": {"high_score": 0.1}}, "track.high_score: low_score is 0.2, which must not be above high_score, 0.1"),
    ({"cameras": {"hall": {"zones": None}}}, "use_cases.social_distancing.zone: given 'door'"),
    ({"site": "x"}, "site: cannot be changed from afar"),
    ({"device": "x"}, "device: cannot"),
    ({"state_dir": "/tmp"}, "state_dir: cannot"),
    ({"models_dir": "/tmp"}, "models_dir: cannot"),
    ({"mqtt": {"host": "evil"}}, "mqtt.host: cannot"),
    ({"mqtt": None}, "mqtt: cannot"),
    ({"mqtt": {"password_file": "/etc/shadow"}}, "mqtt.password_file: cannot"),
    ({"http": {"host": "0.0.0.0"}}, "http.host: cannot"),
    ({"commands": {"allow": ["restart"]}}, "commands.allow[0]: cannot"),
    ({"outbox": {"max_mb": 1}}, "outbox.max_mb: cannot"),
    ({"detect": {"tflite": {"delegate": "/tmp/a.so"}}}, "detect.tflite.delegate: cannot"),
    ({"detect": {"tflite": None}}, "detect.tflite: cannot"),
    ({"detect": {"tensorrt": {"calibration_images": "/home"}}}, "detect.tensorrt.calibration_images: cannot"),
    ({"cameras": [{"id": "hall"}]}, "cameras: must be a mapping by camera id"),
    ({"cameras": {"till": {"max_fps": 1}}}, "cameras.till: no such camera; there are: hall, yard"),
    ({"cameras": {"hall": None}}, "cameras.hall: cannot"),
    ({"cameras": {"hall": {"id": "x"}}}, "cameras.hall.id: cannot"),
    ({"cameras": {"hall": {"source": "/dev/video0"}}}, "cameras.hall.source: from afar only a URL"),
    ({"cameras": {"hall": {"source": "file:///etc/shadow"}}}, "cameras.hall.source: from afar only"),
    ({"cameras": {"hall": {"source": "rtsp://x/${CAMERA_PASSWORD}"}}}, "cameras.hall.source: from afar only"),
    ({"cameras": {"hall": {"source": None}}}, "cameras.hall.source: from afar only"),
    ({"privacy": {"pixelate": False}}, "privacy.pixelate: can only be made stricter from afar; the file says true"),
    ({"privacy": {"retention_days": 11}}, "privacy.retention_days: can only be made stricter"),
    ({"privacy": None}, "privacy.retention_days: can only be made stricter"),
]


@pytest.mark.parametrize(("patch", "says"), REFUSED, ids=[says for _, says in REFUSED])
def test_what_a_change_may_not_do(patch: dict[str, Any], says: str, change: Callable[[dict[str, Any]], Config]) -> None:
    with pytest.raises(ConfigError) as told:
        change(patch)
    assert any(problem.startswith(says) for problem in told.value.problems), told.value.problems
    assert "s3cret" not in str(told.value)


def test_every_problem_is_told_at_once(change: Callable[[dict[str, Any]], Config]) -> None:
    with pytest.raises(ConfigError) as told:
        change({"detect": {"workers": 0, "nms_iou": 7}, "logging": {"level": "loud"}})
    assert [problem.partition(":")[0] for problem in told.value.problems] == [
        "detect.workers",
        "detect.nms_iou",
        "logging.level",
    ]


patches = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(
        st.none() | st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2),
        lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=3,
)


@given(patches, patches)
def test_a_patch_removes_sets_and_leaves(data: dict[str, Any], patch: dict[str, Any]) -> None:
    merged = laid_over(data, patch)
    for key in set(data) | set(patch):
        if key not in patch:
            assert merged[key] == data[key]
        elif patch[key] is None:
            assert key not in merged
        elif not isinstance(patch[key], dict):
            assert merged[key] == patch[key]
    assert laid_over(merged, patch) == merged, "twice is once"


@given(patches, patches, patches)
def test_two_patches_become_one(data: dict[str, Any], first: dict[str, Any], then: dict[str, Any]) -> None:
    one, both = laid_over(data, one_patch(first, then)), laid_over(laid_over(data, first), then)
    # The one thing that a merge patch cannot say: away with all of a section, and a new one in its place.
    if not replaces(first, then):
        assert one == both


def replaces(first: Any, then: Any) -> bool:
    if not isinstance(then, dict):
        return False
    if not isinstance(first, dict):
        return True
    return any(replaces(first[key], value) for key, value in then.items() if key in first)


def proposed(path: Path, patch: dict[str, Any], trial_s: float = 60.0) -> Path:
    """What the agent leaves behind that goes to try ``patch``; the state folder."""
    folder = path.parent / ".state"
    Trial(folder, trial_s).propose(patch, "c1", READY)
    return folder


def test_a_change_on_trial_is_the_next_starts_and_closed_to_others(path: Path) -> None:
    folder = proposed(path, {"detect": {"workers": 1}})
    assert (folder / NAME).stat().st_mode & 0o777 == 0o600
    config, overlay = effective(path)
    assert config.detect.workers == 1 and overlay.state == "trial" and overlay.starts == 0
    assert begin(path).detect.workers == 1 and read(folder).starts == 1


def test_a_crash_loop_ends_with_what_was_before(path: Path) -> None:
    folder = proposed(path, {"detect": {"workers": 1}})
    assert [begin(path).detect.workers for _ in range(MAX_STARTS + 2)] == [1] * MAX_STARTS + [2, 2]
    after = read(folder)
    assert (after.state, after.patch, after.told) == ("rolled_back", {}, False) and "ended 2 times" in after.reason


def test_a_second_agent_does_not_count_as_a_start(path: Path) -> None:
    folder = proposed(path, {"detect": {"workers": 1}})
    with state_lock(folder):
        assert begin(path).detect.workers == 1
    assert read(folder).starts == 0


def test_back_means_back_to_the_change_before(path: Path) -> None:
    folder = path.parent / ".state"
    Trial(folder, 60).adopt({"mqtt": {"heartbeat_s": 5}}, "c0")
    proposed(path, {"mqtt": {"heartbeat_s": 5}, "detect": {"workers": 1}})
    assert give_up(folder, "no rtsp://me:s3cret@192.0.2.1/") and not give_up(folder, "again")
    assert read(folder).reason == "no rtsp://***@192.0.2.1/"
    config = begin(path)
    assert config.detect.workers == 2 and config.mqtt.heartbeat_s == 5


@pytest.mark.parametrize("state", ["trial", "confirmed"])
def test_a_change_that_does_not_fit_the_file_any_more_is_no_reason_not_to_start(path: Path, state: str) -> None:
    folder = proposed(path, {"cameras": {"yard": {"max_fps": 5}}})
    config_trial.write(folder, read(folder).changed(state=state))
    path.write_text(TEXT.replace("yard", "gate"))
    assert [camera.max_fps for camera in begin(path).cameras] == [None, None]
    after = read(folder)
    assert after.state == "rolled_back" and "cameras.yard: no such camera" in after.reason


def test_privacy_made_stricter_in_the_file_wins_over_an_earlier_change(path: Path) -> None:
    proposed(path, {"privacy": {"retention_days": 8}})
    assert begin(path).privacy.retention_days == 8
    path.write_text(TEXT.replace("retention_days: 10", "retention_days: 5"))
    assert begin(path).privacy.retention_days == 5


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"state":"maybe"}', b'{"patch":[]}', b"\xff", b"[" * 100_000])
def test_a_damaged_overlay_is_no_reason_not_to_start(path: Path, content: bytes) -> None:
    (path.parent / ".state" / NAME).write_bytes(content)
    assert begin(path).detect.workers == 2
    after = read(path.parent / ".state")
    assert after.state == "rolled_back" and "damaged" in after.reason and not after.told


def test_a_wrong_file_is_told_as_ever(path: Path) -> None:
    proposed(path, {"detect": {"workers": 1}})
    path.write_text(TEXT.replace("workers: 2", "workers: 0"))
    with pytest.raises(ConfigError, match=r"config.yaml:9:19: detect.workers: given 0"):
        begin(path)


def test_nothing_is_half_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = proposed(path, {"detect": {"workers": 1}})
    before = (folder / NAME).read_bytes()

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        Trial(folder, 60).adopt({}, "c2")
    assert (folder / NAME).read_bytes() == before
    # A start that cannot be counted is made without the change, or a crash loop would have no end.
    assert begin(path).detect.workers == 2


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def judged(folder: Path, course: list[tuple[float, Readiness]], trial_s: float = 60.0) -> list[str]:
    clock = Clock()
    trial = Trial(folder, trial_s, clock)
    states = list[str]()
    for at, readiness in course:
        clock.now = 1000.0 + at
        states.append(trial.look(readiness).state)
    return states


@pytest.mark.parametrize(
    ("course", "states"),
    [
        ([(0, HALF), (5, READY), (5 + HOLD_S, READY)], ["trial", "trial", "confirmed"]),
        ([(0, HALF), (59, HALF), (60, HALF)], ["trial", "trial", "rolled_back"]),
        # One that comes and goes is not as ready.
        ([(0, READY), (9, HALF), (15, READY), (24, HALF), (60, READY)], ["trial"] * 4 + ["rolled_back"]),
    ],
    ids=["confirmed", "worse", "flapping"],
)
def test_the_judgement(path: Path, course: list[tuple[float, Readiness]], states: list[str]) -> None:
    folder = proposed(path, {"detect": {"workers": 1}})
    assert judged(folder, course) == states
    assert read(folder).state == states[-1]


def test_a_camera_that_is_lost_counts_also_where_readiness_is_the_same() -> None:
    other = Readiness(status="degraded", cameras={"hall": False, "yard": True})
    assert other.worse_than(HALF) == "hall delivered before and does not now"
    assert not READY.worse_than(HALF) and not HALF.worse_than(HALF)
    assert "readiness is degraded" in HALF.worse_than(READY)


@pytest.mark.slow
def test_check_says_what_lies_over_the_file(root: Path, tmp_path: Path) -> None:
    config = write_config(root, tmp_path)
    (tmp_path / "state").mkdir()
    plain = json.loads(run_agent("check", "-c", config, "--json").stdout)
    Trial(tmp_path / "state", 60).adopt({"cameras": {"pets": {"max_fps": 5}}}, "c1")
    told = json.loads(run_agent("check", "-c", config, "--json").stdout)
    assert told["config_hash"] != plain["config_hash"]
    assert told["facts"][-1] == "changes from afar: cameras.pets.max_fps (confirmed)"
    config_trial.write(tmp_path / "state", Overlay(patch={"cameras": {"x": {}}}, state="confirmed"))
    done = run_agent("check", "-c", config)
    assert done.returncode == 0 and "rolled back: it does not fit the file: cameras.x: no such camera" in done.stdout
    assert read(tmp_path / "state").state == "confirmed", "check changes nothing"
