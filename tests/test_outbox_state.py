"""The store against a model of it: any order of puts, acknowledgements, refusals, crashes and clean restarts."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge_agent.outbox.verify import verify
from tests.mosquitto import wait_for
from tests.outbox_fixtures import make_event, make_metric, make_outbox, rows

FLUSH_S = 20.0


class OutboxMachine(RuleBasedStateMachine):
    """The model: what must be readable (events, metrics), which episodes are open, the last sequence number."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.generation = 0
        self.events: list[int] = []
        self.metrics: list[int] = []
        self.open: set[str] = set()
        self.sequence = 0
        self.counter = 0

    @initialize()
    def begin(self) -> None:
        self._start(self.folder / "0" / "o.db")

    def _start(self, path: Path) -> None:
        self.path = path
        self.outbox = make_outbox(path, commit_ms=0)
        self.outbox.start()

    @rule(kinds=st.lists(st.sampled_from(["event", "metric"]), min_size=1, max_size=6))
    def put(self, kinds: Iterable[str]) -> None:
        items: list[Any] = []
        for kind in kinds:
            self.counter += 1
            items.append(make_event(self.counter) if kind == "event" else make_metric(self.counter))
            (self.events if kind == "event" else self.metrics).append(self.counter)
            self.sequence += kind == "event"
        self.outbox.put(items)
        assert self.outbox.flush(FLUSH_S)

    @rule(name=st.sampled_from("abc"), end=st.booleans())
    def episode(self, name: str, end: bool) -> None:
        self.counter += 1
        phase: Any = "ended" if end else "updated" if name in self.open else "started"
        self.outbox.put([make_event(self.counter, phase, name)])
        assert self.outbox.flush(FLUSH_S)
        self.events.append(self.counter)
        self.sequence += 1
        (self.open.discard if end else self.open.add)(name)

    @rule(picks=st.sets(st.integers(0, 30), max_size=8), metric=st.booleans())
    def acknowledge(self, picks: set[int], metric: bool) -> None:
        model = self.metrics if metric else self.events
        found = rows(self.outbox, int(metric))
        chosen = [n for n in picks if n < len(found)]
        self.outbox.outlet("mqtt").acknowledge([found[n].row for n in chosen])
        for n in sorted(chosen, reverse=True):
            del model[n]

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        wait_for(
            lambda: self._depth() == (len(self.events), len(self.metrics))
        )  # acknowledgements are not durable at once
        if clean:
            self.outbox.stop(5.0)
            assert verify(self.path).problems == []
            self._start(self.path)
        else:  # the files as they lie there while the writer is idle: what a power cut leaves
            self.generation += 1
            target = self.folder / str(self.generation)
            shutil.copytree(self.path.parent, target)
            self.outbox.stop(5.0)
            assert verify(target / self.path.name).problems == []
            self._start(target / self.path.name)
        self.sequence += len(self.open)
        self.events += [-1] * len(self.open)
        self.open.clear()

    def _depth(self) -> tuple[int, int]:
        depth = self.outbox.stat().depth
        return depth["events"], depth["metrics"]

    @invariant()
    def reads_what_was_put(self) -> None:
        if not hasattr(self, "outbox"):
            return
        events = [json.loads(row.payload) for row in rows(self.outbox, 0)]
        marked = [-1 if doc["data"].get("reason") == "agent_restart" else doc["data"]["n"] for doc in events]
        assert marked == self.events
        assert [json.loads(row.payload)["data"]["people"] for row in rows(self.outbox, 1)] == self.metrics
        sequences = [int(doc["sequence"]) for doc in events]
        assert sequences == sorted(set(sequences))
        assert self.outbox.stat().sequence == self.sequence
        assert self.outbox.stat().state == "ok"

    def teardown(self) -> None:
        if hasattr(self, "outbox"):
            self.outbox.stop(5.0)
        shutil.rmtree(self.folder)


OutboxMachine.TestCase.settings = settings(
    max_examples=15, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
TestOutboxState = pytest.mark.slow(OutboxMachine.TestCase)
