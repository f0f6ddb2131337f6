"""Findings for people: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from edge_agent.doctor.examine import Report
from edge_agent.doctor.finding import Finding, State

_STYLES: dict[State, str] = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}
_NAME_WIDTH = 20


def table(report: Report) -> RenderableType:
    """A table by areas, then what to do, the failures first; readable at 80 columns."""
    parts: list[RenderableType] = []
    for area, findings in itertools.groupby(report.findings, key=lambda finding: finding.area):
        parts += [Text(area, style="bold"), _rows((finding, finding.found) for finding in list(findings))]
    todo = [f for state in ("fail", "warn") for f in report.findings if f.state == state]
    if todo:
        parts += [Text("what to do", style="bold"), _rows((finding, finding.fix) for finding in todo)]
    return Group(*parts, Text(summary(report), style="bold red" if not report.ok else "bold green"))


def _rows(rows: Iterable[tuple[Finding, str]]) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=4)
    grid.add_column(width=_NAME_WIDTH)
    grid.add_column(ratio=1, overflow="fold")
    for finding, text in rows:
        dim = "dim" if finding.state == "skip" else ""
        grid.add_row(
            Text(finding.state, style=_STYLES[finding.state]), Text(finding.name, style=dim), Text(text, style=dim)
        )
    return Padding(grid, (0, 0, 1, 1))


def plain(report: Report) -> Iterator[str]:
    """One line for each finding, what to do indented below it, the sums at the end."""
    for finding in report.findings:
        yield f"{finding.state:4}  {finding.area} / {finding.name}: {finding.found}"
        if finding.fix and finding.state != "ok":
            yield f"      -> {finding.fix}"
    yield summary(report)


def summary(report: Report) -> str:
    """``44 checks: 23 ok, 1 warn, 1 fail, 19 skip; 2.9 s``."""
    counts = Counter(finding.state for finding in report.findings)
    told = ", ".join(f"{counts[state]} {state}" for state in _STYLES if counts[state])
    return f"{len(report.findings)} checks: {told}; {report.took_s:.1f} s"
