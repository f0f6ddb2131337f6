"""Delivery over links that are slow, half open, or end at the worst moment, and past a broker that does not want to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.chaos_link import Link
from edge_agent.outbox import Outbox
from tests.mosquitto import Subscriber, broker, subscriber, wait_for
from tests.mqtt_fixtures import delivering, fill, numbers
from tests.outbox_fixtures import running

pytestmark = pytest.mark.slow
LONG_S = 60.0


@contextmanager
def linked(folder: Path) -> Iterator[tuple[Outbox, Link, Subscriber]]:
    """An outbox, a link to a broker, and who listens there."""
    link = Link("127.0.0.1")
    with running(folder / "o.db") as outbox, broker(folder / "m") as mosquitto, subscriber(mosquitto.port) as sub:
        link.target = mosquitto.port
        link.unshut("no broker")
        try:
            yield outbox, link, sub
        finally:
            link.heal()
            link.close()


def test_a_slow_link_delivers_everything_in_order_and_heartbeats_first(tmp_path: Path) -> None:
    with linked(tmp_path) as (outbox, link, sub):
        fill(outbox, 120)
        link.slow = True
        with delivering(outbox, link.port) as sink:
            wait_for(lambda: len(numbers(sub)) > 5, LONG_S)
            assert sink.publish_now("heartbeat", b"{}", retain=False)
            wait_for(lambda: bool(sub.under("/heartbeat")), LONG_S)
            assert len(numbers(sub)) < 110, "it did not wait for the backlog"
            wait_for(lambda: sink.state().acked == 120, LONG_S)
        assert numbers(sub) == list(range(120))
        assert sink.state().connects == 1 and link.repeated == []


def test_a_half_open_connection_is_given_up_and_nothing_is_lost(tmp_path: Path) -> None:
    with linked(tmp_path) as (outbox, link, sub), delivering(outbox, link.port, keepalive_s=5) as sink:
        wait_for(lambda: sink.state().connected, LONG_S)
        link.stall()
        fill(outbox, 100)
        wait_for(lambda: not sink.state().connected, LONG_S)
        wait_for(lambda: sink.state().last_error == "no answer to a ping", LONG_S)
        link.heal()
        wait_for(lambda: outbox.stat().depth["events"] == 0, LONG_S)
        wait_for(lambda: set(numbers(sub)) == set(range(100)), LONG_S)
        assert sink.state().connects == 2
        assert link.repeated == [] and link.sent.disorder() == []


def test_a_message_whose_answer_is_lost_comes_again_with_the_same_bytes(tmp_path: Path) -> None:
    with linked(tmp_path) as (outbox, link, sub), delivering(outbox, link.port) as sink:
        wait_for(lambda: sink.state().connected, LONG_S)
        link.swallow = True
        fill(outbox, 1)
        wait_for(lambda: len(numbers(sub)) == 2, LONG_S)
        first, second = sub.under("/events/")
        assert first.payload == second.payload
        wait_for(lambda: outbox.stat().depth["events"] == 0, LONG_S)
        assert (link.sent.again, link.sent.changed, link.repeated) == (1, set(), [])


def test_a_broker_that_refuses_connections_gets_everything_once_it_does_not(tmp_path: Path) -> None:
    with linked(tmp_path) as (outbox, link, sub):
        link.refuse()
        fill(outbox, 10)
        with delivering(outbox, link.port, reconnect_spread_s=0.2) as sink:
            wait_for(lambda: "Server unavailable" in sink.state().last_error, LONG_S)
            assert sink.state().connects == 0
            link.heal()
            wait_for(lambda: numbers(sub) == list(range(10)), LONG_S)
            assert sink.state().last_error == ""
