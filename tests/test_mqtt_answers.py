"""What the MQTT sink does with what brokers answer, and with those that hang up instead."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.mosquitto import broker, subscriber, wait_for
from tests.mqtt_fixtures import ROOT, delivering, fill, heartbeat, numbers, statuses
from tests.mqtt_stand_in import HANG_UP, StandIn
from tests.mqtt_tap import Published, Tap
from tests.outbox_fixtures import make_event, running

pytestmark = pytest.mark.slow
LONG_S = 60.0
QUICK: dict[str, Any] = {"reconnect_spread_s": 0.05}


@contextmanager
def standing_in(answer: Callable[[Published], int] = lambda _: 0, **options: int) -> Iterator[StandIn]:
    made = StandIn(answer, **options)
    try:
        yield made
    finally:
        made.close()


def number(message: Published) -> int | None:
    """Of a test's event; None for anything else."""
    return json.loads(message.payload)["data"].get("n") if "/events/" in message.topic else None


def on(poison: set[int], code: int) -> Callable[[Published], int]:
    return lambda message: code if number(message) in poison else 0


def test_a_broker_that_hangs_up_on_a_message_gets_all_others_and_the_one_is_a_dead_letter(tmp_path: Path) -> None:
    with running(tmp_path / "o.db", report_every_s=0.1) as outbox, standing_in(on({7}, HANG_UP)) as there:
        fill(outbox, 60)
        with delivering(outbox, there.port, **QUICK) as sink:
            wait_for(lambda: sink.state().refused == 1, LONG_S)
            wait_for(lambda: outbox.stat().depth["events"] == 0, LONG_S)
        taken = [number(message) for visit in there.visits for message in visit.published]
        assert set(taken) - {None} == set(range(60))
        assert taken.count(7) >= 6, "not on little evidence"
        assert [n for n in taken if n is not None and n > 27][:2] == [28, 29], "in order, and at full speed again"
        for visit in there.visits:
            sent = [number(message) for message in visit.published if number(message) is not None]
            assert len(sent) == len(set(sent)), "none twice in one connection"
        alone = [visit for visit in there.visits if [number(message) for message in visit.published][-2:] == [None, 7]]
        assert len(alone) >= 2, "its last connections had an answered status, and it alone"
        assert outbox.stat().refused["events"] == 1
        told = [json.loads(m.payload)["data"] for v in there.visits for m in v.published if "dead_letter" in m.topic]
        assert told and list(told[0]["reasons"]) == ["the broker hangs up on it"]
        assert told[0]["sequences"] == [["0000000000000008", "0000000000000008"]]


def test_a_broker_that_says_why_it_hangs_up(tmp_path: Path) -> None:
    with running(tmp_path / "o.db") as outbox, standing_in(on({0, 3}, -149)) as there:
        fill(outbox, 5)
        with delivering(outbox, there.port, **QUICK) as sink:
            wait_for(lambda: sink.state().refused == 2 and outbox.stat().depth["events"] == 0, LONG_S)


@pytest.mark.parametrize(
    "code", [-137, -139, -141, -151, -152]
)  # busy, shutting down, keep alive, quota, administrative
def test_a_broker_that_hangs_up_for_its_own_reasons_costs_no_message(tmp_path: Path, code: int) -> None:
    with running(tmp_path / "o.db") as outbox, standing_in(on({1}, code)) as there:
        fill(outbox, 3)
        with delivering(outbox, there.port, **QUICK) as sink:
            wait_for(lambda: len(there.visits) > 10, LONG_S)
            assert sink.state().refused == 0
        assert outbox.stat().depth["events"] == 2


def test_a_broker_that_hangs_up_on_everything_costs_no_message(tmp_path: Path) -> None:
    with running(tmp_path / "o.db") as outbox, standing_in(lambda _: HANG_UP) as there:
        fill(outbox, 3)
        with delivering(outbox, there.port, **QUICK) as sink:
            wait_for(lambda: len(there.visits) > 15, LONG_S)
            wait_for(lambda: f"may we write {ROOT}status, retained" in sink.state().last_error, LONG_S)
            assert sink.state().refused == 0
        assert outbox.stat().depth["events"] == 3


