"""``doctor``: is this box fit, and what is to be done."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from edge_agent.cli.common import add_verb, default_config, end, out

AREAS = ("system", "agent", "accelerators", "model", "cameras", "storage", "network")


def add(verbs: Any) -> None:
    """Add ``doctor``."""
    parser = add_verb(
        verbs,
        "doctor",
        _doctor,
        "look over this box and say what is wrong and how to mend it; exit code 1 where a check failed",
        "doctor -c /etc/edge-agent/config.yaml",
    )
    parser.add_argument("--only", choices=AREAS, help="checks of one area only")


def _doctor(args: argparse.Namespace) -> int:
    from rich.console import Console

    from edge_agent.doctor.display import plain, table

    # What the stages log is told by the findings.
    logging.basicConfig(level=logging.CRITICAL, stream=sys.stderr)
    # A file that was asked for and is missing is a fault; that there is none yet is not.
    config = args.config if args.config.exists() or args.config != default_config() else None
    console = Console()
    report = _examine(config, args.only, console if console.is_terminal and not args.json else None)
    if args.json:
        out(report.to_json())
    elif console.is_terminal:
        console.print(table(report))
    else:
        for line in plain(report):
            out(line)
    return end(0 if report.ok else 1)


def _examine(config: Path | None, only: str | None, console: Any) -> Any:
    from edge_agent.doctor.examine import examine

    if console is None:
        return examine(config, only=only)
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(30), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("looking", total=None)
        return examine(
            config,
            only=only,
            begin=lambda total: progress.update(task, total=total),
            on_done=lambda finding: progress.update(task, advance=1, description=f"{finding.area}: {finding.name}"),
        )
