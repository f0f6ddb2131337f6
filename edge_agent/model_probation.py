"""Watches the model at work: what is usual for it, and whether one that has just taken over does as well."""

from __future__ import annotations

import time
from collections.abc import Callable

from edge_agent.config_ota import ProbationConfig
from edge_agent.detect.serving import Meter
from edge_agent.health.status import AgentStatus
from edge_agent.ota.probation import Counters, Fault, Measures, Probation, Watch

SETTLE_S = 3.0
"""After the start and after a switch: what is slow then is the beginning."""


class ProbationWatch:
    """Looks at the agent about once a second. One thread at a time."""

    def __init__(
        self,
        config: ProbationConfig,
        status: Callable[[], AgentStatus],
        meter: Callable[[], Meter],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._status, self._meter, self._clock = config, status, meter, clock
        self.begin(Probation())

    def begin(self, probation: Probation) -> None:
        """The model has just begun to serve; ``probation``: what was seen of it in earlier runs of the agent."""
        self.probation = probation
        self._watch, self._since = Watch(), self._clock()
        self._last: Counters | None = None

    @property
    def delivering(self) -> bool:
        """Whether any camera is."""
        return any(camera.state == "delivering" for camera in self._status().cameras)

    def usual(self) -> Measures | None:
        """What the model at work did lately; None where too few frames came."""
        return self._watch.measures()

    def memory_mb(self) -> float | None:
        """Of the process, now."""
        rss = self._status().host.rss_bytes
        return None if rss is None else rss / 2**20

    def look(self) -> tuple[Fault, str] | None:
        """Count what came since the last look; what is wrong with the model at work."""
        status, meter, now = self._status(), self._meter(), self._clock()
        rss = status.host.rss_bytes
        inside = (w.busy_s or 0.0 for w in status.workers if w.name.startswith("detect:"))
        seen = Counters(
            t=now,
            calls=meter.calls,
            failures=meter.failures,
            busy_s=meter.busy_s,
            frames=sum(camera.frames for camera in status.cameras),
            dropped=sum(camera.dropped for camera in status.cameras),
            memory_mb=None if rss is None else rss / 2**20,
            inside_s=max(inside, default=0.0),
        )
        self._count(seen, delivering=any(camera.state == "delivering" for camera in status.cameras))
        if now - self._since >= SETTLE_S or meter.failures == meter.calls:
            self._watch.add(seen)
        return self._watch.fault(self.probation.before, self._config)

    def _count(self, seen: Counters, *, delivering: bool) -> None:
        last, self._last = self._last, seen
        before_s = self._since if last is None else last.t
        done = seen.calls - seen.failures - (0 if last is None else last.calls - last.failures)
        passed = max(0.0, seen.t - before_s)
        self.probation = self.probation.model_copy(
            update={
                "frames": self.probation.frames + max(0, done),
                "observed_s": self.probation.observed_s + passed * (delivering and seen.calls > 0),
                "elapsed_s": self.probation.elapsed_s + passed,
            }
        )
