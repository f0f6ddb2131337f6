"""What the rounds came to."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_agent import __version__
from edge_agent.app import Agent
from edge_agent.bench.machine import machine
from edge_agent.bench.recorder import STAGES, Recorder
from edge_agent.bench.result import BenchResult, ModelFacts, SourceFacts, Spread, StageTimes, Times
from edge_agent.capture.source import is_live, local_path
from edge_agent.config import Config, redact
from edge_agent.detect.detector import ModelDetector
from edge_agent.health.status import HostStatus, ModelStatus
from edge_agent.types import rfc3339


@dataclass(slots=True)
class Totals:
    """What is added up over the rounds. ``bare`` has one more entry than ``pipeline``: before, between and after."""

    detector: ModelDetector
    threads: int
    temperature_before: float | None
    temperature_after: float | None = None
    host: HostStatus | None = None
    """Means over the measurement."""
    bare: list[float] = field(default_factory=list)
    pipeline: list[float] = field(default_factory=list)
    frames: int = 0
    dropped: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    bare_rss_mb: float = 0.0
    """What the peak grew by while the model ran alone, on buffers that the agent does not have."""
    peak_rss_mb: float = 0.0


def summarise(config: Config, agent: Agent, recorder: Recorder, totals: Totals, *, paced: bool) -> BenchResult:
    """The result, once the agent has ended; ``config`` is what was asked for, before it was arranged."""
    assert recorder.last is not None and recorder.first_detection is not None
    source = config.cameras[0].source
    stages = {
        stage: StageTimes(
            wall_ms=Times.of(_milliseconds(recorder.wall[stage])),
            cpu_ms=round(float(_milliseconds(recorder.cpu[stage]).mean()), 4),
        )
        for stage in STAGES
        if len(recorder.wall[stage])
    }
    cpu_ms = totals.cpu_s * 1000 / totals.frames
    beside = [(before + after) / 2 for before, after in zip(totals.bare, totals.bare[1:], strict=False)]
    return BenchResult(
        bench=1,
        time=rfc3339(time.time()),
        version=__version__,
        config_hash=config.digest(),
        machine=machine(),
        model=_model(totals, agent.status().model),
        source=SourceFacts(
            name=redact(source) if is_live(source) else local_path(source).name,
            bytes=None if is_live(source) else local_path(source).stat().st_size,
            size=recorder.last.size,
            streams=len(agent.cameras),
            paced=paced,
        ),
        rounds=len(totals.pipeline),
        frames=totals.frames,
        failed=sum(unit.chain.stats.failed for unit in agent.cameras),
        dropped=totals.dropped,
        bare_fps=Spread.of(totals.bare),
        pipeline_fps=Spread.of(totals.pipeline),
        ratio=Spread.of([together / alone for together, alone in zip(totals.pipeline, beside, strict=True)]),
        stages=stages,
        rest_cpu_ms=round(max(0.0, cpu_ms - sum(stage.cpu_ms for stage in stages.values())), 4),
        latency_ms=Times.of(np.asarray(recorder.latency) * 1e3),
        stored_latency_ms=Times.of(np.asarray(recorder.stored_latency) * 1e3),
        cpu_cores=round(totals.cpu_s / totals.wall_s, 3),
        cpu_ms=round(cpu_ms, 3),
        peak_rss_mb=round(totals.peak_rss_mb, 1),
        first_detection_s=round(recorder.first_detection, 2),
        temperature_c=(totals.temperature_before, totals.temperature_after),
        busy_elsewhere=_busy_elsewhere(totals.host),
    )


def _model(totals: Totals, status: ModelStatus) -> ModelFacts:
    network = totals.detector.network
    return ModelFacts(
        name=network.manifest.name,
        version=network.manifest.version,
        sha256=network.file.sha256,
        precision=network.file.precision,
        input=network.input.size,
        backend=totals.detector.backend_name,
        device=totals.detector.backend.device,
        workers=totals.threads,
        trouble=status.error,
        not_taken=dict(status.not_taken),
    )


def _milliseconds(nanoseconds: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(nanoseconds, np.float64) / 1e6


def _busy_elsewhere(host: HostStatus | None) -> float | None:
    if host is None or host.cpu_pct is None or host.process_cpu_pct is None:
        return None
    return round(max(0.0, (host.cpu_pct * (os.cpu_count() or 1) - host.process_cpu_pct) / 100), 2)
