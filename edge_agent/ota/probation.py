"""Whether a model that has taken over does its work, judged by what it does to live frames: values and rules, no side effects.

What a model costs is judged against what the one before it cost on this very box, just before the switch.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from edge_agent.config_ota import ProbationConfig

Fault: TypeAlias = Literal["errors", "latency", "fps", "memory", "hung", "agreement"]
WINDOW_S = 10.0
"""Over so long a mean is taken; a fault must show in the whole of it, so that no hiccup of the box is a model's fault."""
FEWEST = 8
"""Calls in a window: a mean of fewer says nothing."""
AT_ONCE = 5
"""So many calls that all fail need no window: the agent itself ends after a few more."""
HUNG_S = 15.0
"""One call. The agent's own patience is longer, and ends the process."""
ENOUGH_BOXES, ENOUGH_FRAMES = 40, 10
"""Before two models are said to disagree."""
STARVED = 0.05
"""Share of the captured frames that nobody took: below, the cameras set the pace and not the model."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Measures(_Strict):
    """What a model did over some time. ``fps``: frames of all cameras together."""

    latency_ms: Annotated[float, Field(description="of one frame in the detector, mean")]
    fps: float
    failed: Annotated[float, Field(description="share of the frames on which inference failed")]
    memory_mb: Annotated[float | None, Field(description="of the process, once both models were loaded")] = None


class Probation(_Strict):
    """What is remembered of a probation, over restarts of the agent. ``before`` None: no frame came before the switch."""

    before: Measures | None = None
    frames: int = 0
    """Live frames that the model served."""
    observed_s: float = 0.0
    """Time in which frames came."""
    elapsed_s: float = 0.0
    """Time in which the agent ran."""

    def passed(self, config: ProbationConfig) -> bool:
        """Whether enough was seen of it."""
        return self.frames >= config.frames and self.observed_s >= 60 * config.minutes

    def over(self, config: ProbationConfig) -> bool:
        """Whether its time is up, however much was seen."""
        return self.elapsed_s >= 60 * config.deadline_minutes

    def share(self, config: ProbationConfig) -> float:
        """How far it has come: the fraction of what is asked for."""
        shares = [self.frames / config.frames, self.observed_s / (60 * config.minutes)]
        return min(1.0, *shares)

    def words(self, config: ProbationConfig) -> str:
        """What was seen, for people."""
        return f"{self.frames} of {config.frames} frames, {self.observed_s / 60:.3g} of {config.minutes:g} minutes with frames"


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a second model sees the same frames: ``share`` is the F1 of the boxes of both, None where neither has any."""

    model: str
    frames: int
    boxes: float
    share: float | None

    def fault(self, config: ProbationConfig) -> tuple[Fault, str] | None:
        """Whether the two see so different things that the new one is not to be believed."""
        if self.share is None or self.boxes < ENOUGH_BOXES or self.frames < ENOUGH_FRAMES:
            return None
        if self.share >= config.min_agreement:
            return None
        return "agreement", f"{self.share:.0%} of the boxes agree with {self.model} on the same {self.frames} frames"


@dataclass(frozen=True, slots=True)
class Counters:
    """What has been counted of the serving model up to ``t`` (monotonic seconds); each only grows, but for the last two."""

    t: float
    calls: int
    """Frames that went into the detector, failed ones included."""
    failures: int
    busy_s: float
    """Time in the detector, over all threads."""
    frames: int
    """Frames that went all the way, of all cameras."""
    dropped: int
    """Captured frames that nobody took."""
    memory_mb: float | None = None
    inside_s: float = 0.0
    """How long the oldest frame has been inside."""


class Watch:
    """A sliding window over counters. One thread."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._seen: deque[Counters] = deque()

    def add(self, now: Counters) -> None:
        """Take the newest; about once a second."""
        self._seen.append(now)
        while len(self._seen) > 2 and self._seen[1].t <= now.t - self._window_s:
            self._seen.popleft()

    def measures(self) -> Measures | None:
        """Over the window; None where too few frames came."""
        if len(self._seen) < 2:
            return None
        return _between(self._seen[0], self._seen[-1])

    def fault(self, before: Measures | None, config: ProbationConfig) -> tuple[Fault, str] | None:
        """What is wrong with the model that served in the window, and in words; None: nothing that is known."""
        if not self._seen:
            return None
        first, last = self._seen[0], self._seen[-1]
        if last.inside_s > HUNG_S:
            return "hung", f"one frame has been inside for {last.inside_s:.0f} s"
        calls, failures = last.calls - first.calls, last.failures - first.failures
        if calls >= AT_ONCE and failures == calls:
            return "errors", f"inference failed on each of {calls} frames"
        if last.t - first.t < 0.8 * self._window_s or calls < FEWEST:
            return None
        return self._slow_fault(first, last, before, config)

    def _slow_fault(
        self, first: Counters, last: Counters, before: Measures | None, config: ProbationConfig
    ) -> tuple[Fault, str] | None:
        now = _between(first, last)
        assert now is not None
        usual = before.failed if before is not None else 0.0
        if now.failed > usual + config.max_failed:
            return "errors", f"inference failed on {now.failed:.0%} of the frames, {usual:.0%} with the model before"
        if before is None:
            return None
        middle = self._seen[len(self._seen) // 2]
        halves = (_between(first, middle), _between(middle, last))
        limit_ms = before.latency_ms * config.max_slowdown
        if all(half is not None and half.latency_ms > limit_ms for half in halves):
            return "latency", f"{now.latency_ms:.0f} ms a frame, {before.latency_ms:.0f} ms with the model before"
        missed = last.dropped - first.dropped
        starved = missed > STARVED * (missed + last.frames - first.frames)
        if starved and now.fps * config.max_slowdown < before.fps:
            return "fps", f"{now.fps:.1f} frames a second, {before.fps:.1f} with the model before"
        base = before.memory_mb
        if base is not None and now.memory_mb is not None and now.memory_mb > base + config.max_growth_mb:
            return "memory", f"{now.memory_mb:.0f} MB, {base:.0f} MB when it took over"
        return None


def _between(first: Counters, last: Counters) -> Measures | None:
    calls, failures = last.calls - first.calls, last.failures - first.failures
    if calls <= 0 or last.t <= first.t:
        return None
    return Measures(
        latency_ms=1000 * (last.busy_s - first.busy_s) / calls,
        fps=(last.frames - first.frames) / (last.t - first.t),
        failed=failures / calls,
        memory_mb=last.memory_mb,
    )
