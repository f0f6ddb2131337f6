"""The thread of a sink that sends batches: reads, delivers, settles, and pauses when the other side is away."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.errors import OutboxError, SinkUnavailable
from edge_agent.sinks.pump import Pump
from edge_agent.sinks.store import KEEP, BatchSink, Row, Store, Verdict

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_LONGEST_WISH_S = 3600.0
"""A server that asks for a longer pause than this is asked again all the same."""


@dataclass(slots=True)
class BatchState:
    """Counts are since the process began; ``last_error`` is "" while all is well. Read by any thread without a lock."""

    delivered: int = 0
    refused: int = 0
    failures: int = 0
    """Deliveries in a row after which something had to be kept."""
    last_error: str = ""


class BatchPump:
    """Gives ``sink`` as many messages at a time as it takes, the most important first. Nothing blocks a caller but ``join``.

    What the sink keeps it is given again after a pause, from the oldest; the pauses grow to ``pause_max_s``, and what the
    other side asks for comes on top.
    """

    def __init__(self, name: str, store: Store, sink: BatchSink, *, pause_max_s: float = 60.0) -> None:
        self.name, self.address, self.state = name, sink.address, BatchState()
        self._store, self._sink, self._pause_max_s = store, sink, pause_max_s
        self._pump = Pump(store)
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._stop_at = 0.0
        self._wish_s = 0.0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        store.subscribe(self._wake.set)

    def start(self) -> None:
        """Begin to deliver; returns at once."""
        self._thread.start()

    def end(self, drain_s: float) -> None:
        """Deliver what there is for at most ``drain_s``, then stop; returns at once."""
        self._stop_at = time.monotonic() + drain_s
        self._stopped.set()
        self._wake.set()

    def join(self, timeout_s: float) -> None:
        """Wait for the end; a delivery that hangs is left behind."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                log.warning("%s: a delivery hangs, left behind at stop", self.name)

    def _run(self) -> None:
        try:
            self._loop()
        finally:
            self._sink.close()

    def _loop(self) -> None:
        while not (self._stopped.is_set() and (self.state.failures or time.monotonic() >= self._stop_at)):
            self._wake.clear()  # before the read: what comes meanwhile sets it again
            batch = self._read()
            if batch:
                self._deliver(batch)
            elif self._stopped.is_set():
                return
            else:
                self._wake.wait(_LOOK_S)
            if self.state.failures:
                # Full jitter: after a common outage the devices must not come back in the same second.
                jitter_s = random.uniform(0.0, min(self._pause_max_s, 2.0 ** min(self.state.failures, 16)))
                self._stopped.wait(self._wish_s + jitter_s)

    def _read(self) -> list[Row]:
        batch: list[Row] = []
        try:
            while len(batch) < self._sink.size and (row := self._pump.next()) is not None:
                batch.append(row)
        except OutboxError as error:
            log.debug("%s: the outbox cannot be read now: %s", self.name, error)
        return batch

    def _deliver(self, batch: list[Row]) -> None:
        trouble, self._wish_s = "", 0.0
        verdicts: Sequence[Verdict] = [KEEP] * len(batch)
        try:
            verdicts = self._sink.deliver(batch)
            if len(verdicts) != len(batch):
                raise RuntimeError(f"{len(verdicts)} verdicts on {len(batch)} messages")
        except SinkUnavailable as error:
            trouble, self._wish_s = str(error), min(error.retry_after_s, _LONGEST_WISH_S)
        except Exception as error:  # a fault of ours must not end delivery for good
            log.exception("%s: unexpected fault", self.name)
            trouble, verdicts = f"{type(error).__name__}: {error}", [KEEP] * len(batch)
        self._settle(batch, verdicts, trouble)

    def _settle(self, batch: list[Row], verdicts: Sequence[Verdict], trouble: str) -> None:
        pairs = list(zip(batch, verdicts, strict=True))
        accepted = [row.row for row, verdict in pairs if verdict.outcome == "accept"]
        self._store.acknowledge(accepted)
        self.state.delivered += len(accepted)
        for row, verdict in pairs:
            if verdict.outcome == "reject":
                self._store.refuse(row.row, verdict.code, verdict.reason)
                self.state.refused += 1
            elif verdict.outcome == "keep":
                trouble = trouble or verdict.reason or "some messages could not be delivered now"
        if trouble:
            self._pump.rewind()
            self.state.failures += 1
        else:
            self.state.failures = 0
        if trouble and trouble != self.state.last_error:
            log.warning("%s: %s; the outbox keeps what comes", self.name, trouble)
        self.state.last_error = trouble
