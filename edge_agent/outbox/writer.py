"""The one thread that writes the outbox."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_agent.errors import EdgeAgentError, OutboxCorrupt, OutboxError
from edge_agent.outbox.clock import AgeClock
from edge_agent.outbox.inbox import BATCH, Inbox
from edge_agent.outbox.ledger import EVERY_SINK
from edge_agent.outbox.limits import Limits
from edge_agent.outbox.messages import Draft, Priority, draft, priority_of
from edge_agent.outbox.ranges import Range
from edge_agent.outbox.reader import Reader
from edge_agent.outbox.records import DEAD, DROPS, Committed
from edge_agent.outbox.recover import expire_aside, identity, move_aside, readable_episodes, readable_rows
from edge_agent.outbox.stat import OutboxStat, SinkStat
from edge_agent.outbox.store import Store
from edge_agent.outbox.telling import LossLog, Teller
from edge_agent.types import DEVICE, NewId, Stored

log = logging.getLogger(__name__)

_IDLE_S = 2.0
_AGE_CHECK_S = 60.0
_RETRY_S = (0.1, 2.0)


class Writer:
    """Takes from the ``Inbox``, commits to the ``Store``, tells the ``Reader`` and whoever listens. No exception leaves the thread."""

    def __init__(
        self,
        path: Path,
        limits: Limits,
        inbox: Inbox,
        reader: Reader,
        *,
        names: dict[str, str],
        clock_ok: Callable[[], bool],
        new_id: NewId,
        wall: Callable[[], float],
        report_every_s: float,
    ) -> None:
        self._path, self._limits, self._inbox, self._reader, self._names = path, limits, inbox, reader, names
        self._clock_ok, self._wall, self._report_every_s = clock_ok, wall, report_every_s
        self.age = AgeClock(clock_ok, wall)
        self._teller = Teller(names, new_id, wall)
        self._store = Store(path, self.age, self._teller.report, limits)
        self._loss_log = LossLog()
        self._batch: list[tuple[Stored, Draft]] = []
        self._accepted = {p.plural: 0 for p in Priority}
        self._oldest: dict[str, float] = {}
        self._begun = False
        self._failure: Exception | None = None
        self._rescue: tuple[Path, str] | None = None
        self._identity: tuple[int, int] | None = None
        self._next_report = {DROPS: 0.0, DEAD: 0.0}
        self._next_age_check = 0.0
        self.version = 0
        self.listeners: list[Callable[[], None]] = []
        self.followers: list[Callable[[dict[str, Any]], None]] = []
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def stat(self) -> OutboxStat:
        """From any thread: reads what the writer last left."""
        books, oldest, failure, now = self._store.books, self._oldest, self._failure, self.age.now()
        ages = {sink: max(0.0, now - born) for sink, born in oldest.items()}
        losing = self._loss_log.losing(DROPS)
        return OutboxStat(
            state="degraded" if failure else "ok",
            reason=str(failure) if failure else "",
            depth={p.plural: n for p, n in books.depth.items()},
            queued=len(self._inbox) + len(self._batch),
            bytes=self._store.size(),
            oldest_age_s=max(ages.values(), default=None),
            accepted=dict(self._accepted),
            dropped=books.totals(DROPS),
            refused=books.totals(DEAD),
            sequence=books.sequence,
            sinks={
                name: SinkStat(
                    depth={p.plural: held.rows for p, held in book.held.items()},
                    bytes=book.bytes,
                    oldest_age_s=ages.get(name),
                    dropping=name in losing or EVERY_SINK in losing,
                )
                for name, book in books.sinks.items()
            },
        )

    def _run(self) -> None:
        pause = _RETRY_S[0]
        while True:
            if self._begun and not self._batch:
                self._inbox.gather(_IDLE_S)
            failure = self._try()
            self._note(failure)
            self.ready.set()
            if self._finished(failure):
                break
            if failure is None:
                pause = _RETRY_S[0]
            else:
                self._inbox.pause(pause)
                pause = min(2 * pause, _RETRY_S[1])
        self._reader.close()  # first: the last to close folds the log into the database, and a reader cannot
        self._let_go()

    def _try(self) -> Exception | None:
        """One round; after damage another one, on a new file. What went wrong, or None."""
        failure = self._attempt()
        if isinstance(failure, OutboxCorrupt):
            failure = self._set_aside(failure) or self._attempt()
        return failure

    def _attempt(self) -> Exception | None:
        try:
            damage = self._inbox.take_damage()
            if damage is not None:
                raise damage
            if self._store.is_open and identity(self._path) != self._identity:  # SQLite would go on, for nobody
                raise OutboxCorrupt("the file was removed or replaced while it was in use")
            self._count_overflow()
            self._step()
        except EdgeAgentError as error:
            self._let_go()
            return error
        except Exception as error:  # a fault of ours must not end the one thread that keeps events
            log.exception("outbox: unexpected fault")
            self._let_go()
            return error
        return None

    def _let_go(self) -> None:
        """Open anew at the next try: a file system that was read-only or gone needs that."""
        with contextlib.suppress(OutboxError):
            self._store.close()

    def _note(self, failure: Exception | None) -> None:
        if failure is not None and str(failure) != str(self._failure):
            log.error("outbox degraded, %d messages wait in memory: %s", len(self._inbox) + len(self._batch), failure)
        elif failure is None and self._failure is not None:
            log.warning("outbox works again")
        self._failure = failure

    def _finished(self, failure: Exception | None) -> bool:
        if self._inbox.stop_at is None:
            return False
        left = len(self._inbox) + len(self._batch)
        if time.monotonic() >= self._inbox.stop_at:
            if left:
                log.error("outbox: %d messages could not be stored before the stop: %s", left, failure)
            return True
        return not left and (failure is not None or not any(self._inbox.ended()))

    # One round

    def _step(self) -> None:
        if not self._store.is_open:
            self._store.open()
            self._identity = identity(self._path)
        if self._rescue is not None:
            self._take_over(*self._rescue)
        if not self._begun:
            self._begin()
        if self._failure is not None:  # room first: after a full disk only a deletion may succeed
            self._commit([], give_back=True)
        if not self._batch:
            self._batch = self._drafts(self._inbox.take())
        now = time.monotonic()
        look = now >= self._next_age_check
        busy = bool(self._batch or any(self._inbox.ended()) or self._reports_due(now) or look)
        if busy:
            self._commit(self._share(), give_back=True)
            if look:  # after the commit, which may have learned how long the box was off
                self._next_age_check = now + _AGE_CHECK_S
                self._expire()
        # Some boxes are never idle. Where little waits, little has to be moved for it.
        if not busy or sum(self._store.books.depth.values()) < BATCH:
            self._store.shrink()
        self._loss_log.look(self._store.books.losses, now)

    def _expire(self) -> None:
        """What is kept beside the database: its own rows go with the commit."""
        self._reader.forget_older(self.age.now() - self._limits.retention_s)
        if expire_aside(self._path, self._wall(), self._limits.retention_s):
            log.warning("outbox: the damaged database kept aside is deleted: privacy.retention_days")

    def _share(self) -> list[Draft]:
        """What goes into one transaction: all that is in hand, unless the log of it would be large against the budget."""
        share: list[Draft] = []
        size = 0
        for _, made in self._batch:
            size += len(made.head)
            if share and size > self._limits.max_transaction:
                break
            share.append(made)
        return share

    def _begin(self) -> None:
        """End what a crash left open, say what was lost: in one transaction, before anything new."""
        drafts = [self._teller.end(episode) for episode in self._store.episodes()]
        if drafts:
            log.warning("outbox: %d episodes left open by a crash are ended", len(drafts))
        lost: list[Range] = []
        if self._store.skipped:
            lost = self._store.unexplained()
            # First: the number it names is its own.
            drafts.insert(
                0, self._teller.recreated("the database was lost or replaced", self._store.books.sequence, lost)
            )
        with contextlib.suppress(ValueError):
            self._reader.load()
        if drafts:
            self._commit(drafts, explained=lost)
        self._begun, self._store.skipped = True, False

    def _drafts(self, items: list[Stored]) -> list[tuple[Stored, Draft]]:
        made = [(item, self._draft(item)) for item in items]
        return [(item, ready) for item, ready in made if ready is not None]

    def _draft(self, item: Stored) -> Draft | None:
        try:
            return draft(item, **self._names)
        except OutboxError as error:
            log.error("outbox: dropped: %s", error)
            self._store.books.lost(DROPS, EVERY_SINK).add(priority_of(item), "invalid")
            self._inbox.settle([item])
            return None

    def _count_overflow(self) -> None:
        for priority, count in self._inbox.take_overflow().items():
            self._store.books.lost(DROPS, EVERY_SINK).add(priority, "queue", count)

    def _reports_due(self, now: float) -> bool:
        losses = self._store.books.losses
        return any(lost and now >= self._next_report[kind] for (kind, _), lost in losses.items())

    def _commit(self, drafts: list[Draft], *, give_back: bool = False, explained: list[Range] | None = None) -> None:
        now = time.monotonic()
        done, refused = self._inbox.ended() if give_back else ({}, [])
        stored = self._store.commit(
            drafts,
            done,
            refused,
            clock_ok=self._clock_ok(),
            utc=self._wall(),
            tell=[kind for kind, at in self._next_report.items() if now >= at] if self._begun else [],
            explained=explained or [],
        )
        settled: list[tuple[Stored, Draft]] = []
        if give_back:  # at once: whatever fails from here on must not store them twice
            settled, self._batch = self._batch[: len(drafts)], self._batch[len(drafts) :]
        self._inbox.forget(done, refused)
        self._announce(stored, now)
        self._inbox.settle([item for item, _ in settled])  # after the announcement: who flushed finds all of it done
        self._oldest = self._store.oldest()

    def _announce(self, stored: list[Committed], now: float) -> None:
        for row, doc in stored:
            self._accepted[row.priority.plural] += 1
            if doc is None:
                continue
            what = row.topic.rpartition("/")[2]
            if what in self._next_report and row.topic == f"events/{DEVICE}/{what}":
                self._next_report[what] = now + self._report_every_s
            self._reader.remember(row, self.age.now(), doc)
            for follower in self.followers:
                _call(follower, doc)
        if stored:
            self.version += 1
            for listener in self.listeners:
                _call(listener)

    def _set_aside(self, damage: OutboxCorrupt) -> Exception | None:
        """Move a damaged database away: the next attempt begins a new one with what can be read. None when that worked."""
        log.error("outbox damaged, a new one is begun: %s", damage)
        try:
            with self._reader.shut():  # or the pump would open the old file again and stay with it
                self._rescue = (move_aside(self._path), str(damage))
                self._inbox.take_damage()  # of the file that is gone
        except OutboxError as error:
            return error
        return None

    def _take_over(self, moved: Path, reason: str) -> None:
        self._store.adopt(readable_rows(moved), readable_episodes(moved))
        self._store.skipped = False
        taken, lost = sum(self._store.books.depth.values()), self._store.unexplained()
        told = self._teller.recreated(reason, self._store.books.sequence, lost, moved_to=moved.name, recovered=taken)
        self._commit([told], explained=lost)
        self._rescue = None
        log.warning("outbox: %d messages recovered from %s", taken, moved.name)


def _call(callback: Callable[..., None], *values: Any) -> None:
    try:
        callback(*values)
    except Exception:
        log.exception("outbox: a listener failed")
