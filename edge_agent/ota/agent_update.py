"""The agent's own code, updated by the same steps as models: another store, another workshop, another serving side.

The state file is written before the link ``current`` is switched, and whoever starts next makes the links say what it says. So
the running release is whole at any moment, and what was under way is finished or taken back.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from edge_agent.durable import write_file
from edge_agent.errors import ActivationFailed, DownloadError, Interrupted, Tampered, UpdateError, UsageError
from edge_agent.ota.activation import Activation, Progress, Repository, Workshop
from edge_agent.ota.bundle import RELEASE
from edge_agent.ota.child import run
from edge_agent.ota.client import Offer
from edge_agent.ota.job import TERMINAL, Job, Stored
from edge_agent.ota.offer import Bundle
from edge_agent.ota.release import CURRENT, UPDATER, Home, Release, build, release_name
from edge_agent.ota.store import ModelStore

log = logging.getLogger(__name__)

Level: TypeAlias = Literal["ok", "degraded", "failing", "down"]
"""How ready the agent is, best first; ``down``: it does not answer."""
LEVELS: tuple[Level, ...] = get_args(Level)
TEST_S = 300.0
"""For each of the programs that a new release must run."""
POLL_S = 1.0
_IMPORT_ALL = (
    "import importlib, pkgutil, edge_agent\n"
    "for module in pkgutil.walk_packages(edge_agent.__path__, 'edge_agent.'):\n"
    "    module.name.endswith('.__main__') or importlib.import_module(module.name)\n"
)


class ReleaseStore(ModelStore):
    """What is remembered and half done in ``update/``; what was built in ``releases/``."""

    def __init__(self, home: Home) -> None:
        super().__init__(home.update)
        self._home = home

    def is_whole(self, bundle: Bundle) -> bool:
        """Whether it is built, or its archive is there to build it of."""
        return self._home.built(bundle.version) == (bundle.name, bundle.sha256) or super().is_whole(bundle)

    def collect(self, stored: Stored) -> None:
        """Remove releases that nothing names, and the wheels of those that are built."""
        for path in self._bundles.glob("*"):
            if stored.candidate is None or path.name != stored.candidate.sha256:
                shutil.rmtree(path, ignore_errors=True)
        kept = {bundle.version for bundle in stored.needed}
        kept |= {version for link in (CURRENT, UPDATER) if (version := self._home.linked(link))}
        for path in self._home.releases.glob("*"):
            if path.name not in kept and path.resolve() != Path(sys.prefix).resolve():
                shutil.rmtree(path, ignore_errors=True)

    def adopt(self) -> None:
        """Remember as active what was installed without us. Raises UsageError where nothing is, UpdateError."""
        if (stored := self.read()).active is not None:
            return
        version = self._home.linked(CURRENT)
        if version is None:
            raise UsageError(
                f"{self._home.folder}/{CURRENT}: no release is installed there; the first one: docs/update-agent.md"
            )
        name, sha256 = self._home.built(version) or (release_name(), "0" * 64)
        if self._home.built(version) is None:  # made by hand: from now on it is one of ours
            told = {"name": name, "version": version, "sha256": sha256}
            write_file(self._home.place(version) / RELEASE, json.dumps(told).encode())
        self.write(stored.model_copy(update={"active": Bundle(name=name, version=version, sha256=sha256)}))


@dataclass(frozen=True, slots=True)
class ReleaseWorkshop:
    """Fulfils ``Workshop``: a venv, and what it must be able to do before anything depends on it. ``config``: the box's file."""

    home: Home
    config: Path

    def compile(self, folder: Path, progress: Progress, cancel: threading.Event) -> None:
        """See ``Workshop``; ``folder`` is as the store places it, ``<sha256>/<name>/<version>``."""
        progress("building", None)
        bundle = Bundle(name=folder.parent.name, version=folder.name, sha256=folder.parents[1].name)
        if self.home.built(bundle.version) == (bundle.name, bundle.sha256):
            return
        told = Release.read(folder)
        if (told.name, told.version) != (bundle.name, bundle.version):
            raise Tampered(f"{told.name}@{told.version} is in the place of {bundle.label}")
        try:
            build(folder, self.home, bundle.sha256, cancel)
        except OSError as error:
            raise UpdateError(f"{self.home.folder}: {error.strerror or error}") from error

    def self_test(self, folder: Path, progress: Progress, cancel: threading.Event) -> None:
        """See ``Workshop``. It starts, all of it can be imported, its updater knows the state, and it takes the configuration."""
        progress("testing itself", None)
        version, programs = folder.name, self.home.place(folder.name) / "bin"
        agent = str(programs / "edge-agent")

        def must(*words: str) -> str:
            return run(words, f"{version} at `{Path(words[0]).name} {words[1]}`", TEST_S, cancel)

        if (said := must(agent, "--version")) != f"edge-agent {version}":
            raise ActivationFailed(f"{version} says that it is {said[:100]!r}")
        must(str(programs / "python"), "-I", "-c", _IMPORT_ALL)
        must(agent, "update", "--status", "--home", str(self.home.folder))
        if self._now_checks(cancel):  # what this one does not take either is no fault of that one
            must(agent, "check", "-c", str(self.config))

    def _now_checks(self, cancel: threading.Event) -> bool:
        try:
            run(
                [sys.executable, "-I", "-m", "edge_agent.cli", "check", "-c", str(self.config)], "check", TEST_S, cancel
            )
        except ActivationFailed as error:
            log.warning("the configuration is not taken by this release, so it is not asked of the next: %s", error)
            return False
        return True


