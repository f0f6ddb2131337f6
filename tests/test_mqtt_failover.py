"""Several brokers: whom the agent goes to, and what is left behind."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from edge_agent.types import Event
from tests.mosquitto import Mosquitto, Subscriber, broker, free_port, subscriber, wait_for
from tests.mqtt_fixtures import ROOT, delivering, fill, numbers, statuses
from tests.outbox_fixtures import running

pytestmark = pytest.mark.slow
LONG_S = 60.0


def lasting(folder: Path) -> Mosquitto:
    """One that still knows after a crash what it retained."""
    (folder / "store").mkdir(parents=True)
    lines = (
        "persistence true",
        f"persistence_location {folder / 'store'}/",
        "autosave_interval 1",
        "autosave_on_changes true",
    )
    return Mosquitto(folder, extra=lines)


def among(*brokers: Mosquitto | int) -> dict[str, Any]:
    ports = [there if isinstance(there, int) else there.port for there in brokers]
    return {"brokers": [{"port": port} for port in ports], "reconnect_spread_s": 0.2}


def last_status(sub: Subscriber) -> dict[str, Any]:
    return dict(json.loads(sub.under("/status")[-1].payload))


def test_the_first_broker_dies_and_its_stale_online_is_taken_back(tmp_path: Path) -> None:
    first = lasting(tmp_path / "a")
    first.start()
    alarms: list[Event] = []
    try:
        with (
            running(tmp_path / "o.db") as outbox,
            broker(tmp_path / "b") as second,
            subscriber(second.port) as there,
            delivering(outbox, None, alarms, **among(first, second)) as sink,
        ):
            wait_for(lambda: sink.state().connected, LONG_S)
            assert sink.state().address == f"127.0.0.1:{first.port}"
            fill(outbox, 50)
            wait_for(lambda: sink.state().acked == 50, LONG_S)
            first.kill(signal.SIGTERM)  # it stores what it retains, and sends no will
            wait_for(lambda: sink.state().connects == 2, LONG_S)
            assert sink.state().address == f"127.0.0.1:{second.port}"
            fill(outbox, 50, start=50)
            wait_for(lambda: numbers(there)[-50:] == list(range(50, 100)), LONG_S)
            first.start()
            with subscriber(first.port) as back:
                wait_for(lambda: bool(back.under("/status")), LONG_S)
                stale = json.loads(back.under("/status")[0].payload)
                if stale["state"] == "online":  # else it was taken back before we could look
                    assert stale["since"] < last_status(there)["since"], "until then they can be told apart"
                wait_for(lambda: last_status(back)["state"] == "offline", LONG_S)
                assert back.under("/status")[-1].topic == ROOT + "status"
            assert last_status(there)["state"] == "online"
            assert sink.state().connects == 2, "it stays where it is while that works"
            second.kill()
            wait_for(lambda: sink.state().connects == 3, LONG_S)
            assert sink.state().address == f"127.0.0.1:{first.port}"
            with subscriber(first.port, ROOT + "status") as again:
                wait_for(lambda: bool(again.messages) and statuses(again)[-1] == "online", LONG_S)
        assert alarms == [], "our own statuses are no second device"
    finally:
        first.kill()


def test_what_an_earlier_run_left_on_another_broker_is_taken_back(tmp_path: Path) -> None:
    with running(tmp_path / "o.db") as outbox, broker(tmp_path / "a") as first, broker(tmp_path / "b") as second:
        with subscriber(second.port) as there:
            there.publish(ROOT + "status", b'{"state":"online","boot_id":"earlier","since":"2026-01-01T00:00:00.000Z"}')
            wait_for(lambda: statuses(there) == ["online"], LONG_S)
            alarms: list[Event] = []
            with delivering(outbox, None, alarms, **among(first, second)) as sink:
                wait_for(lambda: sink.state().connected, LONG_S)
                wait_for(lambda: statuses(there) == ["online", "offline"], LONG_S)
            assert alarms == []
        assert "edge-agent-site-box-farewell" in second.log_text()


def test_nothing_is_taken_back_where_the_other_broker_shows_the_present_status(tmp_path: Path) -> None:
    # Two names of one broker, as with the nodes of a cluster: what is retained is the same.
    with running(tmp_path / "o.db") as outbox, broker(tmp_path / "a") as one, subscriber(one.port) as sub:
        config = among(one, one)
        config["brokers"][1]["host"] = "localhost"
        with delivering(outbox, None, **config) as sink:
            wait_for(lambda: sink.state().connected, LONG_S)
            wait_for(lambda: one.log_text().count("edge-agent-site-box-farewell") >= 2, LONG_S, "a visit")
            wait_for(lambda: "edge-agent-site-box-farewell disconnected" in one.log_text(), LONG_S)
            fill(outbox, 5)
            wait_for(lambda: len(numbers(sub)) == 5, LONG_S)
            assert statuses(sub) == ["online"]
            assert sink.state().connects == 1


def test_brokers_that_are_down_are_passed_over(tmp_path: Path) -> None:
    with running(tmp_path / "o.db") as outbox, broker(tmp_path) as there:
        fill(outbox, 10)
        with delivering(outbox, None, **among(free_port(), free_port(), there)) as sink:
            wait_for(lambda: sink.state().acked == 10, LONG_S)
            assert sink.state().address == f"127.0.0.1:{there.port}"
            sink.stop(1.0)


def test_a_second_box_is_noticed_after_a_fail_over_too(tmp_path: Path) -> None:
    alarms: list[Event] = []
    with (
        running(tmp_path / "1.db") as one,
        running(tmp_path / "2.db") as two,
        broker(tmp_path / "a") as first,
        broker(tmp_path / "b") as second,
        delivering(one, None, alarms, boot_id="first", **among(first, second)) as sink,
    ):
        wait_for(lambda: sink.state().connected, LONG_S)
        first.kill()
        wait_for(lambda: sink.state().connects == 2, LONG_S)
        with delivering(two, second.port, boot_id="second", reconnect_spread_s=0.2):
            wait_for(lambda: bool(alarms), LONG_S)
    assert alarms[0].what == "mqtt_session_taken_over"
