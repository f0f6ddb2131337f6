"""The durable store-and-forward between the pipeline and the sinks, as others see it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edge_agent.config import OutboxConfig
from edge_agent.outbox.inbox import Inbox
from edge_agent.outbox.limits import Limits, Wants
from edge_agent.outbox.outlet import Outlet
from edge_agent.outbox.reader import Reader
from edge_agent.outbox.schema import FIRST_SINK
from edge_agent.outbox.stat import OutboxStat
from edge_agent.outbox.writer import Writer
from edge_agent.types import NewId, Stored


class Outbox:
    """Accepts events and metrics, keeps them on disk until each of ``sinks`` had them, gives them to each in order.

    ``put`` may be called from any thread and never blocks; a message is *accepted* once it is committed, and only then
    can an ``outlet`` read it. A disk that is full, read-only or locked makes the state ``degraded``: the queue holds what
    comes, up to its bound, and the writer tries again. Nothing here raises but reading through an outlet. ``clock_ok``
    tells whether UTC can be trusted; it is called from the writer's thread and must be quick. Nothing is kept for longer
    than ``retention_days``. A sink that is not named any more is forgotten, and a new one begins with what is there.
    What a sink does not ``want`` never waits for it; that is asked in the writer's thread: be quick, and never raise.
    """

    def __init__(
        self,
        path: Path,
        config: OutboxConfig,
        *,
        site: str,
        device: str,
        boot_id: str,
        clock_ok: Callable[[], bool],
        new_id: NewId,
        sinks: Sequence[str] = (FIRST_SINK,),
        wants: Wants | None = None,
        retention_days: float = 30.0,
        wall: Callable[[], float] = time.time,
        report_every_s: float = 60.0,
    ) -> None:
        self._inbox = Inbox(config.queue, config.commit_ms / 1000)
        self._reader = Reader(path, self._inbox.report_damage)
        self._sinks = tuple(dict.fromkeys(sinks))
        if not self._sinks:
            raise ValueError("an outbox without a sink would keep nothing")
        self._writer = Writer(
            path,
            Limits.of(config, self._sinks, retention_days, wants),
            self._inbox,
            self._reader,
            names={"site": site, "device": device, "boot_id": boot_id},
            clock_ok=clock_ok,
            new_id=new_id,
            wall=wall,
            report_every_s=report_every_s,
        )

    def start(self, timeout_s: float = 10.0) -> None:
        """Begin to write. Returns once the database is open and left-over episodes are ended, or that failed (degraded)."""
        self._writer.thread.start()
        self._writer.ready.wait(timeout_s)

    def put(self, items: Sequence[Stored]) -> None:
        """Hand over; never blocks, never fails. What the queue cannot hold is counted and announced."""
        if items:
            self._inbox.put(items)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was put before is committed (or was given up); False when the time was not enough."""
        return self._inbox.wait_settled(timeout_s)

    def stop(self, deadline_s: float) -> None:
        """Commit what is left and close; gives up at the deadline."""
        self._inbox.stop(deadline_s)
        if self._writer.thread.ident is not None:
            self._writer.thread.join(deadline_s)
        self._reader.close()

    def stat(self) -> OutboxStat:
        """The state at the last commit; cheap, takes no lock."""
        return self._writer.stat()

    def recent(self, since: float, limit: int) -> list[dict[str, Any]]:
        """The newest events with ``time`` at or after ``since`` (POSIX seconds), at most ``limit``, in the order of commit.

        From memory (the last thousand) and, beyond that, from what is not delivered yet.
        """
        return self._reader.recent(since, limit)

    def on_event(self, follower: Callable[[dict[str, Any]], None]) -> None:
        """Call with every CloudEvent once it is committed, in the writer's thread: be quick. Register before ``start``."""
        self._writer.followers.append(follower)

    def outlet(self, sink: str) -> Outlet:
        """The seam to one of ``sinks``. Raises ValueError for another."""
        if sink not in self._sinks:
            raise ValueError(f"the outbox keeps nothing for {sink!r}; it does for {', '.join(self._sinks)}")
        return Outlet(sink, self._inbox, self._reader, self._writer)