@dataclass(frozen=True, slots=True)
class Seen:
    """What the running agent says of itself."""

    version: str
    level: Level


@dataclass(frozen=True, slots=True)
class Service:
    """The running agent. ``restart`` (blocks; raises ActivationFailed) and ``probe`` (None: it does not answer) reach it.

    Within ``deadline_s`` it must have been as it should for ``hold_s`` seconds without a break.
    """

    restart: Callable[[], None]
    probe: Callable[[], Seen | None]
    hold_s: float = 60.0
    deadline_s: float = 600.0

    def level(self) -> Level:
        """How ready it is now."""
        seen = self.probe()
        return "down" if seen is None else seen.level

    def wait(self, version: str, at_least: Level, cancel: threading.Event) -> None:
        """Until it proved itself. Raises ActivationFailed, Interrupted."""
        deadline, good_since = time.monotonic() + self.deadline_s, None
        while True:
            seen, now = self.probe(), time.monotonic()
            trouble = _trouble(seen, version, at_least)
            good_since = None if trouble else (good_since or now)
            if good_since is not None and now - good_since >= self.hold_s:
                return
            if now > deadline:
                raise ActivationFailed(f"after {self.deadline_s:g} s {trouble or 'it came and went'}")
            if cancel.wait(POLL_S):
                raise Interrupted("stopped while the new release had to prove itself; it is judged by the next run")


def _trouble(seen: Seen | None, version: str, at_least: Level) -> str:
    if seen is None:
        return "the agent does not answer"
    if seen.version != version:
        return f"the agent that answers is {seen.version}, not {version}"
    if LEVELS.index(seen.level) > LEVELS.index(at_least):
        return f"its readiness is {seen.level}, it was {at_least}"
    return ""


