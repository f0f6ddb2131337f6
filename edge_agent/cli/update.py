"""``update``: another release of the agent itself. As root, from a unit of its own; docs/update-agent.md."""

from __future__ import annotations

import argparse
import json
import logging
import platform
import shlex
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent import config_file
from edge_agent.cli.common import add_verb, out, positive
from edge_agent.errors import ActivationFailed, UsageError

if TYPE_CHECKING:
    from edge_agent.config_ota import OtaConfig
    from edge_agent.ota.activation import Repository
    from edge_agent.ota.agent_update import Seen, Updater
    from edge_agent.ota.client import Offer
    from edge_agent.ota.job import Job, Stored
    from edge_agent.ota.release import Home

HOME = Path("/opt/edge-agent")
RESTART = "systemctl restart edge-agent.service"
RESTART_S = 300.0
PACKED = "bundle.tar"
ASK_S = 10.0
log = logging.getLogger(__name__)


def add(verbs: Any) -> None:
    """Add the verb."""
    about = "install another release of the agent beside this one, let it prove itself, and go back if it does not (as root)"
    parser = add_verb(verbs, "update", _update, about, "update --from edge-agent-x86_64-py3.11-0.2.0.tar")
    parser.add_argument("version", nargs="?", metavar="VERSION", help="default: what the channel offers")
    source = parser.add_mutually_exclusive_group()
    where = "a release that you vouch for: its archive, or an unpacked bundle; or a folder with a repository (a stick)"
    source.add_argument("--from", dest="source", type=Path, metavar="PATH", help=where)
    source.add_argument("--status", action="store_true", help="what runs, what was before, what is under way")
    source.add_argument("--rollback", action="store_true", help="back to the release before")
    source.add_argument(
        "--resume", action="store_true", help="only finish what a crash or a power cut interrupted (at boot)"
    )
    parser.add_argument("--again", action="store_true", help="also if it was rolled back on this box before")
    parser.add_argument(
        "--home", type=Path, default=HOME, metavar="DIR", help="where releases live; default: %(default)s"
    )
    parser.add_argument(
        "--restart", default=RESTART, metavar="COMMAND", help="restarts the agent, no shell; default: %(default)s"
    )
    parser.add_argument(
        "--hold", type=positive, default=60, metavar="S", help="so long it must be well; default: %(default)s"
    )
    parser.add_argument(
        "--deadline", type=positive, default=600, metavar="S", help="by which it must be; default: %(default)s"
    )


def _update(args: argparse.Namespace) -> int:
    from edge_agent.cli.model_update import bar, cancelled_by_signals
    from edge_agent.ota.agent_update import ReleaseStore
    from edge_agent.ota.release import Home

    home = Home(args.home.absolute())
    if args.status:
        return _tell(args, ReleaseStore(home).read(), home, "")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with ReleaseStore(home).lock(), cancelled_by_signals() as cancel, bar(quiet=args.json) as progress:

        def tell(stored: Stored, done: float | None) -> None:
            if stored.job is not None:
                words = f"{stored.job.bundle.label}: {stored.job.state.replace('_', ' ')}"
                progress(words, done)
                if done is None:
                    log.info("%s", words)

        ota, state_dir = config_file.load_ota(args.config)
        updater = _updater(args, home, state_dir, cancel, tell)
        job = None if args.rollback else updater.resume()
        if args.rollback:
            updater.go_back()
        elif not args.resume and (job is None or job.state == "confirmed" or args.source or args.version):
            job = _install(args, ota, home, updater)
    if not args.rollback and job is not None and job.state == "rolled_back":
        raise ActivationFailed(f"{job.bundle.label} was rolled back ({job.reason}): {job.detail}")
    words = "rolled back" if args.rollback else "nothing to do" if job is None else f"{job.bundle.label} runs"
    return _tell(args, updater.stored, home, words)


def _updater(args: argparse.Namespace, home: Home, state_dir: Path, cancel: threading.Event, tell: Any) -> Updater:
    from edge_agent.ota.agent_update import ReleaseWorkshop, Service, Updater
    from edge_agent.ota.child import run

    words = shlex.split(args.restart)
    program = shutil.which(words[0]) if words else None
    if program is None:
        raise UsageError(f"--restart {args.restart!r}: no such program; give the command that restarts the agent")

    def restart() -> None:
        run([program, *words[1:]], f"`{args.restart}`", RESTART_S, cancel)

    service = Service(restart, lambda: _probe(state_dir), args.hold, args.deadline)
    return Updater(home, ReleaseWorkshop(home, args.config.absolute()), service, cancel, tell)


def _install(args: argparse.Namespace, ota: OtaConfig, home: Home, updater: Updater) -> Job | None:
    try:
        repository, offer = _look(args, ota, home)
        return updater.install(repository, offer, again=args.again)
    finally:
        (home.update / PACKED).unlink(missing_ok=True)


def _look(args: argparse.Namespace, ota: OtaConfig, home: Home) -> tuple[Repository, Offer]:
    from edge_agent.health.host import clock_synchronised
    from edge_agent.ota.archive import Archive
    from edge_agent.ota.client import RepositoryClient
    from edge_agent.ota.offer import AGENT, Box
    from edge_agent.ota.release import release_name
    from edge_agent.ota.trusted_time import TrustedTime

    source: Path | None = args.source
    if source is not None and (source / "wheels").is_dir():
        from edge_agent.ota.repository.pack import pack_bundle

        home.update.mkdir(parents=True, exist_ok=True)
        source = pack_bundle(source, home.update / PACKED).path
    if source is not None and not source.is_dir():
        if args.version is not None:
            raise UsageError(f"{args.version}: the version of {source} is in it; give none")
        archive = Archive(source, home.update / "downloads", ota.keep_free_mb)
        return archive, archive.look()
    if source is not None:
        ota = ota.model_copy(update={"repository": source.absolute().as_uri()})
    ota = ota.model_copy(update={"team": ota.release_team})
    battery = ota.clock == "battery"
    time = TrustedTime(home.update / "time", lambda: battery or clock_synchronised() is not False)
    box = Box(frozenset(), frozenset({platform.machine(), *ota.hardware}))
    client = RepositoryClient(ota, home.update, box, time, AGENT)
    return client, client.look(ota.release or release_name(), args.version)


def _probe(state_dir: Path) -> Seen | None:
    from edge_agent.commands.control_socket import ask
    from edge_agent.ota.agent_update import LEVELS, Seen

    try:
        answer = ask(state_dir, {"command": "ping", "args": {}}, ASK_S)
        said = answer["result"]
        level = said["readiness"]
        return Seen(str(said["version"])[:63], level if level in LEVELS else "failing")
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _tell(args: argparse.Namespace, stored: Stored, home: Home, words: str) -> int:
    from edge_agent.cli.model_update import show_slots
    from edge_agent.ota.release import CURRENT, UPDATER

    links = {link: home.linked(link) for link in (CURRENT, UPDATER)}
    if args.json:
        out(json.dumps({"ok": True, **links, **stored.model_dump(mode="json")}))
        return 0
    for link, version in links.items():
        out(f"{link:10} {version or 'leads nowhere'}")
    show_slots(stored, "-")
    if words:
        out(words)
    return 0
