"""The generator of detections is reproducible, and the tracker has not become worse on what motmetrics ships."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.scenes import Faults, Scene, detect, visibility


def two_people(frames: int = 60) -> Scene:
    """One walks past another who stands nearer to the camera."""
    boxes, ids, when = [], [], []
    for frame in range(frames):
        for person, (x, foot) in enumerate(((200.0, 300.0), (50.0 + 5 * frame, 290.0))):
            boxes.append((x - 20, foot - 100, x + 20, foot))
            ids.append(person)
            when.append(frame)
    return Scene("two", 10.0, (400, 320), np.array(when), np.array(ids), np.array(boxes))


def test_the_same_seed_gives_the_same_detections_and_another_gives_others() -> None:
    scene = two_people()
    one, again, other = (detect(scene, Faults(), seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a.boxes, b.boxes) for a, b in zip(one, again, strict=True))
    assert not all(np.array_equal(a.boxes, b.boxes) for a, b in zip(one, other, strict=True))


def test_a_perfect_detector_finds_everybody_in_the_open_once() -> None:
    perfect = Faults(drop=0.0, jitter=0.0, clutter=0.0, haunts=0, double=0.0, cut=0.0)
    scene = two_people()
    found = detect(scene, perfect, 0)
    open_frames = [i for i in range(scene.length) if visibility(scene.at(i)[1]).min() == 1.0]
    assert len(open_frames) > 20
    assert all(len(found[i]) == 2 for i in open_frames)
    doubled = detect(scene, replace(perfect, double=0.5), 0)
    assert sum(map(len, doubled)) > sum(map(len, found))


@pytest.mark.slow
def test_idf1_on_the_sequences_that_come_with_motmetrics() -> None:
    pytest.importorskip("motmetrics")
    from benchmarks.tracker import included, ours, run

    scenes = [scene.every(step) for scene in included() for step in (1, 3)]
    for level, least in (("mild", 0.72), ("middle", 0.63)):
        idf1 = np.mean([run("ours", ours, scene, level, seed).idf1 for scene in scenes for seed in range(3)])
        assert idf1 > least
