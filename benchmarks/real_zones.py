"""The agent's counts on the pedestrian video beside those that a person made, in ``real_counts.yaml``.

    python -m benchmarks.real_zones [--record FILE] [--anchor feet] [--model person-n] [--json]

The agent runs over every frame with the shipped model and records; or ``--record`` names a recording. The use cases are run on that.
A crossing is right where one counted by hand has the same direction and is at most ``WITHIN`` frames away; occupancy is
compared in the frames that were counted. Exit code 1 below the goals.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from edge_agent import config_file
from edge_agent.config import Config, UseCasesConfig
from edge_agent.config_sop import Anchor
from edge_agent.pipeline import FrameResult
from edge_agent.replay import Replay
from edge_agent.types import Event, Observation, Output, parse_rfc3339
from edge_agent.usecases.presence import presence
from edge_agent.usecases.scene import Places

ROOT = Path(__file__).parent.parent
COUNTS = Path(__file__).with_name("real_counts.yaml")
LENGTH = 795
"""Frames of the video."""
WITHIN = 20
"""Frames, three seconds: a crossing is told when the person is clear of the line."""
GOALS = {"crossings_f1": 0.95, "occupancy_off": 0.15}
"""Least F1 of the crossings; most people that the occupancy may be off, in the mean of the frames counted."""


def recorded(folder: Path, model: str, frames: int) -> Path:
    """Run the agent over so many frames of the video."""
    raw = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    raw["cameras"][0]["source"] = str(ROOT / ".cache" / "vtest.avi")
    raw |= {"state_dir": str(folder / "state"), "models_dir": str(ROOT / "models"), "model": model}
    (folder / "config.yaml").write_text(yaml.safe_dump(raw | {"http": {"enabled": False}}), encoding="utf-8")
    command = [sys.executable, "-m", "edge_agent.cli", "run", "-c", str(folder / "config.yaml"), "--no-mqtt", "--json"]
    command += ["--max-frames", str(frames)]
    subprocess.run([*command, "--record", str(folder / "video.jsonl")], check=True, stdout=subprocess.DEVNULL)
    return folder / "video.jsonl"


def watched(counts: dict[str, Any], anchor: Anchor) -> Config:
    """The shipped configuration with the line and the zone that were counted."""
    config = config_file.load(ROOT / "config.yaml")
    camera = config.cameras[0].model_copy(update={"lines": {"line": counts["line"]}, "zones": {"zone": counts["zone"]}})
    # Its first point is the upper one: forward, from its left to its right, is to the left of the picture.
    rule = {"name": "line", "line": "line", "anchor": anchor, "forward": "left", "backward": "right"}
    cases = UseCasesConfig.model_validate({"line_count": {"rules": [rule]}})
    return config.model_copy(update={"cameras": [camera], "use_cases": cases})


def watch(record: Path, config: Config, anchor: Anchor) -> tuple[list[tuple[int, str]], dict[int, int]]:
    """Crossings (frame, direction) that are told of a recording, and how many are in the zone in each frame."""
    told: list[Output] = []
    people: dict[int, int] = {}
    camera = config.cameras[0]
    place = Places(camera).of("person")
    replay = Replay(record, config, told.append)

    def look(result: FrameResult) -> None:
        frame = result.frame
        seen = Observation(
            frame.camera, frame.index, frame.t, frame.utc, frame.size, result.tracks, result.ground, result.pairs
        )
        people[frame.index] = presence(place.look(seen), "zone", anchor).people

    replay.on_result = look
    for _ in replay:
        pass
    start, fps = parse_rfc3339(replay.header.start), camera.fps or replay.header.fps
    events = [one for one in told if isinstance(one, Event) and one.what == "crossing"]
    return [(round((e.utc - start) * fps), str(e.data["direction"])) for e in events], people


def paired(
    told: Sequence[tuple[int, str]], true: Sequence[tuple[int, str]]
) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Those that were missed, and those that were told falsely."""
    left, false = list(true), []
    for frame, direction in told:
        near = [one for one in left if one[1] == direction and -5 <= frame - one[0] <= WITHIN]
        if near:
            left.remove(min(near, key=lambda one: abs(one[0] - frame)))
        else:
            false.append((frame, direction))
    return left, false


def compare(record: Path, anchor: Anchor, frames: int) -> dict[str, Any]:
    """Counts by hand and by the agent, in so many frames."""
    counts = yaml.safe_load(COUNTS.read_text(encoding="utf-8"))
    told, people = watch(record, watched(counts, anchor), anchor)
    # What is crossed at the end of a part is told after it.
    until = frames if frames >= LENGTH else frames - WITHIN
    true = [(frame, direction) for frame, direction, _ in counts["crossings"] if frame <= until]
    missed, false = paired(told, true)
    told = [one for one in told if one[0] <= until or one not in false]
    false = [one for one in false if one[0] <= until]
    hits = len(true) - len(missed)
    zone = [(frame, by_hand, people.get(frame, 0)) for frame, by_hand, _ in counts["occupancy"] if frame < frames]
    return {
        **{
            name: {
                "by_hand": sum(d == name for _, d in true),
                "agent": sum(d == name for _, d in told),
            }
            for name in ("left", "right")
        },
        "missed": missed,
        "false": false,
        "crossings_f1": round(2 * hits / (len(true) + len(told)), 3),
        "occupancy": zone,
        "occupancy_right": sum(a == b for _, a, b in zone),
        "occupancy_off": round(sum(abs(a - b) for _, a, b in zone) / len(zone), 3),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit code 1 below the goals."""
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_zones", description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, help="a recording of the whole video; default: one is made")
    parser.add_argument("--model", default="auto")
    parser.add_argument("--frames", type=int, default=LENGTH, help="of the video; default: all %(default)s")
    parser.add_argument("--anchor", choices=["feet", "centre", "head"], default="feet")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        found = compare(args.record or recorded(Path(folder), args.model, args.frames), args.anchor, args.frames)
    ok = found["crossings_f1"] >= GOALS["crossings_f1"] and found["occupancy_off"] <= GOALS["occupancy_off"]
    if args.json:
        print(json.dumps(found | {"goals": GOALS, "ok": ok}))
    else:
        for name in ("left", "right"):
            print(f"crossings to the {name:5}  by hand {found[name]['by_hand']:3}   agent {found[name]['agent']:3}")
        print(f"missed {found['missed']}, false {found['false']}, F1 {found['crossings_f1']}")
        print(f"occupancy (frame, by hand, agent): {found['occupancy']}")
        print(
            f"right in {found['occupancy_right']} of {len(found['occupancy'])}, off by {found['occupancy_off']} people"
        )
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
