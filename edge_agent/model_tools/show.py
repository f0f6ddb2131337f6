"""What a person sees of models: tables."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from edge_agent.detect.manifest import Manifest, Model
from edge_agent.detect.trial import TrialResult
from edge_agent.model_tools.catalogue import Entry
from edge_agent.model_tools.guess import Reason
from edge_agent.model_tools.importer import Imported
from edge_agent.model_tools.parity import Report
from edge_agent.model_tools.sight import SURE, sure
from edge_agent.model_tools.verify import Check

MAX_SHOWN = 12


def short(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, (list, tuple)) and len(value) > MAX_SHOWN // 2:
        return f"{', '.join(map(str, value[:4]))}, … ({len(value)})"
    if isinstance(value, (list, tuple)):
        return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
    return str(value)


def reasons_table(reasons: Sequence[Reason]) -> Table:
    """Key, value, because."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("key", "value", "because"):
        table.add_column(title, overflow="fold")
    for reason in reasons:
        table.add_row(escape(reason.key), escape(short(reason.value)), escape(reason.because))
    return table


def imported(result: Imported) -> RenderableType:
    """The end of an import."""
    manifest = result.model.manifest
    lines: list[RenderableType] = [
        f"[bold]{manifest.name}@{manifest.version}[/] is in {escape(str(result.model.folder))}"
    ]
    if result.sight is None:
        lines.append(escape(f"not tried: {result.why_not}"))
    else:
        lines.append(seen_lines(result.sight))
    lines += [f"[yellow]warning:[/] {escape(text)}" for text in result.warnings]
    return Group(*lines)


def seen_lines(sight: TrialResult) -> RenderableType:
    """What was seen, and how fast."""
    found = sure(sight)
    head = f"on {escape(sight.device)}: loads in {sight.load_s:.2f} s, runs in {sight.inference_ms:.1f} ms"
    if not found:
        return head
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("sees", "score", "box (pixels)"):
        table.add_column(title)
    for seen in found[:MAX_SHOWN]:
        box = " ".join(f"{v:.0f}" for v in seen.box)
        table.add_row(escape(seen.label), f"{seen.score:.2f}", box)
    rest = len(found) - MAX_SHOWN
    return Group(head, table, *([f"and {rest} more from score {SURE} on"] if rest > 0 else []))


def models_table(manifests: Sequence[Manifest]) -> Table:
    """One line for each model version."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("model", "family", "input", "labels", "files", "licence"):
        # A name is to be typed: the others give way to it where the screen is narrow.
        table.add_column(title, overflow="fold", no_wrap=title == "model")
    for m in manifests:
        files = ", ".join(f"{f.backend} {f.precision}{' edgetpu' if f.device == 'edgetpu' else ''}" for f in m.files)
        size = f"{m.input.size[0]}x{m.input.size[1]}"
        table.add_row(f"{m.name}@{m.version}", m.family, size, escape(short(m.labels)), files, escape(m.licence))
    return table


def catalogue_table(catalogue: Sequence[Entry], here: Container[str]) -> Table:
    """One line for each model that can be fetched; ``here`` are the names of those that were."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("name", "version", "input", "MB", "licence", "here", "note"):
        table.add_column(title, overflow="fold", no_wrap=title != "note", justify="right" if title == "MB" else "left")
    for e in catalogue:
        size, megabytes = f"{e.size[0]}x{e.size[1]}", f"{e.file.size / 1e6:.1f}"
        table.add_row(e.name, e.version, size, megabytes, e.licence, "yes" if e.name in here else "no", e.note)
    return table


def model_table(model: Model) -> Table:
    """Everything the manifest says, one key a line."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for key, value in _flat(model.manifest.model_dump(mode="json", exclude_none=True), ""):
        table.add_row(escape(key), escape(short(value)))
    table.add_row("folder", escape(str(model.folder)))
    return table


def _flat(value: Any, prefix: str) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{prefix}.{key}" if prefix else key)]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [pair for i, inner in enumerate(value) for pair in _flat(inner, f"{prefix}.{i}")]
    return [(prefix, value)]


_COLOURS = {"ok": "green", "warn": "yellow", "skip": "dim", "fail": "red"}


def checks_table(checks: Sequence[Check]) -> Table:
    """One line for each check."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("model", "file", "check", "", "result"):
        table.add_column(title, overflow="fold", no_wrap=title == "model")
    for check in checks:
        state = f"[{_COLOURS[check.state]}]{check.state}[/]"
        table.add_row(check.model, escape(check.file), check.what, state, escape(check.text))
    return table


def parity_table(names: Sequence[str], report: Report) -> Table:
    """The comparison, and its verdict in the last line."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("", *names):
        table.add_column(escape(title), overflow="fold")
    table.add_row("pictures", str(report.pictures))
    table.add_row("boxes from score 0.25 on", str(report.boxes[0]), str(report.boxes[1]))
    table.add_row("median ms a picture", f"{report.ms[0]:g}", f"{report.ms[1]:g}")
    table.add_row("matched with IoU >= 0.95", str(report.matched))
    table.add_row("sure boxes without partner", str(report.missing))
    table.add_row("IoU, least and mean", f"{_number(report.min_iou)}, {_number(report.mean_iou)}")
    table.add_row("largest difference of scores", _number(report.max_score_difference))
    title = "mAP 0.5:0.95 by the labels" if report.map_a is not None else "AP at IoU 0.5, A counting as true"
    table.add_row(title, _number(report.map_a if report.map_a is not None else 100.0), _number(report.map_b))
    if report.missing:
        table.add_row("worst picture", escape(report.worst))
    verdict = "[green]same[/]" if report.passed else "[red]different[/]"
    table.add_row(f"{verdict} by the measure for {report.criterion}", escape(report.why))
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"
