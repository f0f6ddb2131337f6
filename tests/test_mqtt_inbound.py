"""What a broker sends to the agent, and the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.commands.envelope import failed
from edge_agent.errors import CommandError
from edge_agent.sinks.mqtt_inbound import MAX_PACKET, Inbound, Listener
from tests.mosquitto import broker, subscriber, wait_for
from tests.mqtt_fixtures import ROOT, delivering, fill
from tests.outbox_fixtures import running

COMMANDS = ROOT + "commands/+"


def asking(response_topic: str, correlation: bytes) -> Properties:
    made: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    made.ResponseTopic, made.CorrelationData, made.MessageExpiryInterval = response_topic, correlation, 60
    return made  # type: ignore[no-any-return]


def correlation(properties: Any) -> bytes:
    return bytes(properties.CorrelationData)


def test_a_listener_gets_what_fits_and_every_answer_goes_out(tmp_path: Path) -> None:
    heard: list[Inbound] = []

    def pings() -> list[Inbound]:
        return [message for message in heard if message.topic.endswith("/ping")]

    answers = [failed("ping", str(n), CommandError("failed", "asked too often")) for n in range(3)]
    with (
        running(tmp_path / "o.db") as outbox,
        broker(tmp_path) as mosquitto,
        subscriber(mosquitto.port, "answers/#") as sub,
        delivering(outbox, mosquitto.port, listeners=[Listener(COMMANDS, heard.append)]) as sink,
    ):

        def there() -> bool:
            sub.publish(ROOT + "commands/there", b"", retain=False)
            return bool(heard)

        # Connected is not yet subscribed: until the broker knows, what is published reaches nobody.
        wait_for(there)
        for n in range(3):
            asked = asking("answers/a", b"\x00\xff%d" % n)
            sub.publish(ROOT + "commands/ping", answers[n], retain=False, properties=asked)
        sub.publish(ROOT + "elsewhere/ping", b"no", retain=False)
        wait_for(lambda: len(pings()) == 3)
        fill(outbox, 2000)
        for message in pings():
            assert message.response_topic is not None
            assert sink.answer(message.response_topic, message.payload, message.correlation)
        wait_for(lambda: len(sub.messages) == 3)
    assert {message.topic for message in heard} == {ROOT + "commands/ping", ROOT + "commands/there"}
    assert 0 < (pings()[0].expiry_s or 0) <= 60
    got = [(message.payload, correlation(message.properties)) for message in sub.messages]
    assert got == [(answers[n], b"\x00\xff%d" % n) for n in range(3)]
    assert not sink.answer("answers/a", b"", None)  # there is no connection any more


def test_what_a_listener_cannot_take_harms_nothing(tmp_path: Path) -> None:
    heard: list[bytes] = []

    def picky(message: Inbound) -> None:
        if message.payload == b"bad":
            raise ValueError("never heard of it")
        heard.append(message.payload)

    with (
        running(tmp_path / "o.db") as outbox,
        broker(tmp_path) as mosquitto,
        subscriber(mosquitto.port) as sub,
        delivering(outbox, mosquitto.port, listeners=[Listener(COMMANDS, picky)]) as sink,
    ):
        wait_for(lambda: sink.state().connected)
        for payload in (b"bad", b"x" * (MAX_PACKET + 1), b"good"):
            sub.publish(ROOT + "commands/ping", payload, retain=False)
        wait_for(lambda: heard == [b"good"])
        fill(outbox, 10)
        wait_for(lambda: sink.state().acked == 10)
    assert sink.state().connects == 1


def test_what_came_while_we_were_away_is_not_lost_with_a_session_that_lasts(tmp_path: Path) -> None:
    heard: list[bytes] = []
    options: dict[str, Any] = {
        "session_expiry_s": 600,
        "listeners": [Listener(COMMANDS, lambda m: heard.append(m.payload))],
    }
    with running(tmp_path / "o.db") as outbox, broker(tmp_path) as mosquitto, subscriber(mosquitto.port) as sub:
        with delivering(outbox, mosquitto.port, **options) as sink:
            wait_for(lambda: sink.state().connected)
        sub.publish(ROOT + "commands/ping", b"while away", retain=False)
        with delivering(outbox, mosquitto.port, **options):
            wait_for(lambda: heard == [b"while away"])
        with delivering(outbox, mosquitto.port, **options) as sink:  # it was confirmed, so it does not come again
            wait_for(lambda: sink.state().connected)
            sub.publish(ROOT + "commands/ping", b"next", retain=False)
            wait_for(lambda: heard == [b"while away", b"next"])
