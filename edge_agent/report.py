"""What a person reads where there is no live panel: log lines while the agent runs, one screen at the end."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from rich.box import ROUNDED
from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from edge_agent.health.status import AgentStatus, CameraStatus
from edge_agent.journal import told
from edge_agent.sentences import camera_of, is_logged, printable, seconds, sentence

log = logging.getLogger(__name__)
CloudEvent: TypeAlias = Mapping[str, Any]


class PlainReporter:
    """For no terminal: a log line per event, and one about the state every ``every_s``. ``tick`` from the main thread."""

    def __init__(self, status: Callable[[], AgentStatus], every_s: float = 10.0) -> None:
        self._status, self._every_s = status, every_s
        self._due = time.monotonic() + every_s

    def on_event(self, event: CloudEvent) -> None:
        """Log an event."""
        if not is_logged(event):
            name = camera_of(event)
            facts = {"event_id": str(event.get("id", ""))} | ({"camera": name} if name else {})
            extra = told(printable(str(event.get("type", ""))), **facts)
            log.info("event %s%s", f"{name}: " if name else "", sentence(event), extra=extra)

    def tick(self) -> None:
        """Log the state where it is time."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self._every_s
            log.info("%s", state_line(self._status()))


def state_line(status: AgentStatus) -> str:
    """The state in one line; serves ``systemctl status`` too."""
    cameras = [_camera_words(camera) for camera in status.cameras[:4]]
    if len(status.cameras) > 4:
        cameras.append(f"{len(status.cameras) - 4} more cameras")
    mqtt = status.mqtt
    broker = "off" if not mqtt.enabled else "connected" if mqtt.connected else "not connected"
    health = status.liveness().status + (", safe mode" if status.safe_mode else "")
    return " · ".join([health, *cameras, f"outbox {status.outbox.waiting} waiting", f"broker {broker}"])


def _camera_words(camera: CameraStatus) -> str:
    text = f"{printable(camera.id)} {camera.state}"
    if camera.fps is not None:
        text += f" {camera.fps:.1f} fps"
    if camera.latency_ms is not None:
        text += f" {camera.latency_ms:.0f} ms"
    return f"{text} {camera.people} people {camera.open_episodes} open"


class Tally:
    """Counts events by type for the summary; ``on_event`` is called from one thread (the outbox writer's)."""

    def __init__(self) -> None:
        self._events: Counter[str] = Counter()

    def on_event(self, event: CloudEvent) -> None:
        """Count one."""
        self._events[printable(str(event.get("type", "")))] += 1

    def events(self) -> dict[str, int]:
        """Counts by type, types in order."""
        return dict(sorted(self._events.copy().items()))


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run came to. ``duration_s`` is wall time from the first frame to the last; JSON by ``dataclasses.asdict``."""

    frames: int
    duration_s: float
    people_max: int = 0
    events: Mapping[str, int] = field(default_factory=dict)
    metrics: int = 0
    outbox_pending: int = 0
    frames_dropped: int = 0
    messages_dropped: int = 0
    model: str = ""

    @property
    def fps(self) -> float:
        """Frames per second of wall time."""
        return self.frames / self.duration_s if self.duration_s > 0 else 0.0


def summary(run: Summary) -> RenderableType:
    """The screen at the end; for a file or a pipe print it to ``Console(file=…, width=100)``."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    dropped = f", {run.frames_dropped} dropped" if run.frames_dropped else ""
    grid.add_row("frames", f"{run.frames} in {seconds(run.duration_s)} ({run.fps:.1f} fps){dropped}")
    if run.model:
        grid.add_row("model", printable(run.model))
    grid.add_row("people", f"at most {run.people_max} at once")
    grid.add_row("events", Text(str(sum(run.events.values())), "bold"))
    for name, count in list(run.events.items())[:12]:
        grid.add_row("", f"{count:>5}  {name.removeprefix('edge_agent.')}")
    if len(run.events) > 12:
        grid.add_row("", f"       and {len(run.events) - 12} more kinds")
    grid.add_row("metrics", str(run.metrics))
    kept = " (kept for the next run)" if run.outbox_pending else ""
    grid.add_row("outbox", f"{run.outbox_pending} waiting{kept}")
    if run.messages_dropped:
        grid.add_row("", Text(f"{run.messages_dropped} messages dropped", "red"))
    return Panel(
        grid, title="[bold]summary[/]", title_align="left", box=ROUNDED, border_style="bright_black", expand=False
    )
