"""What a person sees on a terminal while the agent runs. Elsewhere ``report`` serves."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from rich.box import ROUNDED
from rich.console import Console, Group, RenderableType
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel as Box
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from edge_agent.config import redact
from edge_agent.health.status import AgentStatus, CameraStatus, Health, Part
from edge_agent.sentences import camera_of, is_logged, printable, seconds, sentence

log = logging.getLogger(__name__)
CloudEvent: TypeAlias = Mapping[str, Any]

RESTORE_TERMINAL = b"\x1b[?1049l\x1b[?25h"
"""Leaves the alternate screen and shows the cursor: the last words of a process that is ended at once."""
_HZ = 4.0
_FEED = 200
_COLOURS: dict[str, str] = {
    "ok": "green",
    "degraded": "yellow",
    "failing": "red",
    "delivering": "green",
    "starting": "cyan",
    "ended": "cyan",
    "stalled": "yellow",
    "reconnecting": "yellow",
    "failed": "red",
}


class LivePanel:
    """Draws the status four times a second on the alternate screen; log lines join the events until it is closed.

    Use as a context manager: leaving restores terminal and log handlers, and gives the warnings of the meantime to the
    latter, so nothing is lost with the screen. ``on_event`` may be called from any thread.
    """

    def __init__(self, status: Callable[[], AgentStatus], console: Console) -> None:
        self._status, self._console = status, console
        self._feed: deque[Text] = deque(maxlen=_FEED)
        self._handler = _FeedHandler(self._feed)
        self._handlers: list[logging.Handler] = []
        self._live = Live(
            console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="panel", daemon=True)

    def on_event(self, event: CloudEvent) -> None:
        """Show an event."""
        if not is_logged(event):
            self._feed.append(_event_line(event))

    def picture(self, size: tuple[int, int]) -> RenderableType:
        """What a terminal of ``size`` (columns, rows) shows now."""
        return screen(self._status(), list(self._feed), size)

    def __enter__(self) -> LivePanel:
        root = logging.getLogger()
        self._handlers = root.handlers[:]
        root.handlers[:] = [self._handler]
        self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join(2.0)
        self._restore()

    def _restore(self) -> None:
        self._live.stop()
        logging.getLogger().handlers[:] = self._handlers
        while self._handler.kept:
            logging.getLogger().handle(self._handler.kept.popleft())

    def _draw(self) -> None:
        try:
            while not self._closing.is_set():
                self._live.update(self.picture(self._console.size), refresh=True)
                self._closing.wait(1 / _HZ)
        except Exception:  # the entry point of a thread: the agent goes on without its panel
            self._restore()
            log.exception("the live panel failed")


class _FeedHandler(logging.Handler):
    """Turns log records into lines of the feed; warnings and worse are kept for the log proper."""

    def __init__(self, feed: deque[Text]) -> None:
        super().__init__()
        self._lines = feed
        self.kept: deque[logging.LogRecord] = deque(maxlen=_FEED)

    def emit(self, record: logging.LogRecord) -> None:
        """One line, in yellow or red where it is a warning or an error."""
        try:
            text = printable(redact(record.getMessage()))
        except Exception:  # noqa: BLE001 - as every handler of the library: whoever logs goes on
            self.handleError(record)
            return
        if record.levelno >= logging.WARNING:
            self.kept.append(record)
        style = "red" if record.levelno >= logging.ERROR else "yellow" if record.levelno >= logging.WARNING else "dim"
        line = Text().append(time.strftime("%H:%M:%S ", time.localtime(record.created)), "dim")
        self._lines.append(line.append(text, style))


def _event_line(event: CloudEvent) -> Text:
    line = Text().append(time.strftime("%H:%M:%S "), "dim")
    camera = camera_of(event)
    if camera:
        line.append(f"{camera} ", "bold cyan")
    phase = str(event.get("type", "")).rpartition(".")[2]
    return line.append(sentence(event), {"started": "bold", "updated": "bold magenta"}.get(phase, "default"))


def screen(status: AgentStatus, feed: list[Text], size: tuple[int, int]) -> RenderableType:
    """The whole panel for a terminal of ``size`` (columns, rows)."""
    _, rows = size
    shown = status.cameras[: max(rows - 18, 1)]
    cameras = _cameras(shown, len(status.cameras) - len(shown))
    bars = [bar for camera in shown if (bar := _progress(camera)) is not None][: max(rows - 20, 1)]
    height = 3 + len(shown) + len(bars) + (len(shown) < len(status.cameras))
    agent = 6 + bool(status.sensors)
    layout = Layout()
    layout.split_column(
        Layout(_header(status), size=1),
        Layout(_box(Group(cameras, *bars), "cameras"), size=height),
        Layout(_box(_parts(status), "agent"), size=agent),
        Layout(_box(_tail(feed, max(rows - 1 - height - agent - 2, 1)), "events"), ratio=1),
    )
    return layout


def _box(content: RenderableType, title: str) -> Box:
    return Box(content, title=f"[bold]{title}[/]", title_align="left", box=ROUNDED, border_style="bright_black")


def _header(status: AgentStatus) -> Table:
    verdict = status.liveness()
    health: Health = verdict.status
    bad = ", ".join(_trouble(name, part) for name, part in verdict.parts.items() if part.status != "ok")
    grid = Table.grid(expand=True)
    grid.add_column(ratio=1, no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    name = Text().append(" edge-agent", "bold").append(f" {status.version}", "dim")
    name.append(f"  {printable(status.site)}/{printable(status.device)}")
    if status.safe_mode:
        name.append("  SAFE MODE", "bold red")
    state = Text(f"● {health}" + (f": {bad}" if bad else ""), _COLOURS[health])
    grid.add_row(name, state.append(f"  up {seconds(status.uptime_s)} ", "dim"))
    return grid


def _trouble(name: str, part: Part) -> str:
    """What is wrong in a word or two; of what has a row of its own below, only the name."""
    return part.reason if name == "host" else {"mqtt": "broker"}.get(name, name)


def _cameras(cameras: tuple[CameraStatus, ...], more: int) -> Table:
    table = Table(box=None, expand=True, pad_edge=False, header_style="dim")
    table.add_column("camera", ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("state", no_wrap=True)
    for name in ("fps", "latency", "people", "violations", "dropped"):
        table.add_column(name, justify="right", no_wrap=True)
    for camera in cameras:
        table.add_row(
            Text(printable(camera.id), "bold"),
            _camera_state(camera),
            "–" if camera.fps is None else f"{camera.fps:.1f}",
            "–" if camera.latency_ms is None else f"{camera.latency_ms:.0f} ms",
            str(camera.people),
            Text(str(camera.open_episodes), "bold red" if camera.open_episodes else "default"),
            str(camera.dropped),
        )
    if more > 0:
        table.add_row(Text(f"… and {more} more", "dim"))
    return table


def _camera_state(camera: CameraStatus) -> Text:
    text = Text().append(camera.state, _COLOURS.get(camera.state, "default"))
    return text.append(f" {printable(camera.view, 8)}", "yellow") if camera.view not in {"", "ok"} else text


def _progress(camera: CameraStatus) -> RenderableType | None:
    """How far a file is; None for a live camera."""
    if not camera.length:
        return None
    done = min(camera.frames + camera.dropped, camera.length)
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    bar = ProgressBar(camera.length, done, complete_style="green", finished_style="green")
    grid.add_row(bar, f"{done}/{camera.length} frames")
    return grid


def _parts(status: AgentStatus) -> Table:
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    grid.add_row("model", _model(status))
    grid.add_row("broker", _broker(status))
    grid.add_row("outbox", _outbox(status))
    if status.sensors:
        grid.add_row("sensors", _sensors(status))
    grid.add_row("REST", Text.assemble((status.http or "off", "underline" if status.http else "dim"), _host(status)))
    return grid


def _model(status: AgentStatus) -> Text:
    model = status.model
    if not model.active:
        return Text(printable(model.error) or "loading", "yellow")
    runs_on = " · ".join(printable(word) for word in (model.precision, model.backend) if word)
    return Text(f"{printable(model.name)} {printable(model.version)}").append(f" · {runs_on}", "dim")


def _broker(status: AgentStatus) -> Text:
    mqtt = status.mqtt
    if not mqtt.enabled:
        return Text("off", "dim")
    if mqtt.connected:
        return Text().append("connected", "green").append(f" {printable(mqtt.address)}", "dim")
    text = Text().append("not connected", "yellow").append(f" {printable(mqtt.address)}, events are kept", "dim")
    return text.append(f" ({printable(mqtt.last_error, 60)})", "dim") if mqtt.last_error else text


def _outbox(status: AgentStatus) -> Text:
    outbox = status.outbox
    text = Text(f"{outbox.waiting} waiting")
    if outbox.oldest_age_s is not None and outbox.waiting:
        text.append(f", oldest {seconds(outbox.oldest_age_s)}")
    text.append(f" · {outbox.accepted} accepted", "dim")
    if outbox.dropped:
        text.append(f" · {outbox.dropped} dropped", "red")
    if outbox.refused:
        text.append(f" · {outbox.refused} refused", "red")
    if outbox.state != "ok":
        text.append(" · ".join(["", outbox.state, *filter(None, [printable(outbox.reason, 60)])]), "red")
    return text


def _sensors(status: AgentStatus) -> Text:
    """The bad ones first: the row may be too short for all."""
    shown = []
    for name, sensor in sorted(status.sensors.items(), key=lambda item: item[1].quality == "good"):
        if sensor.quality != "good":
            shown.append(Text(f"{printable(name)} {sensor.quality}", "yellow"))
        else:
            value = str(sensor.value).lower() if isinstance(sensor.value, bool) else f"{sensor.value:g}"
            shown.append(Text(f"{printable(name)} {value} {printable(sensor.unit)}".rstrip()))
    return Text(" · ", "dim").join(shown)


def _host(status: AgentStatus) -> Text:
    host = status.host
    text = Text(style="dim")
    if host.process_cpu_pct is not None:
        text.append(f" · CPU {host.process_cpu_pct:.0f} %")
    if host.rss_bytes is not None:
        text.append(f" · {host.rss_bytes // 2**20} MB")
    if status.hardware.temperature_c is not None:
        text.append(f" · {status.hardware.temperature_c:.0f} °C")
    if status.hardware.input_w is not None:
        text.append(f" · {status.hardware.input_w:.1f} W")
    return text


def _tail(feed: list[Text], rows: int) -> RenderableType:
    if not feed:
        return Text("nothing yet", "dim")
    grid = Table.grid(expand=True)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    for line in feed[-rows:]:
        grid.add_row(line)
    return grid
