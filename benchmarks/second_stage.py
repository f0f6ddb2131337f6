"""The second stage on the real video: what it costs, and what it says of people none of whom wears a helmet.

    python -m benchmarks.second_stage [--frames 400] [--json]

Person-n finds people in the pedestrian video, ppe-head judges their heads. ``look`` is the time of one crop (cut, scaled,
judged), of this process; ``answers`` are,
over all frames and people in view, shares of what the votes come to. Nobody wears a helmet there:
*worn* is wrong, *unknown* is not. Exit code 1 where with the default size more than ``GOAL_WRONG`` is wrong.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edge_agent import config_file
from edge_agent.capture.opencv import VideoFile
from edge_agent.chains import judges
from edge_agent.config_classifiers import ClassifierConfig
from edge_agent.detect.second_stage import SecondStage
from edge_agent.record import read_record
from edge_agent.track import MultiObjectTracker
from edge_agent.types import Observation
from edge_agent.usecases.evidence import FALSE, TRUE, UNKNOWN
from edge_agent.usecases.ground import CameraGround
from edge_agent.usecases.scene import Places

ROOT = Path(__file__).parent.parent
GOAL_WRONG = 0.05
NAMES = {TRUE: "worn", FALSE: "not worn", UNKNOWN: "unknown"}


def measure(record: Path, frames: int, min_crop_px: int) -> dict[str, Any]:
    """Costs and answers on the first frames of the video, with the detections of a recording."""
    shipped = config_file.load(ROOT / "config.yaml")
    judge = ClassifierConfig(model="ppe-head", min_crop_px=min_crop_px)
    config = shipped.model_copy(update={"classifiers": [judge]})
    camera = config.cameras[0]
    tracker, ground = MultiObjectTracker(config.track), CameraGround(camera)
    place = Places(camera, judges(config, camera)).of("person")
    answers: Counter[str] = Counter()
    spent, looks = [], 0
    source = VideoFile(camera, ROOT / ".cache" / "vtest.avi")
    source.open()
    with TemporaryDirectory() as cache:
        stage = SecondStage(config, camera, Path(cache))
        for line in read_record(record)[1]:
            frame = source.read()
            if frame is None or line.index >= frames:
                break
            tracks = tracker.update(line.detections, frame.t)
            before = time.process_time()
            seen_now = stage(frame, tracks)
            if seen_now:
                spent.append((time.process_time() - before) * 1000 / len(seen_now))
                looks += len(seen_now)
            where = ground.update(tracks, frame.t, frame.size)
            about = (frame.camera, frame.index, frame.t, frame.utc, frame.size)
            scene = place.look(Observation(*about, tracks, *where, attributes=seen_now))
            for row in np.flatnonzero(scene.persons & ~scene.hidden).tolist():
                answers[NAMES[place.votes.about(int(scene.things.ids[row]), "helmet")]] += 1
    source.close()
    total = max(answers.total(), 1)
    return {
        "frames": frames,
        "min_crop_px": min_crop_px,
        "looks": looks,
        "look_ms": round(float(np.median(spent)), 3) if spent else None,
        "answers": {name: round(answers[name] / total, 4) for name in NAMES.values()},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit code 1 where too much is wrong."""
    from benchmarks.real_zones import recorded

    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.second_stage", description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--record", type=Path, help="a recording of the video; default: one is made")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    with TemporaryDirectory() as folder:
        record = args.record or recorded(Path(folder), "auto", args.frames)
        found = [measure(record, args.frames, pixels) for pixels in (24, 32, 40, 48)]
    ok = all(one["answers"]["worn"] <= GOAL_WRONG for one in found[-1:])
    print(json.dumps({"runs": found, "goal_wrong": GOAL_WRONG, "ok": ok}) if args.json else "\n".join(map(str, found)))
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
