"""``model pull``."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent.cli.common import out
from edge_agent.cli.model_common import model_verb, models_dir, show_on_screen
from edge_agent.errors import UsageError

if TYPE_CHECKING:
    from edge_agent.model_tools.catalogue import Entry
    from edge_agent.model_tools.pull import Pulled, PullRequest


def add(verbs: Any) -> None:
    """Add the verb."""
    about = "fetch a well-known detector from its makers and make it a model; without NAME: say which there are"
    parser = model_verb(verbs, "pull", _pull, about, "yolox-nano")
    parser.add_argument("name", nargs="?", metavar="NAME", help="of the catalogue")
    parser.add_argument("--list", action="store_true", help="what the catalogue has")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--url", help="take the same file from a mirror (https, http or file); its SHA-256 decides")
    other.add_argument("--file", type=Path, metavar="PATH", help="take it from here, for a box without internet")
    parser.add_argument("--replace", action="store_true", help="fetch it anew if it is there already")


def _pull(args: argparse.Namespace) -> int:
    from edge_agent.model_tools.catalogue import CATALOGUE

    return pull_from(CATALOGUE, args)


def pull_from(catalogue: Sequence[Entry], args: argparse.Namespace) -> int:
    """Do what ``args`` ask for with the models of ``catalogue``; the exit code. Raises EdgeAgentError."""
    from edge_agent.model_tools.catalogue import find_entry
    from edge_agent.model_tools.download import mirror
    from edge_agent.model_tools.pull import PullRequest

    folder = models_dir(args)
    if args.list or not args.name:
        if args.url or args.file or args.replace:
            raise UsageError("--url, --file and --replace need the NAME of what to take")
        return _show(catalogue, folder, as_json=args.json)
    entry = find_entry(args.name, catalogue)
    source = mirror(args.url) if args.url else args.file
    request = PullRequest(entry, folder, source, args.replace)
    with _ended_in_order():
        pulled = _with_a_bar(request, quiet=args.json)
    _tell(entry, pulled, as_json=args.json)
    return 0


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """``kill`` and a lost terminal end this as Ctrl-C does: what was begun is removed."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    own = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) == signal.SIG_DFL]
    for number in own:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in own:
            signal.signal(number, signal.SIG_DFL)


def _with_a_bar(request: PullRequest, *, quiet: bool) -> Pulled:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from edge_agent.model_tools.pull import pull

    console, total = Console(stderr=True), request.entry.file.size
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(request.entry.file.name, total=total)

        def show(done: int) -> None:
            bar.update(task, completed=done, description="trying it" if done == total else request.entry.file.name)

        return pull(dataclasses.replace(request, progress=show))


def _show(catalogue: Sequence[Entry], folder: Path, *, as_json: bool) -> int:
    from edge_agent.model_tools.show import catalogue_table

    here = {entry.name for entry in catalogue if (folder / entry.name / entry.version / "manifest.yaml").is_file()}
    if as_json:
        rows = [{**dataclasses.asdict(entry), "here": entry.name in here} for entry in catalogue]
        out(json.dumps({"ok": True, "catalogue": rows}))
    else:
        show_on_screen(catalogue_table(catalogue, here))
    return 0


def _tell(entry: Entry, pulled: Pulled, *, as_json: bool) -> None:
    from edge_agent.model_tools import show

    done = pulled.imported
    if as_json:
        facts = {
            "ok": True,
            "model": entry.label,
            "folder": str(pulled.model.folder),
            "already_here": done is None,
            "source": pulled.source,
            "sha256": entry.file.sha256,
            "licence": entry.licence,
            "trial": dataclasses.asdict(done.sight) if done and done.sight else None,
            "not_tried": done.why_not if done else "it was there already",
            "warnings": done.warnings if done else (),
        }
        out(json.dumps(facts))
    elif done is None:
        out(f"{entry.label} is in {pulled.model.folder} already, whole: nothing was fetched")
    else:
        show_on_screen(show.imported(done))
        out(f"from {pulled.source}, SHA-256 as it must be; licence {entry.licence}")
