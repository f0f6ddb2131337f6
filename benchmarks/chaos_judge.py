"""The judge of ``benchmarks.chaos``: what was accepted, sent, confirmed and received, and every promise that was not kept."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

LIFE = 1_000_000
"""Metrics and telemetry of one life of the agent are numbered from its own number times this."""


class Seen(NamedTuple):
    """One message: what makes it itself, the stream whose order counts, its number there, a digest of its bytes."""

    key: str
    stream: str
    number: int
    digest: int
    explains: tuple[tuple[int, int], ...] = ()
    """Sequence numbers, first and last, that it says are lost."""

    @property
    def is_event(self) -> bool:
        """With a sequence number, which is the device's."""
        return self.stream.startswith("events/")


def identify(topic: str, payload: bytes) -> Seen | None:
    """An event by its id, a metric and a sensor's value by their number; None for all else."""
    kind, name = topic.split("/")[4:6] if topic.count("/") > 4 else ("", "")
    if kind not in {"events", "metrics", "telemetry"}:
        return None
    doc, stream = json.loads(payload), f"{kind}/{name}"
    if kind == "events":
        lost = tuple((int(first), int(last)) for first, last in doc["data"].get("sequences", ()))
        return Seen(doc["id"], stream, int(doc["sequence"]), hash(payload), lost)
    number = doc["data"].get("n") if kind == "metrics" else doc["value"]
    return Seen(numbered(stream, number), stream, number, hash(payload)) if type(number) is int else None


def numbered(stream: str, number: int) -> str:
    """Stands in for the id that metrics and telemetry have not."""
    return f"{stream} {number}"


class Ledger:
    """What one observer saw. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.first: dict[str, Seen] = {}
        """By key, in the order of the first sight."""
        self.again = 0
        self.changed: set[str] = set()
        """Keys that came once more with other bytes."""

    def note(self, seen: Seen) -> None:
        """One more."""
        with self._lock:
            if seen.key not in self.first:
                self.first[seen.key] = seen
                return
            self.again += 1
            if self.first[seen.key] != seen:
                self.changed.add(seen.key)

    def disorder(self) -> list[str]:
        """First sights that came after a later one of their stream."""
        last: dict[str, int] = {}
        found = []
        for seen in self.first.values():
            before = last.get(seen.stream, -1)
            if seen.number <= before:
                found.append(f"{seen.stream}: {seen.number} after {before}")
            last[seen.stream] = max(seen.number, before)
        return found


@dataclass
class Report:
    """What came of the run; ``broken`` names every promise that was not kept. Messages are events, metrics and telemetry."""

    seed: int
    minutes: float
    duration_s: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    accepted: int = 0
    """Events that the agent said are on disk."""
    last_sequence: int = 0
    sent: int = 0
    sent_again: int = 0
    """On a later connection."""
    acknowledged: int = 0
    received: int = 0
    received_again: int = 0
    lost_by_broker: int = 0
    """Confirmed by a broker that was then killed."""
    lost: int = 0
    order_breaks: int = 0
    changed: int = 0
    """Same id, other content."""
    twice_on_a_connection: int = 0
    gaps_explained: int = 0
    gaps_unexplained: int = 0
    broken: list[str] = field(default_factory=list)

    def judge(
        self,
        accepted: Iterable[str],
        sent: Ledger,
        acknowledged: Collection[str],
        repeated: Sequence[str],
        received: Ledger,
    ) -> None:
        """Every promise against what was seen. ``last_sequence`` must be set: the last number that was given out."""
        told = set(accepted)
        self.accepted, self.acknowledged = len(told), len(acknowledged)
        self.sent, self.sent_again = len(sent.first), sent.again
        self.received, self.received_again = len(received.first), received.again
        self.lost_by_broker = len(set(acknowledged) - received.first.keys())
        arrived = {
            key: seen
            for key, seen in {**sent.first, **received.first}.items()
            if key in acknowledged or key in received.first
        }
        self.lost = self._break("lost", (told | sent.first.keys() | _earlier(arrived.values())) - arrived.keys())
        self.order_breaks = self._break("sent out of order", sent.disorder())
        self.order_breaks += self._break("received out of order", received.disorder())
        self.changed = self._break("came with two contents", sent.changed | received.changed)
        self.twice_on_a_connection = self._break("sent twice on a connection", repeated)
        self._break("received but never sent", received.first.keys() - sent.first.keys())
        self._judge_sequence(arrived.values(), received)

    def _judge_sequence(self, arrived: Iterable[Seen], received: Ledger) -> None:
        uses = Counter(seen.number for seen in arrived if seen.is_event)
        self._break("sequence numbers with two ids", (n for n, times in uses.items() if times > 1))
        given = set(range(1, self.last_sequence + 1))
        self._break("sequence numbers beyond the last", uses.keys() - given)
        explained = {n for seen in received.first.values() for a, b in seen.explains for n in range(a, b + 1)}
        gaps = given - uses.keys()
        self.gaps_explained = len(gaps & explained)
        self.gaps_unexplained = self._break("gaps in the sequence", gaps - explained)

    def _break(self, what: str, found: Iterable[Any]) -> int:
        every = sorted(found)
        if every:
            self.broken.append(f"{len(every)} {what}: {', '.join(map(str, every[:10]))}")
        return len(every)


def _earlier(arrived: Iterable[Seen]) -> set[str]:
    """A life's metrics and telemetry are stored in the order of their numbers: one that came shows that all before it were accepted."""
    top: dict[tuple[str, int], int] = {}
    for seen in arrived:
        if not seen.is_event:
            of = seen.stream, seen.number // LIFE * LIFE
            top[of] = max(seen.number, top.get(of, 0))
    return {numbered(stream, n) for (stream, first), last in top.items() for n in range(first, last + 1)}


def show(report: Report) -> None:
    """For people."""
    console = Console()
    title = f"seed {report.seed}, {report.duration_s:.0f} s"
    for head, rows in (
        (title, report.faults),
        ("messages", {k: v for k, v in asdict(report).items() if isinstance(v, int)}),
    ):
        table = Table("", head)
        for name, value in rows.items():
            table.add_row(name.replace("_", " "), str(value))
        console.print(table)
    for text in report.skipped:
        console.print(f"skipped: {text}", markup=False)
    for text in report.broken:
        console.print(f"BROKEN: {text}", markup=False)
