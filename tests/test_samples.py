"""Pictures kept for training: which, how many, what can be recognised on them, where they end, and that training reads them."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.config import Config, TrackConfig
from edge_agent.errors import InferenceError, UsageError
from edge_agent.pipeline import FrameResult
from edge_agent.sample_export import export
from edge_agent.sample_store import Box, SampleStore, utc_day
from edge_agent.sampling import Sampler, alone, build_sampler, hard
from edge_agent.types import Frame, ModelTag
from tests.agent_process import result_of, run_agent, write_config
from tests.test_model_beside import seen
from tests.test_snapshot import decoded, detail, noise, result
from training.data import own_images, read_source
from training.settings import Source

BOX = [10.0, 20.0, 70.0, 180.0]
TRACK = TrackConfig()


def with_score(score: float, *, tracked: bool = False, predicted: bool = False) -> FrameResult:
    made = result(noise(), [BOX], [BOX] if tracked or predicted else [])
    found = dataclasses.replace(
        made.detections, scores=np.array([score], np.float32), model=ModelTag("eyes", "1.0", "0" * 64)
    )
    tracks = dataclasses.replace(made.tracks, predicted=np.full(len(made.tracks), predicted))
    return dataclasses.replace(made, detections=found, tracks=tracks)


class Beat:
    def begin(self) -> None:
        """Nothing."""

    end = begin


class Kept:
    """A sampler whose clock stands still unless it is moved; ``turn`` does what its thread would."""

    def __init__(self, folder: Path, **samples: Any) -> None:
        self.privacy: dict[str, Any] = {"images": True}
        self.folder, self.samples, self.now = folder, {"enabled": True, **samples}, 1000.0
        self.sampler = Sampler(lambda: self.config, lambda: self.now)

    @property
    def config(self) -> Config:
        return Config.model_validate(
            {
                "cameras": [{"id": "a", "source": "rtsp://none.example/"}],
                "state_dir": self.folder / "state",
                "samples": self.samples,
                "privacy": self.privacy,
                "outbox": {"max_mb": 1},
            }
        )

    @property
    def store(self) -> SampleStore:
        return self.sampler.store

    def turn(self) -> None:
        try:
            self.sampler._turn()
        finally:
            self.sampler._waiting = None

    def keep(self, found: FrameResult) -> list[str]:
        self.now += 1e6
        self.sampler.seen(found)
        self.turn()
        return self.store.names()


def test_what_is_hard() -> None:
    assert hard(with_score(0.9), TRACK) is None
    assert hard(with_score(0.4), TRACK) == "uncertain"
    assert hard(with_score(0.1), TRACK) is None, "faint ones are in every picture"
    assert hard(with_score(0.9, tracked=True), TRACK) is None
    assert hard(with_score(0.9, predicted=True), TRACK) == "lost"


def test_what_only_one_of_two_models_sees() -> None:
    both = seen((0, 0.9, "person"), (50, 0.8, "dog"))
    assert alone(both, both, TRACK) == []
    assert alone(both, seen((0, 0.3, "person")), TRACK) == [1], "the other is unsure of one, and does not see the other"
    assert alone(both, seen((0, 0.9, "person"), labels=("person",)), TRACK) == [], "and cannot know the dog"
    assert alone(seen((0, 0.4, "person")), seen(), TRACK) == [], "neither does the first"


def test_persons_are_pixelated_unless_privacy_says_otherwise_and_at_once(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    (first,) = kept.keep(with_score(0.4))
    hidden = decoded(kept.store.picture(first).read_bytes())
    assert detail(hidden[30:170, 15:65]) < 0.2 * detail(noise()[30:170, 15:65])
    sample = kept.store.read(first)
    assert sample is not None and sample.pixelated and sample.reason == "uncertain" and sample.model == "eyes@1.0"
    assert sample.boxes == (Box(box=(10, 20, 70, 180), label="person", score=0.4),)
    assert kept.store.picture(first).stat().st_mode & 0o077 == 0 and kept.store.folder.stat().st_mode & 0o077 == 0
    kept.privacy["pixelate"] = False
    second = kept.keep(with_score(0.9, predicted=True))[-1]
    shown = decoded(kept.store.picture(second).read_bytes())
    assert detail(shown[30:170, 15:65]) > 0.5 * detail(noise()[30:170, 15:65])
    sample = kept.store.read(second)
    assert sample is not None and not sample.pixelated and [box.by for box in sample.boxes] == ["model", "track"]


def test_a_day_has_its_budget_also_over_restarts_and_a_camera_its_pause(tmp_path: Path) -> None:
    kept = Kept(tmp_path, per_day=3)
    kept.sampler.seen(with_score(0.4))
    kept.turn()
    kept.sampler.seen(with_score(0.4))
    assert kept.sampler._waiting is None, "a pause after each"
    kept.now += 86_400 / 3 / 4 + 1
    assert len(kept.keep(with_score(0.4))) == 2
    again = Kept(tmp_path, per_day=3)
    assert len(again.keep(with_score(0.4))) == 3
    again.store.remove(again.store.names()[0])
    assert len(again.keep(with_score(0.4))) == 2, "what is gone was kept today all the same"
    assert again.store.taken(utc_day()) == 3 and again.store.taken("2000-01-01") == 0


def test_what_a_model_in_shadow_sees_otherwise(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    frame = Frame("a", 7, 0.0, 0.0, noise())
    active = dataclasses.replace(seen((0, 0.9, "person"), (50, 0.8, "dog")), model=ModelTag("eyes", "1", ""))
    kept.sampler.compared(frame, active, active, 0.1)
    kept.sampler.compared(frame, active, InferenceError("no"), 0.1)
    assert kept.sampler._waiting is None
    other = dataclasses.replace(
        seen((0, 0.9, "person"), (90, 0.7, "hen"), labels=("person", "hen")), model=active.model
    )
    kept.sampler.compared(frame, active, other, 0.1)
    assert kept.sampler._waiting is None, "labels that only one knows are no disagreement"
    other = dataclasses.replace(seen((0, 0.9, "person"), (90, 0.7, "dog")), model=ModelTag("eyes", "2", ""))
    kept.sampler.compared(frame, active, other, 0.1)
    kept.turn()
    sample = kept.store.read(kept.store.names()[0])
    assert sample is not None and (sample.reason, sample.model, sample.shadow) == ("shadow", "eyes@1", "eyes@2")
    assert [(box.label, box.by) for box in sample.boxes] == [("person", "model"), ("dog", "model"), ("dog", "shadow")]


def test_it_is_a_ring_that_leaves_the_disk_to_the_outbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(tmp_path, per_day=20_000, max_mb=0.2)
    for _ in range(9):
        names = kept.keep(with_score(0.4))
        assert sum(map(kept.store.size, names)) <= 200_000
    assert 2 <= len(names) < 9
    low = shutil.disk_usage(tmp_path)._replace(free=150_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: low)
    with pytest.raises(OSError, match="left to the outbox"):
        kept.keep(with_score(0.4))
    assert kept.store.names() == [], "and what was kept makes room"
    monkeypatch.undo()
    assert len(kept.keep(with_score(0.4))) == 1

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    kept.samples["per_day"] = 19_999
    with pytest.raises(OSError, match="No space"):
        kept.keep(with_score(0.4))
    monkeypatch.undo()
    assert len(kept.store.names()) == 1 and len(kept.keep(with_score(0.4))) == 2
    assert not list(kept.store.folder.glob("*.new"))


def test_what_is_old_goes_also_where_none_are_kept_any_more(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    (name,) = kept.keep(with_score(0.4))
    sample = kept.store.read(name)
    assert sample is not None
    kept.store.add(sample.model_copy(update={"kept": time.time() - 31 * 86_400}), b"jpeg")
    (kept.store.folder / "20200101T000000000Z-a-1.jpg").write_bytes(b"half of a sample, which a crash left")
    assert len(kept.store.names()) == 2
    kept.samples["enabled"] = False
    later = build_sampler(lambda: kept.config)
    assert later is not None and not later.on
    stop = threading.Event()
    worker = threading.Thread(target=later.work, args=(Beat(), stop))
    worker.start()
    deadline = time.monotonic() + 60
    while len(list(kept.store.folder.glob("*.jpg"))) > 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    stop.set()
    worker.join(30)
    assert kept.store.names() == [name] and [p.stem for p in kept.store.folder.glob("*.jpg")] == [name]


def test_nothing_is_built_where_none_are_to_be_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept(tmp_path)
    kept.samples["enabled"] = False
    assert build_sampler(lambda: kept.config) is None
    kept.samples["enabled"], kept.privacy["images"] = True, False
    made = build_sampler(lambda: kept.config)
    assert made is not None and not made.on and "privacy.images is false" in caplog.text


def test_a_damaged_sample_is_passed_over(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    (name,) = kept.keep(with_score(0.4))
    (kept.store.folder / f"{name}.json").write_text('{"format": 2}')
    with pytest.raises(UsageError, match="is not empty"):
        export(kept.store, tmp_path)
    assert export(kept.store, tmp_path / "out") == (0, 0)


def test_training_reads_what_is_exported(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.privacy["pixelate"] = False
    kept.keep(with_score(0.9, predicted=True))
    kept.keep(with_score(0.4))
    out = tmp_path / "out"
    out.mkdir()
    assert export(kept.store, out) == (2, 3)
    document = json.loads((out / "annotations.json").read_text())
    assert document["categories"] == [{"id": 1, "name": "person", "supercategory": ""}]
    assert "Predictions" in document["info"]["description"] and all(a["prediction"] for a in document["annotations"])
    coco = Source(kind="coco", path=out / "images", annotations=out / "annotations.json", categories={"person": 0})
    assert own_images(out, ("person",)).annotations == (out / "annotations.json").resolve()
    first, second = read_source(coco)
    size = np.array([300, 200, 300, 200])
    np.testing.assert_allclose(first.boxes * size, [BOX, BOX], atol=0.1)
    assert first.ignore.tolist() == [False, True], "where only the tracker says that somebody is"
    assert second.ignore.tolist() == [True], "of which the model was not sure"
    assert all(decoded(sample.image.read_bytes()).shape == (200, 300, 3) for sample in (first, second))


def test_so_does_cocos_own_reader(tmp_path: Path) -> None:
    pycocotools = pytest.importorskip("pycocotools.coco")
    kept = Kept(tmp_path)
    kept.keep(with_score(0.9, predicted=True))
    kept.keep(with_score(0.4))
    export(kept.store, out := tmp_path / "out")
    read = pycocotools.COCO(str(out / "annotations.json"))
    assert len(read.getAnnIds(iscrowd=False)) == 1 and len(read.getImgIds()) == 2


@pytest.mark.slow
def test_an_agent_keeps_what_is_hard_and_by_hand_it_is_taken_out(root: Path, tmp_path: Path, vtest_video: Path) -> None:
    config = write_config(
        root,
        tmp_path,
        samples={"enabled": True, "per_day": 20_000},
        privacy={"images": True, "pixelate": True},
        outbox={"max_mb": 8},
        cameras=[{"id": "pets", "source": str(vtest_video)}],
        model="person-n",
    )
    done = run_agent("run", "-c", config, "--no-mqtt", "--max-frames", "60", "--realtime", "--json", timeout_s=300)
    assert done.returncode == 0, done.stderr[-3000:]
    listed = result_of(run_agent("samples", "list", "-c", config, "--json", timeout_s=300))["samples"]
    assert listed and {sample["pixelated"] for sample in listed} == {True}
    assert {sample["reason"] for sample in listed} <= {"uncertain", "lost"}
    told = result_of(run_agent("samples", "export", tmp_path / "out", "-c", config, "--json", timeout_s=300))
    assert told["images"] == len(listed) and told["annotations"]
    (found, *_) = read_source(own_images(tmp_path / "out", ("person",)))
    assert len(found.boxes)
    assert result_of(run_agent("samples", "clear", "-c", config, "--json", timeout_s=300))["removed"] == len(listed)
    assert run_agent("samples", "export", tmp_path / "two", "-c", config, timeout_s=300).returncode == 2
