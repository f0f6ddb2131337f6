"""The durable store-and-forward between the pipeline and the sinks, as others see it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edge_agent.config import OutboxConfig
from edge_agent.outbox.inbox import Inbox
from edge_agent.outbox.messages import Priority, Row
from edge_agent.outbox.reader import Reader
from edge_agent.outbox.records import Refusal
from edge_agent.outbox.stat import OutboxStat
from edge_agent.outbox.writer import Writer
from edge_agent.types import NewId, Output


class Outbox:
    """Accepts events and metrics, keeps them on disk, gives them to one pump in order.

    ``put`` may be called from any thread and never blocks; a message is *accepted* once it is committed, and only then
    can ``read`` see it. A disk that is full, read-only or locked makes the state ``degraded``: the queue holds what comes,
    up to its bound, and the writer tries again. Nothing but ``read`` raises. ``clock_ok`` tells whether UTC can be
    trusted; it is called from the writer's thread and must be quick.
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
        wall: Callable[[], float] = time.time,
        report_every_s: float = 60.0,
    ) -> None:
        self._inbox = Inbox(config.queue, config.commit_ms / 1000)
        self._reader = Reader(path, self._inbox.report_damage)
        self._writer = Writer(
            path,
            config,
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

    def put(self, items: Sequence[Output]) -> None:
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

    # The seam to the pump

    @property
    def version(self) -> int:
        """Grows whenever messages were added."""
        return self._writer.version

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call after messages were added, in the writer's thread: be quick."""
        self._writer.listeners.append(listener)

    def read(self, priority: int, after_row: int, limit: int) -> list[Row]:
        """The next messages of a priority after ``after_row`` (0: the oldest), without those acknowledged or refused.

        Empty means that there are none. Raises OutboxError.
        """
        return self._reader.read(Priority(priority), after_row, limit, self._inbox.gone())

    def acknowledge(self, rows: Sequence[int]) -> None:
        """These were delivered and may go. Does not block."""
        self._inbox.acknowledge(rows)

    def refuse(self, row: int, code: int, reason: str) -> None:
        """This one will never be taken: to the dead letters, and announced. Does not block."""
        self._inbox.refuse(Refusal(row, code, reason))
