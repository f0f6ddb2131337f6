"""What waits for the writer thread: messages, acknowledgements, refusals. Bounded, and nobody who brings something waits."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence

from edge_agent.errors import OutboxCorrupt
from edge_agent.outbox.messages import Priority, priority_of
from edge_agent.outbox.records import Refusal
from edge_agent.types import Stored

BATCH = 500
"""Most messages in one transaction: bounds how long a commit takes."""
_ACK_S = 0.2  # deletions may wait: a crash before them means one more delivery of the same id, nothing else


class Inbox:
    """Thread-safe. Messages are FIFO within a priority; when full, the least important and oldest goes and is counted."""

    def __init__(self, capacity: int, commit_s: float) -> None:
        self._capacity, self._commit_s = capacity, commit_s
        self._condition = threading.Condition()
        self._sleeping = False
        self._flushing = 0
        self._size = 0
        self._oldest = 0.0
        self._waiting: dict[Priority, deque[Stored]] = {p: deque() for p in Priority}
        self._overflow = dict.fromkeys(Priority, 0)
        self._given = dict.fromkeys(Priority, 0)
        self._settled = dict.fromkeys(Priority, 0)
        self._done: dict[str, dict[int, None]] = {}
        self._refused: dict[tuple[str, int], Refusal] = {}
        self._damage: OutboxCorrupt | None = None
        self.stop_at: float | None = None
        """Monotonic time at which the writer must end; None while it need not."""

    def __len__(self) -> int:
        return self._size

    # Whoever brings something

    def put(self, items: Sequence[Stored]) -> None:
        """Take all; O(1) for each."""
        with self._condition:
            first = not self._size
            if first:
                self._oldest = time.monotonic()
            for item in items:
                priority = priority_of(item)
                self._waiting[priority].append(item)
                self._given[priority] += 1
                self._size += 1
                if self._size > self._capacity:
                    self._drop()
            if first or self._size >= BATCH:
                self._condition.notify_all()

    def _drop(self) -> None:
        worst = max(p for p in Priority if self._waiting[p])
        self._waiting[worst].popleft()
        self._overflow[worst] += 1
        self._settled[worst] += 1
        self._size -= 1

    def acknowledge(self, sink: str, rows: Sequence[int]) -> None:
        """These rows were delivered to a sink."""
        with self._condition:
            self._done.setdefault(sink, {}).update(dict.fromkeys(rows))
            if self._sleeping or self._acknowledged() >= BATCH:
                self._condition.notify_all()

    def refuse(self, refusal: Refusal) -> None:
        """This row will never be taken."""
        with self._condition:
            self._refused[refusal.sink, refusal.row] = refusal
            self._condition.notify_all()

    def report_damage(self, error: OutboxCorrupt) -> None:
        """A reader found the database damaged."""
        with self._condition:
            self._damage = error
            self._condition.notify_all()

    def stop(self, deadline_s: float) -> None:
        """The writer is to store what waits and end."""
        with self._condition:
            self.stop_at = time.monotonic() + deadline_s
            self._condition.notify_all()

    def gone(self, sink: str) -> set[int]:
        """Rows that came to an end at a sink but may still wait for it in the database."""
        with self._condition:
            return self._done.get(sink, {}).keys() | {row for name, row in self._refused if name == sink}

    def wait_settled(self, timeout_s: float) -> bool:
        """Until everything that was put before this call is settled."""
        with self._condition:
            target = dict(self._given)
            self._flushing += 1
            self._condition.notify_all()
            try:
                return self._condition.wait_for(lambda: all(self._settled[p] >= target[p] for p in Priority), timeout_s)
            finally:
                self._flushing -= 1

    # The writer

    def gather(self, idle_s: float) -> None:
        """Wait for work, at most ``idle_s``; then a little longer, for more that can share the commit."""
        with self._condition:
            self._sleeping = True
            self._condition.wait_for(self.busy, idle_s)
            self._sleeping = False
            acks_due = time.monotonic() + _ACK_S
            while self.busy() and not self._urgent():
                due = self._oldest + self._commit_s if self._size else acks_due
                if (left := due - time.monotonic()) <= 0:
                    return
                self._condition.wait(left)

    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._size or any(self._done.values()) or self._refused or self._damage or self.stop_at is not None)

    def _urgent(self) -> bool:
        full = max(self._size, self._acknowledged()) >= BATCH
        return bool(full or self._flushing or self._damage or self.stop_at is not None)

    def _acknowledged(self) -> int:
        return max(map(len, self._done.values()), default=0)

    def pause(self, seconds: float) -> None:
        """Wait before another try; a shorter time once the writer is to stop."""
        with self._condition:
            self._condition.wait_for(lambda: self.stop_at is not None, seconds)
        if self.stop_at is not None:
            time.sleep(0.05)

    def take(self) -> list[Stored]:
        """Up to a batch, most important first."""
        with self._condition:
            taken: list[Stored] = []
            for waiting in self._waiting.values():
                while waiting and len(taken) < BATCH:
                    taken.append(waiting.popleft())
            self._size -= len(taken)
            self._oldest = time.monotonic()
            return taken

    def take_overflow(self) -> dict[Priority, int]:
        """Dropped since the last call."""
        with self._condition:
            lost, self._overflow = self._overflow, dict.fromkeys(Priority, 0)
            return {p: n for p, n in lost.items() if n}

    def take_damage(self) -> OutboxCorrupt | None:
        """What a reader found, once."""
        with self._condition:
            damage, self._damage = self._damage, None
            return damage

    def ended(self) -> tuple[dict[str, list[int]], list[Refusal]]:
        """Up to a few batches of rows, by sink, to delete and to bury; they stay in ``gone`` until ``forget``."""
        with self._condition:
            done = {sink: list(rows)[: 4 * BATCH] for sink, rows in self._done.items() if rows}
            return done, list(self._refused.values())[:BATCH]

    def forget(self, done: Mapping[str, Sequence[int]], refused: Sequence[Refusal]) -> None:
        """These are out of the database."""
        with self._condition:
            for sink, rows in done.items():
                for row in rows:
                    del self._done[sink][row]
            for refusal in refused:
                del self._refused[refusal.sink, refusal.row]

    def settle(self, items: Sequence[Stored]) -> None:
        """These messages came to an end: committed, or given up."""
        with self._condition:
            for item in items:
                self._settled[priority_of(item)] += 1
            if self._flushing:
                self._condition.notify_all()
