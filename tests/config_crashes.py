"""A box that goes from version 0 of its signed configuration to 1 loses its power, or is killed: what is found afterwards?"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import power_cut
from tests.config_fixtures import NAME, ConfigBox, make_box, publish
from tests.ota_crashes import LIMIT_S, Crash
from tests.ota_fixtures import Operator, make_operator

OLD, NEW, FILE = 0.3, 0.2, 0.5
"""The score threshold of version 0, of version 1, and of the file on the box."""


@dataclass
class Scene:
    """``begun`` is the state folder of ``box`` before the update."""

    operator: Operator
    models: Path
    box: ConfigBox
    begun: Path

    def again(self, folder: Path) -> ConfigBox:
        """The same box, with its state elsewhere."""
        return make_box(folder, self.models, self.operator.public.as_uri(), self.operator.root)

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.config_process", str(self.box.path)]


def scene(folder: Path, models: Path) -> Scene:
    """Version 0 is in force, version 1 is published."""
    operator = make_operator(folder / "operator", root_keys=1, threshold=1)
    publish(operator, "0", {"detect": {"score_threshold": OLD}})
    publish(operator, "1", {"detect": {"score_threshold": NEW}})
    box = make_box(folder / "box", models, operator.public.as_uri(), operator.root)
    box.settle(f"{NAME}@0")
    begun = folder / "begun"
    shutil.copytree(box.path.parent / "state", begun)
    return Scene(operator, models, box, begun)


def power_cuts(made: Scene, folder: Path, every: int = 1) -> Iterator[Crash]:
    """Each different disk that a power cut could leave (one of ``every``)."""
    state = made.box.path.parent / "state"
    for place, words in power_cut.places(made.command, state, made.begun, folder, LIMIT_S, every):
        yield look(made.again(place.parent), words)


def kills(made: Scene, points: list[tuple[str, int]]) -> Iterator[Crash]:
    """kill -9 as the process is about to make the call of that name for the so-manieth time."""
    state = made.box.path.parent / "state"
    for call, number in points:
        shutil.rmtree(state)
        shutil.copytree(made.begun, state)
        killed = power_cut.killed_at(call, number, made.command, LIMIT_S)
        yield look(made.box, f"kill -9 at {call} {number}{'' if killed else ' (it had ended)'}")


def look(box: ConfigBox, point: str) -> Crash:
    """What the agent finds when it starts again, and whether the update comes to its end from there."""
    stored, threshold, faults = box.stored, box.threshold, []
    job, active = stored.job, "none" if stored.active is None else stored.active.version
    if threshold != {"0": OLD, "1": NEW}.get(active):
        faults.append(f"{active} is active, and {threshold} is in force")
    if job is None:
        faults.append("the last job is forgotten")
    elif (job.bundle.version == "1" and job.state in {"probation", "confirmed"}) != (active == "1"):
        faults.append(f"{active} is active, and the state says that {job.bundle.version} is {job.state}")
    box.settle()
    box.settle(f"{NAME}@1")
    end = box.stored
    if box.threshold != NEW or end.job is None or end.job.state != "confirmed":
        faults.append(f"the update does not come to its end: {box.threshold} is in force, {end.job}")
    if end.previous is None or end.previous.version != "0":
        faults.append("there is no way back to 0")
    return Crash(point, active, "none" if job is None else f"{job.bundle.version} {job.state}", faults)
