"""What two models saw in the same frames, added up over a shadow's whole time."""

from __future__ import annotations

import threading
from dataclasses import replace

from edge_agent.config import TrackConfig
from edge_agent.detect.serving import Meter
from edge_agent.errors import EdgeAgentError
from edge_agent.health.shadow import ShadowLabel, ShadowStatus
from edge_agent.model_beside import OfLabel, Told, compare_boxes
from edge_agent.types import Detections, Frame


class Tally:
    """``told`` is what ``Beside`` tells, by its thread; ``into`` may be called by any.

    ``before``: what the model at work had done when the shadow began; ``also`` is told the same.
    """

    def __init__(self, config: TrackConfig, fraction: float, before: Meter, also: Told | None = None) -> None:
        self._config, self._fraction, self._before, self._also = config, fraction, before, also
        self._lock = threading.Lock()
        self._labels: dict[str, OfLabel] = {}
        self._alone: set[str] = set()
        self._frames = self._failed = self._scores = 0
        self._difference = self._seconds = 0.0
        self.failing = 0
        """Frames in a row on which it failed."""
        self.fault = ""
        """What was wrong with the last of them."""

    def told(self, frame: Frame, found: Detections, other: Detections | EdgeAgentError, seconds: float) -> None:
        """See ``model_beside.Told``."""
        if self._also is not None:
            self._also(frame, found, other, seconds)
        if isinstance(other, EdgeAgentError):
            with self._lock:
                self._failed, self.failing, self.fault = self._failed + 1, self.failing + 1, str(other)
            return
        seen = compare_boxes(found, other, self._config)
        with self._lock:
            self.failing = 0
            self._frames += 1
            self._seconds += seconds
            self._scores += len(seen.scores)
            self._difference += sum(seen.scores)
            self._alone.update(set(found.labels) ^ set(other.labels))
            for label, of in seen.labels.items():
                total = self._labels.setdefault(label, OfLabel())
                total.first, total.second = total.first + of.first, total.second + of.second
                total.matched += of.matched

    def into(self, status: ShadowStatus, now: Meter) -> ShadowStatus:
        """``status`` with all that; ``now``: what the model at work has done so far."""
        calls = now.calls - self._before.calls
        with self._lock:
            both = [of for label, of in self._labels.items() if label not in self._alone]
            labels = {
                label: ShadowLabel(of.first, of.second, None if label in self._alone else _share([of]))
                for label, of in sorted(self._labels.items())
            }
            return replace(
                status,
                frames=self._frames,
                failed=self._failed,
                missed=max(0, int(self._fraction * calls) - self._frames - self._failed),
                agreement=_share(both),
                score_difference=_mean(self._difference, self._scores),
                latency_ms=_mean(1000 * self._seconds, self._frames),
                active_latency_ms=_mean(1000 * (now.busy_s - self._before.busy_s), calls),
                labels=labels,
            )


def _share(labels: list[OfLabel]) -> float | None:
    return _mean(sum(of.matched for of in labels), sum(of.first + of.second for of in labels))


def _mean(total: float, count: int) -> float | None:
    return round(total / count, 3) if count else None
