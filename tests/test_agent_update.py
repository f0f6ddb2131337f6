"""The agent's own update as a state machine: every durable step may be the last before the power goes."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edge_agent import release_watch
from edge_agent.errors import ActivationFailed, Interrupted, Rejected, UsageError
from edge_agent.ota import agent_update, release, store
from edge_agent.ota.activation import Progress
from edge_agent.ota.agent_update import Level, Seen, Service, Updater
from edge_agent.ota.archive import Archive
from edge_agent.ota.job import ATTEMPTS, Job, Stored
from edge_agent.ota.release import CURRENT, UPDATER, Home
from edge_agent.release_watch import ReleaseWatch, home_of
from tests.agent_releases import write_release
from tests.durable_steps import PowerCut, Steps


@dataclass
class QuickWorkshop:
    """A folder with a program in it, in place of a venv that takes seconds; made and marked by the same steps."""

    home: Home
    bad: set[str] = field(default_factory=set)

    def compile(self, folder: Path, progress: Progress, cancel: threading.Event) -> None:
        sha256 = folder.parents[1].name
        release.build(folder, self.home, sha256, cancel)

    def self_test(self, folder: Path, progress: Progress, cancel: threading.Event) -> None:
        if folder.name in self.bad:
            raise ActivationFailed(f"{folder.name} is bad")


@dataclass
class Box:
    """An installation, and the agent that runs there as far as anybody asks it."""

    folder: Path
    home: Home
    running: str | None = "1.0"
    levels: dict[str, Level] = field(default_factory=dict)
    restarts: int = 0
    cancel: threading.Event = field(default_factory=threading.Event)
    bad: set[str] = field(default_factory=set)

    def restart(self) -> None:
        self.restarts += 1
        self.running = self.home.linked(CURRENT)

    def probe(self) -> Seen | None:
        level = self.levels.get(self.running or "", "ok")
        return None if self.running is None or level == "down" else Seen(self.running, level)

    def updater(self) -> Updater:
        service = Service(self.restart, self.probe, hold_s=0.0, deadline_s=0.05)
        return Updater(self.home, QuickWorkshop(self.home, self.bad), service, self.cancel)

    def archive(self, version: str) -> Archive:
        path = self.folder / f"{version}.tar"
        if not path.exists():
            write_release(self.folder, version)
        return Archive(path, self.home.update / "downloads", 0)

    def install(self, version: str, *, again: bool = False) -> Job | None:
        archive = self.archive(version)
        return self.updater().install(archive, archive.look(), again=again)

    def releases(self) -> set[str]:
        return {path.name for path in self.home.releases.iterdir()}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No venv, no pip, no sync of the whole machine, no pauses: these are tried in test_agent_update_real.py."""

    def install(folder: Path, place: Path, cancel: object, *, system: bool) -> None:
        (place / "bin").mkdir(parents=True)
        (place / "bin" / "edge-agent").write_text(folder.name)

    monkeypatch.setattr(release, "_install", install)
    monkeypatch.setattr(release, "sync_disk", lambda _: None)
    monkeypatch.setattr(agent_update, "POLL_S", 0.01)


@pytest.fixture
def box(tmp_path: Path) -> Box:
    made = Box(tmp_path, Home(tmp_path / "opt"))
    made.archive("1.0")
    release.first(tmp_path / "1.0.tar", made.home, system=False)
    return made


def test_the_whole_way_and_back(box: Box) -> None:
    job = box.install("2.0")
    assert job is not None and job.state == "confirmed"
    assert (box.running, box.home.linked(CURRENT), box.home.linked(UPDATER)) == ("2.0", "2.0", "2.0")
    assert box.releases() == {"1.0", "2.0"} and box.install("2.0") is None
    box.install("3.0")
    assert box.releases() == {"2.0", "3.0"} and box.running == "3.0"
    assert list((box.home.update / "bundles").iterdir()) == []
    box.updater().go_back()
    assert (box.running, box.home.linked(CURRENT), box.home.linked(UPDATER)) == ("2.0", "2.0", "2.0")
    with pytest.raises(Rejected, match="rolled back here before"):
        box.install("3.0")
    with pytest.raises(UsageError, match="no release before"):
        box.updater().go_back()
    job = box.install("3.0", again=True)
    assert job is not None and job.state == "confirmed" and box.running == "3.0"


