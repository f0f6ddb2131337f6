"""What the ``run`` and ``replay`` verbs show: a live panel on a terminal, log lines elsewhere, a summary at the end."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from edge_agent.app import Agent
from edge_agent.config import Config
from edge_agent.journal import is_journal
from edge_agent.panel import RESTORE_TERMINAL, LivePanel
from edge_agent.record import RecordWriter
from edge_agent.replay import Replay
from edge_agent.report import PlainReporter, Summary, Tally, summary
from edge_agent.sentences import sentence
from edge_agent.types import Event, Output, rfc3339


def run_with_display(agent: Agent, *, as_json: bool) -> int:
    """Run the agent to its end and show it; the exit code. With ``as_json`` the summary is one JSON object on standard output."""
    console = Console(stderr=as_json)
    tally = Tally()
    agent.outbox.on_event(tally.on_event)
    if console.is_terminal and not console.is_dumb_terminal and not as_json:
        with LivePanel(agent.status, console) as panel:
            agent.outbox.on_event(panel.on_event)
            code = agent.run(lambda: None, last_words=RESTORE_TERMINAL)
    else:
        # `systemctl status` shows the state anyway: the journal need not repeat it all the time.
        plain = PlainReporter(agent.status, 600.0 if is_journal() else 10.0)
        agent.outbox.on_event(plain.on_event)
        code = agent.run(plain.tick)
    if agent.again:  # it is not over
        return code
    result = _summary(agent, tally)
    if as_json:
        sys.stdout.write(json.dumps(asdict(result) | {"fps": result.fps}) + "\n")
    elif not is_journal():
        console.print(summary(result))
    return code


def _summary(agent: Agent, tally: Tally) -> Summary:
    stats = [unit.chain.stats for unit in agent.cameras]
    first = [s.first_done for s in stats if s.first_done is not None]
    last = [s.last_done for s in stats if s.last_done is not None]
    status, stored = agent.status(), agent.outbox.stat()
    return Summary(
        frames=sum(s.frames for s in stats),
        duration_s=max(last) - min(first) if first and last else 0.0,
        people_max=max((s.people_max for s in stats), default=0),
        events=tally.events(),
        metrics=stored.accepted.get("metrics", 0),
        outbox_pending=status.outbox.waiting,
        frames_dropped=sum(camera.dropped for camera in status.cameras),
        messages_dropped=status.outbox.dropped,
        model=f"{status.model.name}@{status.model.version} {status.model.precision} on {status.model.backend}",
    )


def run_replay(path: Path, config: Config, *, record: Path | None, as_json: bool) -> int:
    """Replay a record: events and metrics on standard output, one line each; progress and summary on standard error."""
    console = Console(stderr=True)
    writer: RecordWriter | None = None
    counts: Counter[str] = Counter()

    def emit(output: Output) -> None:
        counts[output.type if isinstance(output, Event) else "metrics"] += 1
        sys.stdout.write((json.dumps(_plain(output)) if as_json else _line(output)) + "\n")

    run = Replay(path, config, emit)
    if record is not None:
        writer = RecordWriter(record, fps=run.header.fps, config_hash=config.digest(), model=run.header.model)
        run.on_result = writer.write
    began = time.monotonic()
    size = path.stat().st_size
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(path.name, total=size)
        for position in run:
            progress.update(bar, completed=position)
    if writer is not None:
        writer.close()
    stats = run.stats
    console.print(
        summary(
            Summary(
                frames=stats.frames,
                duration_s=time.monotonic() - began,
                people_max=stats.people_max,
                events={name: n for name, n in sorted(counts.items()) if name != "metrics"},
                metrics=counts["metrics"],
            )
        )
    )
    return 0


def _plain(output: Output) -> dict[str, Any]:
    """An event or metric as JSON: what the outbox would store, without what only it can give (sequence, boot id)."""
    if isinstance(output, Event):
        return {
            "id": output.id,
            "type": output.type,
            "camera": output.camera,
            "subject": output.episode,
            "time": rfc3339(output.utc),
            "data": dict(output.data),
        }
    return {
        "metric": output.use_case,
        "camera": output.camera,
        "time": rfc3339(output.utc),
        "interval_s": output.interval_s,
        "observed_s": output.observed_s,
        "data": dict(output.data),
    }


def _line(output: Output) -> str:
    plain = _plain(output)
    if isinstance(output, Event):
        return f"{plain['time']} {output.camera}: {sentence(plain)}"
    return f"{plain['time']} {output.camera}: {output.use_case} metrics {json.dumps(plain['data'])}"
