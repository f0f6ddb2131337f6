"""What a measurement found, as it is printed, kept as JSON and compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.errors import UsageError
from edge_agent.types import Stage

_MAX_BYTES = 1 << 20


class _Facts(BaseModel):
    """Later versions may know more: what is not known here is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())


class Spread(_Facts):
    """A figure taken once in each round."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """``values`` must not be empty."""
        return Spread(median=round(float(np.median(values)), 4), low=round(min(values), 4), high=round(max(values), 4))


class Times(_Facts):
    """Milliseconds of ``n`` frames (or events); all zero where ``n`` is."""

    n: int = Field(ge=0)
    mean: float
    p50: float
    p95: float
    p99: float
    max: float

    @staticmethod
    def of(milliseconds: Sequence[float] | NDArray[np.float64]) -> Times:
        """Percentiles by linear interpolation."""
        values = np.asarray(milliseconds, np.float64)
        if not len(values):
            return Times(n=0, mean=0, p50=0, p95=0, p99=0, max=0)
        p50, p95, p99 = np.percentile(values, [50, 95, 99])
        figures = (values.mean(), p50, p95, p99, values.max())
        mean, p50, p95, p99, most = (round(float(figure), 4) for figure in figures)
        return Times(n=len(values), mean=mean, p50=p50, p95=p95, p99=p99, max=most)


class StageTimes(_Facts):
    """One stage: wall time for a frame, and the CPU time of the thread that did it, mean milliseconds."""

    wall_ms: Times
    cpu_ms: float


class Machine(_Facts):
    """What it was measured on. ``runtimes`` are versions by package."""

    cpu: str
    cores: int
    board: str
    memory_mb: int
    system: str
    kernel: str
    arch: str
    python: str
    governor: str
    runtimes: dict[str, str]


class ModelFacts(_Facts):
    """What ran, and where."""

    name: str
    version: str
    sha256: str
    precision: str
    input: tuple[int, int]
    backend: str
    device: str
    workers: int
    trouble: str = ""
    """Why it is not what it should be."""
    not_taken: dict[str, str] = Field(default_factory=dict)
    """Other backends, and why they did not run it."""


class SourceFacts(_Facts):
    """What was looked at. ``paced``: it comes at its own pace."""

    name: str
    """A file's name, wherever it lies; a camera's URL without credentials."""
    bytes: int | None
    """Of a file."""
    size: tuple[int, int]
    streams: int
    paced: bool


class BenchResult(_Facts):
    """The whole. Rates are frames per second over all streams; ``ratio`` is pipeline to bare model, round by round."""

    bench: Literal[1]
    time: str
    version: str
    config_hash: str
    machine: Machine
    model: ModelFacts
    source: SourceFacts
    rounds: int
    frames: int
    failed: int
    dropped: int
    bare_fps: Spread
    pipeline_fps: Spread
    ratio: Spread
    stages: dict[Stage, StageTimes]
    rest_cpu_ms: float
    """CPU of the process for a frame beyond what the stages' threads used: backends' own threads, capture, disk, REST."""
    latency_ms: Times
    """From capture until everything the frame brought is handed to the outbox."""
    stored_latency_ms: Times
    """From capture until an event is committed on disk; ``n`` events."""
    cpu_cores: float
    cpu_ms: float
    """CPU of the whole process for a frame."""
    peak_rss_mb: float
    first_detection_s: float
    """From the start of the process."""
    temperature_c: tuple[float | None, float | None]
    """Before and after."""
    busy_elsewhere: float | None
    """Cores that other programs used meanwhile."""


def read_result(path: Path) -> BenchResult:
    """A result kept as JSON. Raises UsageError."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    if len(text) > _MAX_BYTES:
        raise UsageError(f"{path}: larger than {_MAX_BYTES} bytes; this is no result of `bench --json`")
    try:
        return BenchResult.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"{path}: no result of `bench --json`: {where}{': ' if where else ''}{first['msg']}"
        ) from error
