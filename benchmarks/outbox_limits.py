"""Days of events that waited, delivered while heartbeats go on; and an outbox that gets more than it may hold."""

from __future__ import annotations

import json
import statistics
import time
from bisect import bisect_left
from pathlib import Path
from typing import Any

from benchmarks.outbox_delivery import LONG_S, delivering, event, make
from edge_agent.health.heartbeat import HeartbeatBuilder
from edge_agent.outbox import Outbox
from edge_agent.outbox.records import DROPS
from edge_agent.outbox.schema import size_on_disk
from edge_agent.status_board import outbox_status
from edge_agent.types import Metric
from tests.health_fixtures import agent_status
from tests.mosquitto import broker, subscriber, wait_for

_BEAT_S = 0.1
_STEP = 5000
_SMALL = 5 * 2**20


def backlog(folder: Path, count: int) -> dict[str, Any]:
    """Size on disk, time to deliver, and how long a heartbeat took to a subscriber meanwhile."""
    path = folder / "backlog.db"
    outbox = make(path)
    for first in range(0, count, _STEP):
        outbox.put([event(n) for n in range(first, min(first + _STEP, count))])
        assert outbox.flush(LONG_S)
    size = size_on_disk(path)
    with broker(folder / "broker") as mosquitto, subscriber(mosquitto.port, "edge/v1/s/d/heartbeat") as sub:
        began = time.perf_counter()
        with delivering(outbox, mosquitto.port) as sink:
            sent: list[float] = []
            while sink.state().acked < count:
                assert time.perf_counter() < began + LONG_S
                sent.append(time.monotonic())
                if not sink.publish_now("heartbeat", {"number": len(sent) - 1, "text": "x" * 700}, retain=False):
                    sent.pop()  # not connected yet
                time.sleep(_BEAT_S)
            took = time.perf_counter() - began
            wait_for(lambda: _numbers(sub.messages)[-1] == len(sent) - 1, 30, "the last heartbeat")
        came = [message.timestamp for message in sub.messages]
        numbers = _numbers(sub.messages)
        # One that was replaced by a newer one before it went out is as late as that.
        late = [came[bisect_left(numbers, number)] - at for number, at in enumerate(sent)]
    wait_for(lambda: outbox.stat().depth["events"] == 0, 60)
    ended = time.perf_counter()
    wait_for(lambda: size_on_disk(path) < _SMALL, 300, "a small file")
    dropped = sum(outbox.stat().dropped.values())
    given_back_s = time.perf_counter() - ended
    outbox.stop(30)
    return {
        "events": count,
        "dropped": dropped,
        "on_disk_mb": size / 2**20,
        "space_given_back_after_s": given_back_s,
        "drain_s": took,
        "drain_per_s": count / took,
        "heartbeats": len(sent),
        "heartbeats_replaced_by_a_newer_one": len(sent) - len(came),
        "heartbeat_latency_s_median": statistics.median(late),
        "heartbeat_latency_s_max": max(late),
    }


def fill(folder: Path, max_mb: float) -> dict[str, Any]:
    """Twice as much as the budget, a third of it metrics; what became of it, and what an operator is told."""
    path = folder / "fill.db"
    outbox = make(path, max_mb=max_mb)
    put, largest = {"events": 0, "metrics": 0}, 0
    while put["events"] * 600 < 2 * max_mb * 2**20:
        put["events"] += 400
        put["metrics"] += 200
        outbox.put([event(n) for n in range(400)])
        outbox.put([Metric("door", "social_distancing", 1.7e9, 60.0, 60.0, {"text": "x" * 400}) for _ in range(200)])
        assert outbox.flush(LONG_S)
        largest = max(largest, size_on_disk(path))
    said = _heartbeat(outbox)
    kept, dropped = outbox.stat().depth, outbox.stat().dropped
    with broker(folder / "broker") as mosquitto, subscriber(mosquitto.port, "edge/v1/s/d/events/#") as sub:
        began = time.perf_counter()
        with delivering(outbox, mosquitto.port):
            # The report of the first drop was itself dropped; the next one is due a minute after it.
            wait_for(lambda: sub.under(DROPS) and sum(outbox.stat().depth.values()) == 0, LONG_S)
        docs = [json.loads(message.payload) for message in sub.messages]
        took = time.perf_counter() - began
        told = [json.loads(message.payload)["data"] for message in sub.under(DROPS)]
    last = outbox.stat().sequence
    outbox.stop(30)
    explained = {n for data in told for a, b in data["sequences"] for n in range(int(a), int(b) + 1)}
    return {
        "budget_mb": max_mb,
        "largest_on_disk_mb": largest / 2**20,
        "put": put,
        "dropped": dropped,
        "kept": kept,
        "heartbeat": said,
        "drops_events": told,
        "told_after_s": took,
        "sequence_numbers_unexplained": last - len({int(doc["sequence"]) for doc in docs} | explained),
    }


def _numbers(messages: list[Any]) -> list[int]:
    return [json.loads(message.payload)["number"] for message in list(messages)]


def _heartbeat(outbox: Outbox) -> Any:
    """What it says of the outbox."""
    return json.loads(HeartbeatBuilder().build(agent_status(outbox=outbox_status(outbox.stat())), 0.0))["outbox"]
