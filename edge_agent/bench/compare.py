"""Two results side by side, and whether the later one is worse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edge_agent.bench.result import BenchResult
from edge_agent.errors import UsageError


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. ``change`` is relative (+0.1: a tenth more than earlier), None where there was nothing to compare with."""

    name: str
    unit: str
    earlier: float
    later: float
    judged: bool
    worse: bool

    @property
    def change(self) -> float | None:
        """Relative."""
        return self.later / self.earlier - 1 if self.earlier else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """``rows`` in the order of the report; ``notes`` say what else is not the same and may explain a difference."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    tolerance: float

    @property
    def worse(self) -> tuple[Row, ...]:
        """What is beyond the tolerance."""
        return tuple(row for row in self.rows if row.worse)


def compare(earlier: BenchResult, later: BenchResult, tolerance: float) -> Comparison:
    """Judge rates, latency, CPU and memory; single stages are shown only: they say where it went.

    Raises UsageError where the two did not measure the same thing.
    """
    differences = list(_differences(earlier, later))
    if differences:
        raise UsageError("not comparable: " + "; ".join(differences))
    rows = tuple(
        Row(name, unit, a, b, judged, judged and _is_worse(a, b, higher, tolerance))
        for name, unit, a, b, higher, judged in _figures(earlier, later)
    )
    return Comparison(rows, tuple(_notes(earlier, later)), tolerance)


def _is_worse(earlier: float, later: float, higher_is_better: bool, tolerance: float) -> bool:
    # Rounding aside: a result compared with itself at tolerance 0 is not worse.
    return later < earlier * (1 - tolerance) if higher_is_better else later > earlier * (1 + tolerance)


def _differences(earlier: BenchResult, later: BenchResult) -> Iterator[str]:
    """What makes a comparison pointless."""
    a, b = earlier.model, later.model
    pairs = [("model", f"{a.name}@{a.version}", f"{b.name}@{b.version}")]
    if a.backend == b.backend:  # another backend may need another file of the same model
        pairs.append(("model file", f"{a.precision} {a.sha256[:12]}", f"{b.precision} {b.sha256[:12]}"))
    pairs += [
        ("source", _source(earlier), _source(later)),
        ("streams", str(earlier.source.streams), str(later.source.streams)),
        ("pace", _pace(earlier), _pace(later)),
    ]
    for what, then, now in pairs:
        if then != now:
            yield f"{what} was {then}, is {now}"


def _source(result: BenchResult) -> str:
    source = result.source
    size = f"{source.size[0]}x{source.size[1]}"
    return f"{source.name} {size}" + (f" {source.bytes} bytes" if source.bytes is not None else "")


def _pace(result: BenchResult) -> str:
    return "the source's own" if result.source.paced else "as fast as it goes"


def _notes(earlier: BenchResult, later: BenchResult) -> Iterator[str]:
    a, b = earlier.machine, later.machine
    pairs = [
        ("backend", _backend(earlier), _backend(later)),
        ("CPU", f"{a.cpu} x{a.cores}", f"{b.cpu} x{b.cores}"),
        ("kernel", a.kernel, b.kernel),
        ("Python", a.python, b.python),
        ("governor", a.governor, b.governor),
        ("configuration", earlier.config_hash[:12], later.config_hash[:12]),
        ("agent", earlier.version, later.version),
    ]
    packages = sorted(a.runtimes.keys() | b.runtimes.keys())
    pairs += [(package, a.runtimes.get(package, "absent"), b.runtimes.get(package, "absent")) for package in packages]
    for what, then, now in pairs:
        if then != now:
            yield f"{what}: {then or '?'} -> {now or '?'}"


def _backend(result: BenchResult) -> str:
    model = result.model
    return f"{model.backend} ({model.device}), {model.workers} workers"


def _figures(a: BenchResult, b: BenchResult) -> Iterator[tuple[str, str, float, float, bool, bool]]:
    """(name, unit, earlier, later, higher is better, judged)."""
    yield "model alone", "fps", a.bare_fps.median, b.bare_fps.median, True, True
    yield "pipeline", "fps", a.pipeline_fps.median, b.pipeline_fps.median, True, True
    # Where the source sets the pace, a faster model makes this smaller.
    yield "ratio", "", a.ratio.median, b.ratio.median, True, not a.source.paced
    timed = min(a.latency_ms.n, b.latency_ms.n) > 0
    yield "to outbox p50", "ms", a.latency_ms.p50, b.latency_ms.p50, False, timed
    yield "to outbox p95", "ms", a.latency_ms.p95, b.latency_ms.p95, False, timed
    yield "CPU for a frame", "ms", a.cpu_ms, b.cpu_ms, False, True
    yield "peak memory", "MB", a.peak_rss_mb, b.peak_rss_mb, False, True
    for stage in a.stages:
        if stage in b.stages:
            yield f"{stage} p50", "ms", a.stages[stage].wall_ms.p50, b.stages[stage].wall_ms.p50, False, False