@pytest.mark.parametrize(
    ("level", "before", "good"),
    [
        ("down", "ok", False),
        ("failing", "degraded", False),
        ("degraded", "ok", False),
        ("degraded", "degraded", True),
        ("failing", "failing", True),
        ("failing", "down", True),
        ("ok", "down", True),
        ("down", "down", False),
    ],
)
def test_it_must_be_as_ready_as_the_one_before(box: Box, level: Level, before: Level, good: bool) -> None:
    box.levels |= {"1.0": before, "2.0": level}
    if good:
        job = box.install("2.0")
        assert job is not None and job.state == "confirmed"
        return
    if before == "down":
        with pytest.raises(ActivationFailed, match=r"back on 1\.0, but the agent does not run"):
            box.install("2.0")
    else:
        job = box.install("2.0")
        assert job is not None and (job.state, job.reason) == ("rolled_back", "unhealthy")
    assert (box.running, box.home.linked(CURRENT), box.home.linked(UPDATER)) == ("1.0", "1.0", "1.0")
    assert box.releases() == {"1.0"}


def test_whoever_subscribes_sees_it_come_and_go(box: Box, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each release tells what it finds when it starts, and what happens while it runs."""
    told: list[Any] = []
    monkeypatch.setattr(release_watch, "LOOK_S", 0.0)

    def watch() -> ReleaseWatch:
        monkeypatch.setattr(release_watch, "__version__", box.running or "")
        found = ReleaseWatch(tmp_path, home_of(box.home.folder / CURRENT))
        found.look(lambda _, facts: told.append(dict(facts)))
        return found

    start, write = box.restart, store.ModelStore.write
    seen = [watch()]

    def restart() -> None:
        start()
        seen[0] = watch()

    def written(self: store.ModelStore, stored: Stored) -> None:
        write(self, stored)
        seen[0].look(lambda _, facts: told.append(dict(facts)))

    box.restart = restart  # type: ignore[method-assign]
    monkeypatch.setattr(store.ModelStore, "write", written)
    box.levels["3.0"] = "failing"
    box.install("2.0"), box.install("3.0")
    watch(), watch()  # it is told once, also by who starts anew
    assert [(fact["state"], fact["version"], fact["before"]) for fact in told] == [
        ("begun", "2.0", "1.0"),
        ("probation", "2.0", "1.0"),
        ("confirmed", "2.0", "1.0"),
        ("begun", "3.0", "2.0"),
        ("probation", "3.0", "2.0"),
        ("rolled_back", "3.0", "2.0"),
    ]
    assert [fact["running"] for fact in told][:4] == ["1.0", "1.0", "2.0", "2.0"]
    assert told[-1]["reason"] == "unhealthy" and "readiness is failing" in told[-1]["detail"]
    assert home_of(tmp_path / "venv") is None and home_of(Path("/")) is None


def test_a_bad_one_does_not_cost_the_way_back(box: Box) -> None:
    box.install("2.0")
    box.levels["3.0"] = "failing"
    job = box.install("3.0")
    assert job is not None and job.state == "rolled_back"
    assert box.running == "2.0" and box.releases() == {"1.0", "2.0"}
    box.updater().go_back()
    assert box.running == "1.0"


def test_a_service_that_cannot_be_restarted_gets_the_old_release_back(box: Box) -> None:
    def broken() -> None:
        box.restarts += 1
        box.running = None if box.home.linked(CURRENT) == "2.0" else box.home.linked(CURRENT)
        if box.running is None:
            raise ActivationFailed("`systemctl restart edge-agent`: ended with code 1")

    box.restart = broken  # type: ignore[method-assign]
    job = box.install("2.0")
    assert job is not None and job.reason == "unhealthy" and "ended with code 1" in job.detail
    assert (box.running, box.restarts) == ("1.0", 2)


def test_a_bad_one_is_never_started(box: Box) -> None:
    box.bad.add("2.0")
    job = box.install("2.0")
    assert job is not None and (job.state, job.reason, box.restarts) == ("rolled_back", "self_test", 0)
    assert box.running == box.home.linked(UPDATER) == "1.0" and box.releases() == {"1.0"}


def test_stopped_in_its_probation_it_is_judged_by_the_next_run(box: Box) -> None:
    box.levels["2.0"] = "failing"
    archive = box.archive("2.0")
    box.restart = box.cancel.set  # type: ignore[method-assign]
    updater = box.updater()
    with pytest.raises(Interrupted, match="judged by the next run"):
        updater.install(archive, archive.look())
    assert (box.home.linked(CURRENT), box.home.linked(UPDATER)) == ("2.0", "1.0")
    del box.restart
    box.cancel.clear()
    box.levels["2.0"] = "ok"
    job = box.updater().resume()
    assert job is not None and job.state == "confirmed" and box.running == "2.0"


def test_one_that_takes_the_box_down_each_time_is_taken_back(box: Box) -> None:
    def crash() -> None:
        box.running = box.home.linked(CURRENT)
        if box.running == "2.0":
            box.running = None
            raise PowerCut

    box.restart = crash  # type: ignore[method-assign]
    with pytest.raises(PowerCut):
        box.install("2.0")
    for _ in range(ATTEMPTS):
        assert box.home.linked(CURRENT) == "2.0" and box.home.linked(UPDATER) == "1.0"
        with pytest.raises(PowerCut):
            box.updater().resume()
    job = box.updater().resume()
    assert job is not None and (job.state, job.reason, box.running) == ("rolled_back", "interrupted", "1.0")


# ---- the power is cut at every durable step


@pytest.fixture
def cut_after(monkeypatch: pytest.MonkeyPatch) -> Steps:
    steps = Steps(monkeypatch)
    for module in (release, store, agent_update):
        steps.count(module, "write_file")
    steps.count(Home, "lead", argument=1)
    steps.count(store.ModelStore, "add", argument=1)
    return steps


def runs(box: Box) -> str:
    """The version that would start now, of a whole release."""
    version = box.home.linked(CURRENT)
    assert version is not None and box.home.built(version) is not None
    return version


@pytest.mark.slow
def test_a_power_cut_at_any_step_leaves_a_release_that_runs_and_the_update_goes_on(box: Box, cut_after: Steps) -> None:
    steps = cut_after(None)
    box.install("2.0")
    assert {
        "write_file before",
        "write_file state.json",
        "write_file release.json",
        "lead current",
        "lead updater",
    } <= set(steps)
    for step in range(len(steps) - 1):  # the first one of all was the adoption of what was there
        version = f"3.{step}"
        box.archive(version)
        before = box.running
        assert before is not None
        cut_after(step)
        with pytest.raises(PowerCut):
            box.install(version)
        cut_after(None)
        current, proven = runs(box), box.home.linked(UPDATER)
        assert proven in {before, version} and current in {before, version}, step
        box.running = current  # the box boots
        left = box.updater().resume()
        assert left is None or left.state == "confirmed", step
        if left is None:
            job = box.install(version)
            assert job is None or job.state == "confirmed", step
        assert (box.running, runs(box), box.home.linked(UPDATER)) == (version, version, version), step
        assert box.releases() == {before, version}, step
    assert step > 20


@pytest.mark.slow
def test_a_power_cut_while_a_bad_one_is_taken_back_leaves_the_old_one(box: Box, cut_after: Steps) -> None:
    box.levels |= {f"2.{step}": "failing" for step in range(60)}
    steps = cut_after(None)
    box.install("2.59")
    for step in range(len(steps) - 1):
        version = f"2.{step}"
        box.archive(version)
        cut_after(step)
        with pytest.raises(PowerCut):
            box.install(version)
        cut_after(None)
        box.running = runs(box)  # the box boots
        assert box.home.linked(UPDATER) == "1.0", step
        job = box.updater().resume()
        assert job is None or job.state == "rolled_back", step
        assert (box.running, runs(box), box.home.linked(UPDATER)) == ("1.0", "1.0", "1.0"), step
    assert step > 20