@pytest.mark.parametrize("code", [128, 131, 151])
def test_what_cannot_be_taken_now_stays_and_goes_later(tmp_path: Path, code: int) -> None:
    trouble = [code]
    with running(tmp_path / "o.db") as outbox, standing_in(lambda m: trouble[0] if number(m) == 4 else 0) as there:
        fill(outbox, 10)
        with delivering(outbox, there.port, **QUICK) as sink:
            wait_for(lambda: len(there.visits) >= 3, LONG_S)
            wait_for(lambda: "cannot take messages now" in sink.state().last_error, LONG_S)
            assert (sink.state().refused, outbox.stat().depth["events"] >= 1) == (0, True)
            trouble[0] = 0
            wait_for(lambda: outbox.stat().depth["events"] == 0, LONG_S)
            assert sink.state().acked == 10


@pytest.mark.parametrize("code", [0, 16])
def test_nobody_subscribes_is_success(tmp_path: Path, code: int) -> None:
    with running(tmp_path / "o.db") as outbox, standing_in(lambda _: code) as there:
        fill(outbox, 10)
        with delivering(outbox, there.port) as sink:
            wait_for(lambda: outbox.stat().depth["events"] == 0, LONG_S)
            assert (sink.state().acked, sink.state().refused) == (10, 0)


@pytest.mark.parametrize("code", [135, 144, 153])
def test_what_will_never_be_taken_is_a_dead_letter_with_its_reason(tmp_path: Path, code: int) -> None:
    with running(tmp_path / "o.db") as outbox, standing_in(on({1, 2}, code)) as there:
        fill(outbox, 4)
        with delivering(outbox, there.port) as sink:
            wait_for(lambda: sink.state().refused == 2 and outbox.stat().depth["events"] == 0, LONG_S)
            assert len(there.visits) == 1, "the connection goes on"


def test_receive_maximum_of_one_is_honoured_with_heartbeats_and_to_the_end(tmp_path: Path) -> None:
    with running(tmp_path / "o.db") as outbox, standing_in(receive_maximum=1) as there:
        fill(outbox, 50)
        with delivering(outbox, there.port) as sink:
            wait_for(lambda: sink.state().connected, LONG_S)
            for _ in range(20):
                sink.publish_now("heartbeat", heartbeat(), retain=False)
            wait_for(lambda: outbox.stat().depth["events"] == 0, LONG_S)
            sink.stop(5.0)
        (visit,) = there.visits
        assert visit.peak_unanswered == 1
        assert json.loads(visit.published[-1].payload)["state"] == "offline"
        wait_for(lambda: visit.ended == 0, LONG_S)


def test_where_there_is_no_room_to_say_offline_the_will_says_it(tmp_path: Path) -> None:
    # Two may be under way, and no answer comes before there are three.
    with running(tmp_path / "o.db") as outbox, standing_in(receive_maximum=2, hold=3) as there:
        fill(outbox, 5)
        with delivering(outbox, there.port) as sink:
            wait_for(lambda: there.visits and there.visits[0].peak_unanswered == 2, LONG_S)
            sink.stop(0.2)
        (visit,) = there.visits
        assert len(visit.published) == 2
        assert visit.ended is None, "no DISCONNECT: the broker is to publish the will"


def test_the_window_is_twenty_where_the_broker_would_take_more(tmp_path: Path) -> None:
    with running(tmp_path / "o.db") as outbox, standing_in(hold=20) as there:
        fill(outbox, 99)
        with delivering(outbox, there.port) as sink:
            wait_for(lambda: sink.state().acked >= 90, LONG_S)
        assert there.visits[0].peak_unanswered == 20


