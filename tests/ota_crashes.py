"""A box that updates from version 1 to 2 loses its power, or is killed, somewhere on the way: what is found afterwards?"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge_agent.errors import UpdateError
from tests import power_cut
from tests.ota_attacks import World
from tests.ota_fixtures import Client
from tests.ota_process import BOOT

LIMIT_S = 600.0
PROGRAM = ("-m", "tests.ota_process")


@dataclass(frozen=True)
class Crash:
    """``faults`` is empty where a valid model was active, the state told the truth, and the update could be taken up again."""

    point: str
    active: str
    state: str
    faults: list[str]


WITHOUT_FSYNC = (
    "import os, runpy; os.fsync = lambda _: None; runpy.run_module('tests.ota_process', run_name='__main__')"
)
"""A program for ``python -c``: the same update by somebody who trusts the disk."""


def power_cuts(scene: World, folder: Path, every: int = 1, program: Sequence[str] = PROGRAM) -> Iterator[Crash]:
    """The power is cut at each moment of an update, and each different disk that could be left is looked at (one of ``every``)."""
    box = scene.client.state
    before = folder / "before"
    shutil.copytree(box, before, symlinks=True)
    for place, words in power_cut.places(_command(scene, program), box, before, folder, LIMIT_S, every):
        yield look(scene, place, words, another_boot=True)


def kills(scene: World, folder: Path, points: list[tuple[str, int]]) -> Iterator[Crash]:
    """kill -9 as the process is about to make the call of that name for the so-manieth time."""
    box, before = scene.client.state, folder / "alive"
    shutil.copytree(box, before, symlinks=True)
    for call, number in points:
        shutil.rmtree(box)
        shutil.copytree(before, box, symlinks=True)
        killed = power_cut.killed_at(call, number, _command(scene), LIMIT_S)
        yield look(scene, box, f"kill -9 at {call} {number}{'' if killed else ' (it had ended)'}", another_boot=False)


def _command(scene: World, program: Sequence[str] = PROGRAM) -> list[str]:
    box = scene.client
    return [sys.executable, *program, str(box.state), box.url, str(box.root)]


def look(scene: World, state: Path, point: str, *, another_boot: bool) -> Crash:
    """What the agent finds when it starts again, and whether the update comes to its end from there."""
    client = replace(scene.client, state=state)
    faults = [f"{path.name} is torn" for path in (state / "ota" / "metadata").rglob("*.json") if not _whole(path)]
    stored = client.activation(boot="another" if another_boot else BOOT).stored
    active, job = stored.active, stored.job
    name = "none" if active is None else active.version
    if active is None or not client.store.is_whole(active):
        faults.append("no valid model is active")
    if job is None:
        faults.append("the last job is forgotten")
    elif job.bundle.version == "2.0":
        serves = job.state in ("probation", "confirmed")
        if serves != (name == "2.0"):
            faults.append(f"{name} is active, and the state says {job.state}")
    elif name != "1.0" or job.state != "confirmed":
        faults.append(f"{name} is active, and the state says that {job.bundle.version} is {job.state}")
    faults += _goes_on(client)
    return Crash(point, name, "none" if job is None else f"{job.bundle.version} {job.state}", faults)


def _goes_on(client: Client) -> Iterator[str]:
    try:
        client.install()
    except UpdateError as error:
        yield f"the update cannot be taken up again: {error}"
        return
    activation = client.activation()
    if (job := activation.stored.working) is not None and job.state == "warming":
        activation.activate(None)
    if activation.stored.working is not None:
        activation.confirm()
    stored = activation.stored
    if stored.active is None or stored.active.version != "2.0" or not client.store.is_whole(stored.active):
        yield "the update does not come to its end"
    if stored.previous is None or stored.previous.version != "1.0" or not client.store.is_whole(stored.previous):
        yield "there is no way back to 1.0"
    if left := {path.name for path in (client.state / "models" / "bundles").iterdir()} - stored.kept:
        yield f"left behind: {', '.join(left)}"


def _whole(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True
