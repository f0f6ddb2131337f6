"""What ``bench`` shows on a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edge_agent.bench.compare import Comparison
from edge_agent.bench.result import BenchResult, Spread, Times
from edge_agent.sentences import printable

_TITLES = {
    "decode": "decode",
    "preprocess": "preprocess",
    "inference": "inference",
    "postprocess": "decode boxes + NMS",
    "track": "track",
    "ground": "ground plane",
    "use_cases": "use cases",
    "outbox": "outbox",
}


def report(result: BenchResult) -> RenderableType:
    """One screen."""
    model, source, box = result.model, result.source, result.machine
    streams = "1 stream" if source.streams == 1 else f"{source.streams} streams"
    cores = "core" if box.cores == 1 else "cores"
    network = f"{model.name}@{model.version} {model.precision} {_size(model.input)}"
    pace = ", at its own pace" if source.paced else ""
    measured = f"{result.frames} frames in {result.rounds} rounds"
    head = [
        f"{network} on {model.backend} ({model.device}), {model.workers} workers",
        f"{source.name} {_size(source.size)}, {streams}{pace}: {measured}",
        f"{box.board or box.cpu or box.arch}, {box.cores} {cores}, {box.system}, Python {box.python}",
    ]
    return Group(
        *(Text(printable(line), "dim") for line in head), "", _stages(result), "", _totals(result), *_warnings(result)
    )


def _stages(result: BenchResult) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("ms for a frame", no_wrap=True)
    for name in ("p50", "p95", "p99", "max", "mean", "CPU"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage, times in result.stages.items():
        table.add_row(_TITLES[stage], *_cells(times.wall_ms), f"{times.cpu_ms:.2f}")
    table.add_row(Text("everything else", "dim"), "", "", "", "", "", f"{result.rest_cpu_ms:.2f}")
    table.add_section()
    table.add_row("capture to outbox", *_cells(result.latency_ms), f"{result.cpu_ms:.2f}")
    stored = result.stored_latency_ms
    if stored.n:
        table.add_row(f"capture to disk ({stored.n} events)", *_cells(stored), "")
    return table


def _cells(times: Times) -> Iterator[str]:
    for value in (times.p50, times.p95, times.p99, times.max, times.mean):
        yield f"{value:.2f}"


def _totals(result: BenchResult) -> Table:
    table = Table.grid(padding=(0, 3))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_row("model alone", f"{result.bare_fps.median:.1f}", f"fps{_range(result.bare_fps, 1)}")
    table.add_row("pipeline", f"{result.pipeline_fps.median:.1f}", f"fps{_range(result.pipeline_fps, 1)}")
    share = "of the model alone" + (", the source sets the pace" if result.source.paced else "")
    table.add_row("ratio", f"{result.ratio.median:.2f}", f"{share}{_range(result.ratio, 2)}")
    table.add_row("CPU", f"{result.cpu_cores:.2f}", f"cores, {result.cpu_ms:.1f} ms for a frame")
    table.add_row("memory", f"{result.peak_rss_mb:.0f}", "MB at most")
    table.add_row("start", f"{result.first_detection_s:.2f}", "s to the first detection")
    before, after = result.temperature_c
    if before is not None and after is not None:
        table.add_row("temperature", f"{after:.0f}", f"°C, {before:.0f} before")
    return table


def _range(spread: Spread, digits: int) -> str:
    return f"  ({spread.low:.{digits}f} to {spread.high:.{digits}f})"


def _warnings(result: BenchResult) -> Iterator[Text]:
    if result.busy_elsewhere is not None and result.busy_elsewhere >= 0.3:
        yield Text(
            f"Other programs used {result.busy_elsewhere:.1f} cores meanwhile: only the ratio means something.",
            "yellow",
        )
    if result.model.trouble:
        yield Text(printable(result.model.trouble), "yellow")
    if result.failed:
        yield Text(f"Inference failed on {result.failed} frames.", "red")
    if result.dropped:
        yield Text(f"{result.dropped} frames came faster than the box could take them.", "yellow")


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def comparison(found: Comparison) -> RenderableType:
    """Both side by side, what is worse in red."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("", no_wrap=True)
    for name in ("earlier", "now", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    section = False
    for row in found.rows:
        if not row.judged and not section:
            table.add_section()
            section = True
        change = "" if row.change is None else f"{row.change:+.1%}"
        style = "bold red" if row.worse else "" if row.judged else "dim"
        verdict = f"worse by more than {found.tolerance:.0%}" if row.worse else ""
        figures = [f"{value:.2f} {row.unit}".strip() for value in (row.earlier, row.later)]
        table.add_row(_title(row.name), *figures, change, verdict, style=style)
    notes = [Text(printable(f"not the same: {note}"), "dim") for note in found.notes]
    return Group(table, *notes)


def _title(name: str) -> str:
    stage, _, percentile = name.partition(" ")
    return f"{_TITLES[stage]} {percentile}" if stage in _TITLES and percentile == "p50" else name
