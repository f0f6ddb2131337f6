"""The signed part of a box's configuration: over the operator's file, and under what was changed by command.

Which bundle that is, and how the last one fared, is kept as it is for models (``ota/store.py``), in ``state_dir/config``. Only the
agent that holds ``state_dir`` changes it.
"""

from __future__ import annotations

import logging
from pathlib import Path

from edge_agent.config_bundle import read_layer
from edge_agent.config_file import ConfigFile
from edge_agent.errors import ConfigError, Tampered, UpdateError
from edge_agent.ota import job as jobs
from edge_agent.ota.job import Stored
from edge_agent.ota.store import ModelStore

log = logging.getLogger(__name__)

FOLDER = "config"
MAX_STARTS = 2
"""Of the agent with a configuration on trial: one for the change itself, one more as a power cut is nobody's fault."""


def store_of(state_dir: Path) -> ModelStore:
    """Bundles and slots."""
    return ModelStore(state_dir / FOLDER)


def laid(file: ConfigFile) -> tuple[ConfigFile, str]:
    """``file`` with what is signed over it; as it is where that does not fit it, and why. Changes nothing."""
    store = store_of(file.config.state_dir)
    active = store.read().active
    if active is None:
        return file, ""
    try:
        return file.layered(read_layer(store.place(active), active)), ""
    except (ConfigError, Tampered) as error:
        return file, f"{active.label} is not in force, as it does not fit this box: {error}"


def begin(state_dir: Path) -> None:
    """The agent starts: a start with what is on trial is counted, and the last one was one too many."""
    store = store_of(state_dir)
    try:
        known = store.recover()
        if (stored := _counted(known)) != known:
            store.write(stored)
    except UpdateError as error:
        log.error("the signed configuration cannot be looked after: %s", error)


def _counted(stored: Stored) -> Stored:
    job = stored.working
    if job is None or job.state != "probation":
        return stored
    if job.attempts >= MAX_STARTS:
        why = f"the agent ended {job.attempts} times before it was as ready as before"
        log.error("the configuration %s is taken back: %s", job.bundle.label, why)
        return jobs.roll_back(stored, "crash_loop", why)
    return jobs.attempt(stored)


def on_trial(state_dir: Path) -> bool:
    """Whether the agent has to prove itself with another configuration."""
    job = store_of(state_dir).read().working
    return job is not None and job.state == "probation"


def give_up(state_dir: Path, reason: str) -> bool:
    """Take back what is on trial; False where nothing is."""
    if not on_trial(state_dir):
        return False
    store = store_of(state_dir)
    log.error("the configuration on trial is taken back: %s", reason)
    try:
        store.write(jobs.roll_back(store.read(), "unhealthy", reason))
    except UpdateError as error:
        log.error("%s", error)
        return False
    return True
