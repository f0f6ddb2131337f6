"""``model install``, ``activate``, ``rollback`` and ``status``: signed updates, by hand. A running agent does the work itself."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edge_agent import config_file
from edge_agent.cli.common import add_verb, out
from edge_agent.cli.model_common import MODEL
from edge_agent.cli.model_running import RunningAgent, is_running
from edge_agent.errors import ActivationFailed, UsageError

if TYPE_CHECKING:
    from edge_agent.config import Config
    from edge_agent.ota.activation import Activation, Progress
    from edge_agent.ota.job import Job, Stored
    from edge_agent.ota.store import ModelStore


def add(verbs: Any) -> None:
    """Add the verbs."""
    about = (
        "fetch a signed model from the repository, check it, compile it and let it test itself; it does not serve yet"
    )
    parser = add_verb(verbs, "install", _install, about, "model install person-n@1.1.0")
    parser.add_argument("model", nargs="?", metavar=MODEL, help="default: what the channel has of the model at work")
    parser.add_argument("--again", action="store_true", help="also if it was rolled back on this box before")
    parser.add_argument("--activate", action="store_true", help="and let it take over, if it passed")
    about = "let the model that was installed take over: at once where the agent is running, else when it starts"
    add_verb(verbs, "activate", _activate, about, "model activate")
    about = "back to the model before, at once where the agent is running; or give up the one that is being installed"
    add_verb(verbs, "rollback", _rollback, about, "model rollback")
    add_verb(verbs, "status", _status, "which model is active, which was before, and what is under way", "model status")


def _install(args: argparse.Namespace) -> int:
    from edge_agent.model_activation import open_repository

    config = config_file.load(args.config)
    store = _store(config)
    if is_running(config, store):
        with bar(quiet=args.json) as progress:
            words = RunningAgent(config).install(
                args.model, activate=args.activate, again=args.again, progress=progress
            )
        return _tell(args, store.read(), words)
    with store.lock(), cancelled_by_signals() as cancel, bar(quiet=args.json) as progress:
        activation = _activation(config, store, progress)
        client = open_repository(config)
        progress("asking the repository", None)
        name, _, version = (args.model or _default_name(config, activation.stored)).partition("@")
        offer = client.look(name, version or None)
        job = activation.install(client, offer, cancel, again=args.again)
        if job is not None and job.state == "warming" and args.activate:
            job = activation.activate(None)
    if job is not None and job.state == "rolled_back":
        raise ActivationFailed(f"{job.bundle.label} was not installed ({job.reason}): {job.detail}")
    return _tell(args, activation.stored, "it is active already" if job is None else _words(job))


def _activate(args: argparse.Namespace) -> int:
    config = config_file.load(args.config)
    store = _store(config)
    if is_running(config, store):
        job = store.read().working
        if job is None or job.state != "warming":
            raise UsageError("no model is ready to take over: edge-agent model status")
        with bar(quiet=args.json) as progress:
            words = RunningAgent(config).install(job.bundle.label, activate=True, again=False, progress=progress)
        return _tell(args, store.read(), words)
    with store.lock():
        activation = _activation(config, store, _no_progress)
        job = activation.activate(None)
    return _tell(args, activation.stored, _words(job))


def _rollback(args: argparse.Namespace) -> int:
    config = config_file.load(args.config)
    store = _store(config)
    if is_running(config, store):
        return _tell(args, store.read(), RunningAgent(config).rollback())
    with store.lock():
        activation = _activation(config, store, _no_progress)
        activation.go_back()
    return _tell(args, activation.stored, "rolled back; the agent takes it over at its next start")


def _status(args: argparse.Namespace) -> int:
    config = config_file.load(args.config)
    return _tell(args, _store(config).read(), "")


# ---- what they share


def _store(config: Config) -> ModelStore:
    from edge_agent.ota.store import ModelStore

    return ModelStore(config.state_dir / "models")


def _activation(config: Config, store: ModelStore, progress: Progress) -> Activation:
    from edge_agent.chains import check_labels
    from edge_agent.model_tools.workshop import BoxWorkshop
    from edge_agent.ota.activation import Activation

    def tell(stored: Stored, done: float | None) -> None:
        if stored.job is not None:
            progress(f"{stored.job.bundle.label}: {stored.job.state.replace('_', ' ')}", done)

    return Activation(store, BoxWorkshop(config, lambda manifest: check_labels(config, manifest)), tell=tell)


def _default_name(config: Config, stored: Stored) -> str:
    from edge_agent.detect.default_model import take_model

    if stored.active is not None:
        return stored.active.name
    return take_model(config.model, config.models_dir, config.detect).model.manifest.name


def _words(job: Job) -> str:
    known = {
        "warming": "it passed: `edge-agent model activate` lets it take over",
        "probation": "it takes over at the agent's next start",
    }
    return f"{job.bundle.label}: {known.get(job.state, job.state)}"


def _tell(args: argparse.Namespace, stored: Stored, words: str) -> int:
    if args.json:
        out(json.dumps({"ok": True, **stored.model_dump(mode="json")}))
        return 0
    show_slots(stored, "the one that the configuration names")
    if words:
        out(words)
    return 0


def show_slots(stored: Stored, usual: str) -> None:
    """What is in the slots (``usual``: where nothing is), and what became of the last job."""
    for slot in ("active", "previous", "candidate"):
        bundle = getattr(stored, slot)
        nothing = "-" if slot == "candidate" else usual
        out(f"{slot:10} {nothing if bundle is None else f'{bundle.label} ({bundle.sha256[:12]})'}")
    if stored.job is not None:
        why = f" ({stored.job.reason}: {stored.job.detail})" if stored.job.reason else ""
        out(f"{'last':10} {stored.job.bundle.label} {stored.job.state.replace('_', ' ')}{why}")


def _no_progress(_doing: str, _done: float | None) -> None:
    """Nobody looks."""


@contextlib.contextmanager
def bar(*, quiet: bool) -> Iterator[Progress]:
    """On a terminal."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def show(doing: str, done: float | None) -> None:
            bar.update(task, description=doing, completed=done or 0.0, total=None if done is None else 1.0)

        yield show


@contextlib.contextmanager
def cancelled_by_signals() -> Iterator[threading.Event]:
    """Ctrl-C and ``kill`` end it in order: what is fetched stays for the next time."""
    cancel = threading.Event()
    before = {number: signal.signal(number, lambda *_: cancel.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield cancel
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
