"""``outbox``: what waits for the broker, whether it is whole, and how to get rid of it.

``stat``, ``export`` and ``verify`` only read, also beside a running agent. ``purge`` and ``retry`` write, and refuse while
an agent has the state folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from edge_agent import config_file
from edge_agent.cli.common import Verb, add_verb, out
from edge_agent.errors import UsageError

KINDS = ("events", "metrics", "telemetry")


def add(verbs: Any) -> None:
    """Add ``outbox`` and its own verbs."""
    parser = verbs.add_parser("outbox", help="see, export, verify and purge what waits to be delivered")
    own = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _verb(own, "stat", _stat, "say what waits for whom, and what was refused", "")
    export = _verb(own, "export", _export, "print what waits as JSON, one message a line", "> waiting.jsonl")
    export.add_argument("--dead", action="store_true", help="what was refused for good, instead of what waits")
    _verb(
        own, "verify", _verify, "check the database and that no sequence number is missing; exit code 1 where not", ""
    )
    purge = _verb(
        own, "purge", _purge, "give up what waits; the agent must be stopped, and announces it later", "--dead"
    )
    purge.add_argument("--dead", action="store_true", help="what was refused for good, instead of what waits")
    purge.add_argument("--only", choices=KINDS, action="append", help="of what waits, this kind only; may be repeated")
    purge.add_argument("--yes", action="store_true", help="do not ask")
    retry = _verb(own, "retry", _retry, "send again what was refused for good; the agent must be stopped", "")
    for parser in (export, purge, retry):
        parser.add_argument("--sink", help="for one sink only, as mqtt; default: all")


def _verb(verbs: Any, name: str, verb: Verb, about: str, example: str) -> argparse.ArgumentParser:
    parser = add_verb(verbs, name, verb, about, f"outbox {name} {example}".rstrip())
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help="default: that of the configuration")
    return parser


def _folder(args: argparse.Namespace) -> Path:
    return Path(args.state_dir) if args.state_dir is not None else config_file.load(args.config).state_dir


# ---- the work


def _stat(args: argparse.Namespace) -> int:
    from edge_agent.outbox.inspection import stat
    from edge_agent.state_dir import is_held

    folder = _folder(args)
    found = {"agent": is_held(folder), **stat(folder / "outbox.db")}
    if args.json:
        out(json.dumps({"ok": True, **found}))
        return 0
    from rich.console import Console

    from edge_agent.cli.outbox_tables import tables

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for table in tables(found):
        console.print(table)
    return 0


def _export(args: argparse.Namespace) -> int:
    from edge_agent.outbox.inspection import export_dead, export_waiting

    export = export_dead if args.dead else export_waiting
    for message in export(_folder(args) / "outbox.db", args.sink):
        out(json.dumps(message, ensure_ascii=False))
    return 0


def _verify(args: argparse.Namespace) -> int:
    from edge_agent.outbox.verify import verify

    path = _folder(args) / "outbox.db"
    verdict = verify(path)
    if args.json:
        result = {"problems": verdict.problems, "sequence": verdict.sequence, "sinks": verdict.sinks}
        out(json.dumps({"ok": verdict.ok, **result}))
    else:
        for problem in verdict.problems:
            out(problem)
        for name, numbers in verdict.sinks.items():
            parts = [f"{_size(numbers[fate])} {fate}" for fate in ("delivered", "waiting", "lost", "unexplained")]
            out(f"{name}: sequence numbers {numbers['from']} to {numbers['to']}: {', '.join(parts)}")
        out(f"{path}: {'ok' if verdict.ok else f'{len(verdict.problems)} problem(s)'}")
    return 0 if verdict.ok else 1


def _size(ranges: list[list[str]]) -> int:
    return sum(int(last) - int(first) + 1 for first, last in ranges)


def _purge(args: argparse.Namespace) -> int:
    from edge_agent.outbox.maintain import purge, purge_dead
    from edge_agent.outbox.messages import Priority
    from edge_agent.state_dir import state_lock

    if args.dead and args.only:
        raise UsageError("--only is for what waits; --dead takes every kind")
    folder = _existing(args)
    what = "all that was refused" if args.dead else f"the {', '.join(args.only or KINDS)} that wait"
    with state_lock(folder):
        if not args.yes and not _agreed(f"Delete {what} for {args.sink or 'every sink'} in {folder}?"):
            return 1
        kinds = [p for p in Priority if args.only is None or p.plural in args.only]
        path = folder / "outbox.db"
        count = purge_dead(path, args.sink) if args.dead else purge(path, kinds, args.sink)
    told = "" if args.dead or not count else "; the next start of the agent announces it"
    out(json.dumps({"ok": True, "purged": count}) if args.json else f"{count} deleted{told}")
    return 0


def _retry(args: argparse.Namespace) -> int:
    from edge_agent.outbox.maintain import retry_dead
    from edge_agent.state_dir import state_lock

    folder = _existing(args)
    with state_lock(folder):
        count = retry_dead(folder / "outbox.db", args.sink)
    out(json.dumps({"ok": True, "retried": count}) if args.json else f"{count} will be sent again")
    return 0


def _existing(args: argparse.Namespace) -> Path:
    folder = _folder(args)
    if not (folder / "outbox.db").is_file():  # or the lock would make the folder
        raise UsageError(f"{folder}: there is no outbox; the agent makes it at its first start")
    return folder


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("nobody can be asked here; give --yes")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
