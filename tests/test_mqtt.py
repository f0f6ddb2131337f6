"""Delivery over MQTT against a real mosquitto."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from edge_agent.device_facts import model_state
from edge_agent.types import Event
from tests.health_fixtures import agent_status
from tests.mosquitto import Mosquitto, Subscriber, broker, free_port, subscriber, wait_for
from tests.mqtt_fixtures import ROOT, content_type, delivering, fill, heartbeat, numbers, statuses
from tests.mqtt_tap import Tap
from tests.outbox_fixtures import make_event, make_metric, running

pytestmark = pytest.mark.slow


def test_everything_arrives_in_order_with_its_type(tmp_path: Path) -> None:
    with running(tmp_path / "o.db") as outbox, broker(tmp_path) as mosquitto, subscriber(mosquitto.port) as sub:
        fill(outbox, 1000)
        outbox.put([make_metric(0)])
        with delivering(outbox, mosquitto.port) as sink:
            wait_for(lambda: sink.state().acked == 1001)
            wait_for(lambda: len(sub.under("/events/")) == 1000 and bool(sub.under("/metrics/")))
            wait_for(lambda: outbox.stat().depth == {"events": 0, "metrics": 0, "telemetry": 0})
            assert numbers(sub) == list(range(1000))
            event, metric = sub.under("/events/")[0], sub.under("/metrics/")[0]
            assert (event.topic, metric.topic) == (
                ROOT + "events/till/synthetic",
                ROOT + "metrics/door/synthetic",
            )
            assert (content_type(event), event.qos, event.retain) == ("application/cloudevents+json", 1, False)
            assert content_type(metric) == "application/json"
            state = sink.state()
            assert (state.connected, state.protocol, state.connects, state.reconnects) == (True, "5.0", 1, 0)
            outbox.put([make_event(1000)])
            wait_for(lambda: numbers(sub)[-1] == 1000)


def test_broker_that_is_down_for_the_whole_run_then_started(tmp_path: Path) -> None:
    mosquitto = Mosquitto(tmp_path)
    with running(tmp_path / "o.db") as outbox, delivering(outbox, mosquitto.port) as sink:
        fill(outbox, 300)
        wait_for(lambda: bool(sink.state().last_error))
        assert not sink.state().connected
        assert not sink.publish_now("heartbeat", heartbeat(), False)
    assert "refused" in sink.state().last_error
    mosquitto.start()
    try:
        with (
            running(tmp_path / "o.db") as outbox,
            subscriber(mosquitto.port) as sub,
            delivering(outbox, mosquitto.port),
        ):
            wait_for(lambda: len(sub.under("/events/")) == 300)
            wait_for(lambda: outbox.stat().depth["events"] == 0)
            assert numbers(sub) == list(range(300))
    finally:
        mosquitto.kill()


def test_broker_killed_while_draining_loses_nothing_and_repeats_only_ids(tmp_path: Path) -> None:
    # What the broker had taken and not passed on dies with it; so the judge is the tap in front of it, not a subscriber.
    with running(tmp_path / "o.db") as outbox, broker(tmp_path) as mosquitto:
        tap = Tap(mosquitto.port)
        try:
            fill(outbox, 4000)
            with delivering(outbox, tap.port) as sink:
                for goal in (500, 1500, 2500):
                    wait_for(lambda goal=goal: sink.state().acked >= goal)  # type: ignore[misc]
                    mosquitto.kill()
                    wait_for(lambda: not sink.state().connected)
                    mosquitto.start()
                wait_for(lambda: outbox.stat().depth["events"] == 0, 40)
                assert sink.state().reconnects >= 3
            seen: list[int] = []
            for wire in tap.wires:
                sent = [json.loads(one.payload)["data"]["n"] for one in wire.published if "/events/" in one.topic]
                assert sent == list(range(sent[0], sent[0] + len(sent))) if sent else True  # in order, none twice
                assert not any(one.dup for one in wire.published)
                assert wire.peak_unacknowledged <= 20
                assert not sent or sent[0] <= len(set(seen))  # goes on from the oldest that was not acknowledged
                seen += sent
            assert set(seen) == set(range(4000))
            assert len(seen) - 4000 <= 20 * (len(tap.wires) - 1)
        finally:
            tap.close()


def test_cut_connection_sends_the_will_and_comes_back(tmp_path: Path) -> None:
    with running(tmp_path / "o.db") as outbox, broker(tmp_path) as mosquitto, subscriber(mosquitto.port) as sub:
        tap = Tap(mosquitto.port)
        try:
            with delivering(outbox, tap.port):
                wait_for(lambda: statuses(sub) == ["online"])
                tap.cut()
                wait_for(lambda: statuses(sub) == ["online", "offline", "online"])
            wait_for(lambda: statuses(sub)[-1] == "offline")
        finally:
            tap.close()
        with subscriber(mosquitto.port, ROOT + "status") as late:
            wait_for(lambda: bool(late.messages))
            (kept,) = late.messages
            assert kept.retain
            doc = json.loads(kept.payload)
            assert doc["state"] == "offline"
            assert doc.keys() == {"state", "boot_id", "since", "version"}


def test_stop_says_offline_and_disconnects_cleanly(tmp_path: Path) -> None:
    with running(tmp_path / "o.db") as outbox, broker(tmp_path) as mosquitto, subscriber(mosquitto.port) as sub:
        with delivering(outbox, mosquitto.port) as sink:
            wait_for(lambda: sink.state().connected)
            fill(outbox, 200)
            sink.stop(5.0)
            assert outbox.stat().depth["events"] == 0 or sink.state().acked == 200
            assert not sink.state().connected
        wait_for(lambda: statuses(sub) == ["online", "offline"])  # once: the will was not sent
        wait_for(lambda: "Client edge-agent-site-box disconnected." in mosquitto.log_text())


def test_heartbeat_does_not_wait_behind_a_backlog(tmp_path: Path) -> None:
    with running(tmp_path / "o.db", queue=25_000) as outbox, broker(tmp_path) as mosquitto:
        fill(outbox, 20_000)
        with subscriber(mosquitto.port, ROOT + "heartbeat") as sub, delivering(outbox, mosquitto.port) as sink:
            wait_for(lambda: sink.state().acked > 100)
            for n in range(5):
                assert sink.publish_now("heartbeat", heartbeat(), retain=False)
                wait_for(lambda n=n: len(sub.messages) > n, 2.0)  # type: ignore[misc]
            assert sink.state().acked < 20_000, "the backlog was gone before the heartbeats: nothing was shown"


def test_heartbeat_is_latest_only(tmp_path: Path) -> None:
    with running(tmp_path / "o.db") as outbox, broker(tmp_path) as mosquitto, subscriber(mosquitto.port) as sub:
        with delivering(outbox, mosquitto.port) as sink:
            wait_for(lambda: sink.state().connected)
            mosquitto.kill()
            wait_for(lambda: not sink.state().connected)
            assert not sink.publish_now("heartbeat", heartbeat(), retain=False)
            mosquitto.start()
            with subscriber(mosquitto.port) as again:
                wait_for(lambda: sink.state().connected)
                assert sink.publish_now("model", model_state(agent_status().model), retain=True)
                wait_for(lambda: bool(again.under("/model")))
                assert not again.under("/heartbeat")
        assert not sub.under("/heartbeat")


def test_denied_topic_goes_to_the_dead_letters_and_the_rest_passes(tmp_path: Path) -> None:
    acl = [
        "user box",
        f"topic write {ROOT}status",
        f"topic write {ROOT}events/door/#",
        f"topic write {ROOT}events/_device/#",
    ]
    acl += ["user all", "topic readwrite #"]
    users = {"box": "secret", "all": "secret"}
    word = tmp_path / "word"
    word.write_text("secret\n")
    with running(tmp_path / "o.db") as outbox, broker(tmp_path / "m", users=users, acl=acl) as mosquitto:
        fill(outbox, 40)  # every second is for another camera, which is denied
        with (
            subscriber(mosquitto.port, user=("all", "secret")) as sub,
            delivering(outbox, mosquitto.port, username="box", password_file=word) as sink,
        ):
            wait_for(lambda: sink.state().refused == 20 and sink.state().acked >= 20)
            wait_for(lambda: bool(sub.under("_device/dead_letter")))
            wait_for(lambda: outbox.stat().depth["events"] == 0)
            assert sink.state().connected
            assert sink.state().connects == 1
            assert "refused" in sink.state().last_error
            assert sorted(numbers_of_door(sub)) == list(range(1, 40, 2))
            told = json.loads(sub.under("_device/dead_letter")[0].payload)["data"]
            assert list(told["reasons"]) == ["Not authorized"]
            assert told["sequences"][0] == ["0000000000000001", "0000000000000001"]
            assert outbox.stat().refused["events"] == 20


def numbers_of_door(sub: Subscriber) -> list[int]:
    return [json.loads(message.payload)["data"]["n"] for message in sub.under("events/door/")]


@pytest.mark.parametrize("source", ["file", "environment"])
def test_wrong_password_is_shown_and_never_taken_for_connected(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    word = tmp_path / "word"
    word.write_text("wrong")
    options: dict[str, Any] = {"username": "box"}
    if source == "file":
        options["password_file"] = word
    else:
        monkeypatch.setenv("EDGE_AGENT_MQTT_PASSWORD", "wrong")
    with running(tmp_path / "o.db") as outbox, broker(tmp_path / "m", users={"box": "right"}) as mosquitto:
        fill(outbox, 3)
        with delivering(outbox, mosquitto.port, **options) as sink:
            wait_for(lambda: bool(sink.state().last_error))
            assert "Not authorized" in sink.state().last_error
            assert "wrong" not in sink.state().last_error
            assert (sink.state().connected, sink.state().connects, sink.state().published) == (False, 0, 0)
            word.write_text("right")
            monkeypatch.setitem(os.environ, "EDGE_AGENT_MQTT_PASSWORD", "right")
            wait_for(lambda: sink.state().acked == 3)
            assert sink.state().last_error == ""


def test_the_environment_wins_over_the_file_whose_first_line_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    word = tmp_path / "word"
    word.write_text("first\nsecond\n")
    users = {"box": "first", "other": "from the environment"}
    with running(tmp_path / "o.db") as outbox, broker(tmp_path / "m", users=users) as mosquitto:
        with delivering(outbox, mosquitto.port, username="box", password_file=word) as sink:
            wait_for(lambda: sink.state().connected)
        monkeypatch.setenv("EDGE_AGENT_MQTT_PASSWORD", "from the environment")
        with delivering(outbox, mosquitto.port, username="other", password_file=word) as sink:
            wait_for(lambda: sink.state().connected)


def test_missing_password_file_is_an_error_that_can_be_mended(tmp_path: Path) -> None:
    with running(tmp_path / "o.db") as outbox, broker(tmp_path / "m", users={"box": "right"}) as mosquitto:
        with delivering(outbox, mosquitto.port, username="box", password_file=tmp_path / "later") as sink:
            wait_for(lambda: "cannot read" in sink.state().last_error)
            (tmp_path / "later").write_text("right\r\n")
            wait_for(lambda: sink.state().connected)


@pytest.mark.parametrize("how", ["refuse_five", "hang_up_on_five"])
def test_falls_back_to_the_older_protocol(tmp_path: Path, how: str) -> None:
    with running(tmp_path / "o.db") as outbox, broker(tmp_path) as mosquitto, subscriber(mosquitto.port) as sub:
        tap = Tap(mosquitto.port, **{how: True})
        try:
            fill(outbox, 100)
            with delivering(outbox, tap.port) as sink:
                wait_for(lambda: sink.state().acked == 100)
                assert sink.state().protocol == "3.1.1"
                assert [wire.level for wire in tap.wires] == [5, 4]
                wait_for(lambda: len(sub.under("/events/")) == 100)
                assert numbers(sub) == list(range(100))
            wait_for(lambda: statuses(sub)[-1] == "offline")
        finally:
            tap.close()


def test_receive_maximum_of_the_broker_is_honoured(tmp_path: Path) -> None:
    extra = ("max_inflight_messages 3",)  # mosquitto sends it as Receive Maximum
    with running(tmp_path / "o.db") as outbox, broker(tmp_path, extra=extra) as mosquitto:
        tap = Tap(mosquitto.port)
        try:
            fill(outbox, 500)
            with delivering(outbox, tap.port) as sink:
                wait_for(lambda: sink.state().connected)
                for _ in range(20):
                    sink.publish_now("heartbeat", heartbeat(), retain=False)
                wait_for(lambda: sink.state().acked == 500)
            (wire,) = tap.wires
            assert wire.peak_unacknowledged <= 3
        finally:
            tap.close()


def test_message_larger_than_the_broker_takes_is_a_dead_letter(tmp_path: Path) -> None:
    extra = ("max_packet_size 2000",)
    with running(tmp_path / "o.db") as outbox, broker(tmp_path, extra=extra) as mosquitto:
        outbox.put([make_event(0), make_event(1, text="x" * 5000), make_event(2)])
        with delivering(outbox, mosquitto.port) as sink:
            wait_for(lambda: sink.state().refused == 1 and sink.state().acked >= 3)  # two and the alarm
            wait_for(lambda: outbox.stat().depth["events"] == 0)
            assert sink.state().connects == 1


def test_silent_host_blocks_nobody(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, running(tmp_path / "o.db") as outbox:
        began = time.monotonic()
        with delivering(outbox, silent.getsockname()[1]) as sink:
            accepted, _ = silent.accept()
            assert time.monotonic() - began < 5.0
            assert not sink.state().connected
            sink.stop(0.2)
        assert time.monotonic() - began < 8.0
        accepted.close()


def test_resolver_that_hangs_blocks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release, asked = threading.Event(), threading.Event()

    def hang(*_: object, **__: object) -> None:
        asked.set()
        release.wait(30)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", hang)  # a name server that never answers cannot be had without root
    with running(tmp_path / "o.db") as outbox:
        began = time.monotonic()
        with delivering(outbox, free_port()) as sink:
            assert asked.wait(5)
            sink.stop(0.1)
            assert time.monotonic() - began < 8.0
            release.set()
            wait_for(lambda: "name resolution" in sink.state().last_error)


def test_second_box_with_the_same_identity_is_noticed(tmp_path: Path) -> None:
    alarms: list[Event] = []
    with running(tmp_path / "a.db") as one, running(tmp_path / "b.db") as two, broker(tmp_path) as mosquitto:
        with delivering(one, mosquitto.port, alarms, boot_id="first") as first:
            wait_for(lambda: first.state().connected)
            mosquitto.kill()
            mosquitto.start()  # coming back alone is no second box
            wait_for(lambda: first.state().connects == 2)
            assert not alarms
            with delivering(two, mosquitto.port, boot_id="second"):
                wait_for(lambda: bool(alarms))
    assert alarms[0].topic == "events/_device/mqtt_session_taken_over"
    assert len(alarms) == 1


@pytest.mark.parametrize("payload", [b"[" * 100_000, b"5", b'{"boot_id":[]}', b"\xff", b""])
def test_rubbish_on_the_status_topic_does_not_end_the_connection(tmp_path: Path, payload: bytes) -> None:
    with running(tmp_path / "o.db") as outbox, broker(tmp_path) as mosquitto, subscriber(mosquitto.port) as sub:
        with delivering(outbox, mosquitto.port) as sink:
            wait_for(lambda: statuses(sub) == ["online"])
            sub.publish(ROOT + "status", payload)
            wait_for(lambda: len(sub.under("/status")) == 2)
            fill(outbox, 50)
            wait_for(lambda: sink.state().acked == 50)
            assert (sink.state().connects, sink.state().last_error) == (1, "")


def test_metrics_wait_for_events_and_outbox_trouble_does_not_end_the_connection(tmp_path: Path) -> None:
    with running(tmp_path / "o.db") as outbox, broker(tmp_path) as mosquitto, subscriber(mosquitto.port) as sub:
        outbox.put([make_metric(n) for n in range(300)])
        assert outbox.flush(30)
        fill(outbox, 300)
        with delivering(outbox, mosquitto.port, in_flight=1) as sink:
            wait_for(lambda: sink.state().acked == 600)
            wait_for(lambda: len(sub.under("/metrics/")) == 300)
            kinds = [message.topic.split("/")[4] for message in sub.messages if "/status" not in message.topic]
            assert kinds == ["events"] * 300 + ["metrics"] * 300
            assert sink.state().connects == 1