@pytest.mark.parametrize("session_s", [0, 600])
def test_no_message_is_sent_twice_in_one_connection_and_what_comes_again_has_its_id(
    tmp_path: Path, session_s: int
) -> None:
    with running(tmp_path / "o.db") as outbox, broker(tmp_path) as mosquitto:
        tap = Tap(mosquitto.port)
        try:
            fill(outbox, 3000)
            with delivering(outbox, tap.port, session_expiry_s=session_s, **QUICK) as sink:
                for goal in (100, 600, 1200, 1800):
                    wait_for(lambda goal=goal: sink.state().acked >= goal, LONG_S)  # type: ignore[misc]
                    tap.cut()
                    wait_for(lambda goal=goal: sink.state().connects > goal // 600, LONG_S)  # type: ignore[misc]
                wait_for(lambda: outbox.stat().depth["events"] == 0, LONG_S)
            by_number: dict[int, set[str]] = {}
            for wire in tap.wires:
                sent = [message for message in wire.published if "/events/" in message.topic]
                ids = [json.loads(message.payload)["id"] for message in sent]
                assert len(ids) == len(set(ids))
                packets = [message.packet_id for message in wire.published]
                assert len(packets) == len(set(packets)) or len(packets) > 65535
                assert not any(message.dup for message in wire.published)
                for message, ident in zip(sent, ids, strict=True):
                    by_number.setdefault(json.loads(message.payload)["data"]["n"], set()).add(ident)
            assert set(by_number) == set(range(3000))
            assert all(len(ids) == 1 for ids in by_number.values())
            clean = [bool(wire.connect[7] & 2) for wire in tap.wires]
            assert clean == [session_s == 0] * len(clean)
        finally:
            tap.close()


def test_the_will_waits_where_it_is_told_to(tmp_path: Path) -> None:
    delayed: dict[str, Any] = {"session_expiry_s": 600, "will_delay_s": 3, **QUICK}
    with running(tmp_path / "o.db") as outbox, broker(tmp_path) as mosquitto, subscriber(mosquitto.port) as sub:
        tap = Tap(mosquitto.port)
        with delivering(outbox, tap.port, **delayed) as sink:
            wait_for(lambda: statuses(sub) == ["online"], LONG_S)
            tap.cut()
            wait_for(lambda: sink.state().connects == 2, LONG_S)
            wait_for(lambda: len(statuses(sub)) == 2, LONG_S)
            time.sleep(4.0)  # longer than the delay: that nothing comes can only be waited for
            assert statuses(sub) == ["online", "online"], "a short break shows nowhere"
            tap.close()
            began = time.monotonic()
            wait_for(lambda: statuses(sub)[-1] == "offline", LONG_S)
            assert time.monotonic() - began > 2.0


def test_properties_reach_the_subscriber(tmp_path: Path) -> None:
    config: dict[str, Any] = {"user_properties": {"fleet": "north"}, "message_expiry_s": 1000, "topic_alias": True}
    with running(tmp_path / "o.db") as outbox, broker(tmp_path) as mosquitto, subscriber(mosquitto.port) as sub:
        tap = Tap(mosquitto.port)
        try:
            fill(outbox, 40)
            with delivering(outbox, tap.port, **config):
                wait_for(lambda: len(numbers(sub)) == 40, LONG_S)
            wait_for(lambda: statuses(sub)[-1] == "offline", LONG_S)
        finally:
            tap.close()
        for message in sub.messages:
            assert message.properties is not None
            assert ("fleet", "north") in message.properties.UserProperty  # type: ignore[attr-defined]
            assert hasattr(message.properties, "MessageExpiryInterval") == ("/events/" in message.topic)
        assert {message.topic.removeprefix(ROOT) for message in sub.messages} == {
            "status",
            "events/till/synthetic",
            "events/door/synthetic",
        }
        (wire,) = tap.wires
        full = [message.topic for message in wire.published if message.on_wire]
        assert len(full) == len(set(full)) == 3, "each topic in full once, then by its number"
        assert {message.alias for message in wire.published} == {1, 2, 3}


def test_a_topic_alias_is_not_used_unless_it_is_asked_for(tmp_path: Path) -> None:
    with running(tmp_path / "o.db") as outbox, broker(tmp_path) as mosquitto:
        tap = Tap(mosquitto.port)
        try:
            fill(outbox, 10)
            with delivering(outbox, tap.port) as sink:
                wait_for(lambda: sink.state().acked == 10, LONG_S)
        finally:
            tap.close()
        assert all(message.on_wire and not message.alias for message in tap.wires[0].published)


def test_a_message_too_large_leaves_the_connection_alone(tmp_path: Path) -> None:
    with (
        running(tmp_path / "o.db") as outbox,
        broker(tmp_path, extra=("max_packet_size 1500",)) as mosquitto,
        subscriber(mosquitto.port) as sub,
    ):
        outbox.put([make_event(0), make_event(1, text="x" * 3000), make_event(2)])
        with delivering(outbox, mosquitto.port, user_properties={"a": "b" * 200}) as sink:
            wait_for(lambda: sink.state().refused == 1 and outbox.stat().depth["events"] == 0, LONG_S)
            assert sink.state().connects == 1
        told = json.loads(sub.under("_device/dead_letter")[0].payload)["data"]
        assert list(told["reasons"]) == ["larger than the broker's maximum packet of 1500 bytes"]