class Updater:
    """Fulfils ``Serving`` too. Whoever makes it holds the store's lock; one thread. Raises UsageError where nothing is installed."""

    def __init__(
        self,
        home: Home,
        workshop: Workshop,
        service: Service,
        cancel: threading.Event,
        tell: Callable[[Stored, float | None], None] = lambda _stored, _progress: None,
    ) -> None:
        self._store = ReleaseStore(home)
        self._store.adopt()
        self._home, self._service, self._cancel = home, service, cancel
        self._activation = Activation(self._store, workshop, tell=tell)
        self._before = home.update / "before"
        self._moved = self._align()

    @property
    def stored(self) -> Stored:
        """What holds now."""
        return self._activation.stored

    def resume(self) -> Job | None:
        """Bring what an earlier run left to its end; the job, None where nothing was left, or only half a download.

        Raises Interrupted.
        """
        job = self.stored.working
        if job is None:
            self._follow()
            return None
        if job.state == "probation":
            self._activation.retry()
            return self._judge()
        if job.state != "downloading":
            job = self._activation.run(_Nowhere(), Offer(job.bundle, 0, ""), self._cancel)
        return self._take_over(job) if job.state == "warming" else job if job.state in TERMINAL else None

    def install(self, repository: Repository, offer: Offer, *, again: bool = False) -> Job | None:
        """To the end: confirmed or rolled back. None: it is what runs. Raises as ``Activation.install``, and UsageError."""
        for there in (self.stored.active, self.stored.previous):
            if there is not None and there.version == offer.bundle.version and there != offer.bundle:
                raise UsageError(
                    f"{there.version} is installed with another content ({there.sha256[:12]}): give it a new version"
                )
        job = self._activation.install(repository, offer, self._cancel, again=again)
        return self._take_over(job) if job is not None and job.state == "warming" else job

    def go_back(self) -> None:
        """To the release before, by an operator's command; or give up what is under way. Raises UsageError, ActivationFailed."""
        if self.stored.working is None and self.stored.previous is None:
            raise UsageError("there is no release before this one")
        self._activation.go_back()
        self._return()

    # ---- as ``Serving``

    def warm(self, folder: Path) -> None:
        """Remember how ready the agent is without it."""
        del folder
        write_file(self._before, self._service.level().encode())

    def swap(self) -> None:
        """Let the service be the new one when it starts next."""
        self._align()

    # ---- the end of the way

    def _take_over(self, job: Job) -> Job:
        job = self._activation.activate(self)
        return self._judge() if job.state == "probation" else job

    def _judge(self) -> Job:
        """Restart the service where it is not yet the new one, and see whether it is any good."""
        stored, service = self.stored, self._service
        assert stored.job is not None and stored.active is not None
        if stored.job.state != "probation":  # tried too often
            self._return()
            return stored.job
        version = stored.active.version
        try:
            seen = service.probe()
            if seen is None or seen.version != version:
                service.restart()
            service.wait(version, self._level_before(), self._cancel)
        except Interrupted:
            self._activation.unretry()
            raise
        except ActivationFailed as error:
            log.error("%s is taken back: %s", version, error)
            self._activation.roll_back("unhealthy", str(error))
            self._return()
        else:
            self._activation.confirm()
            self._align()
        job = self.stored.job
        assert job is not None
        return job

    def _follow(self) -> None:
        """Something was taken back, and the power went before the service was: it follows now."""
        seen, active = self._service.probe(), self.stored.active
        if self._moved or (seen is not None and active is not None and seen.version != active.version):
            self._return()

    def _return(self) -> None:
        """The service is what it was before: the link, and the process where it is another."""
        self._align()
        active, service = self.stored.active, self._service
        if active is None:
            return
        seen = service.probe()
        if seen is not None and seen.version == active.version:
            return
        try:
            service.restart()
            service.wait(active.version, "failing", self._cancel)
        except ActivationFailed as error:
            raise ActivationFailed(f"back on {active.version}, but the agent does not run: {error}") from error

    def _level_before(self) -> Level:
        try:
            text = self._before.read_text("ascii")
        except (OSError, ValueError):
            return "failing"
        return next((level for level in LEVELS if level == text), "failing")

    def _align(self) -> bool:
        """Let the links say what the state says, and remove what nothing names then; whether the service's was another."""
        stored, before = self.stored, self._home.linked(CURRENT)
        proven = stored.previous if stored.job is not None and stored.job.state == "probation" else stored.active
        for link, bundle in ((CURRENT, stored.active), (UPDATER, proven)):
            if bundle is not None and self._home.built(bundle.version) is not None:
                self._home.lead(link, bundle.version)
        self._store.collect(stored)
        return self._home.linked(CURRENT) != before


class _Nowhere:
    """What is resumed needs no repository; what does is looked for anew."""

    def look(self, name: str, version: str | None = None) -> Offer:
        raise DownloadError(f"{name}@{version}: no repository is asked")

    def fetch(self, offer: Offer, progress: Callable[[float], None], cancel: threading.Event) -> Path:
        raise DownloadError(f"{offer.bundle.label}: no repository is asked")
