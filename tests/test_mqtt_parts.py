"""The parts of the MQTT sink that need no broker."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.properties import Properties

from edge_agent.config_mqtt import Address, BrokerConfig, MqttConfig
from edge_agent.sinks.mqtt_brokers import Brokers
from edge_agent.sinks.mqtt_identity import Identity, read_status
from edge_agent.sinks.mqtt_outcome import Outcome, outcome
from edge_agent.sinks.mqtt_properties import Contents, of_will, packet_size
from edge_agent.sinks.mqtt_suspects import ALONE, OTHERS, STRIKES, Suspects
from edge_agent.types import Event

# ---- which broker, and when


@pytest.mark.parametrize(
    ("config", "addresses"),
    [
        ({}, ["localhost:1883"]),
        ({"host": "a", "port": 5}, ["a:5"]),
        ({"tls": {}}, ["localhost:8883"]),
        ({"websocket_path": "/mqtt"}, ["localhost:80"]),
        ({"websocket_path": "/mqtt", "tls": {}}, ["localhost:443"]),
        ({"host": "a", "brokers": [{"port": 7}, {"host": "b"}, {}, {"port": 7}]}, ["a:7", "b:1883", "a:1883"]),
        ({"host": "::1"}, ["[::1]:1883"]),
    ],
)
def test_addresses_fill_in_what_is_not_said(config: dict[str, object], addresses: list[str]) -> None:
    assert [str(address) for address in MqttConfig.model_validate(config).addresses] == addresses


def three_brokers(**config: float) -> Brokers:
    return Brokers(MqttConfig(brokers=[BrokerConfig(host=name) for name in "abc"], **config))


def test_the_preferred_broker_is_tried_first_and_the_others_by_turns() -> None:
    brokers = three_brokers()
    tried = []
    for useful in (False, False, False, False, True, False, True):
        tried.append(brokers.current.host)
        brokers.ended(useful=useful)
    assert "".join(tried) == "abcabab"
    assert brokers.current == Address("a", 1883)
    assert [other.host for other in brokers.others] == ["b", "c"]


def test_ten_thousand_devices_do_not_come_back_in_one_second() -> None:
    def pauses(failures: int) -> Counter[int]:
        fleet = [Brokers(MqttConfig()) for _ in range(10_000)]
        for device in fleet:
            device.ended(useful=True)
            for _ in range(failures):
                device.ended(useful=False)
        return Counter(int(device.pause()) for device in fleet)

    first = pauses(0)
    assert set(first) == set(range(10)), "spread over all of the ten seconds"
    assert max(first.values()) < 1200
    assert max(pauses(1)) == 9
    assert set(pauses(3)) == set(range(40))
    later = pauses(50)
    assert max(later) == 59 and max(later.values()) < 300


def test_the_spread_doubles_with_each_round_through_the_list() -> None:
    def longest(failures: int) -> float:
        brokers = three_brokers(reconnect_spread_s=1.0)
        for _ in range(failures):
            brokers.ended(useful=False)
        return max(brokers.pause() for _ in range(2000))

    for failures, bound in ((0, 1.0), (3, 1.0), (4, 2.0), (6, 2.0), (7, 4.0), (2000, 60.0)):
        assert 0.9 * bound < longest(failures) <= bound


# ---- what an answer means


def test_reason_codes_decide() -> None:
    kinds = {code: outcome(code) for code in range(256)}
    assert kinds[0] is kinds[16] is Outcome.ACCEPTED
    rejected = {code for code, kind in kinds.items() if kind is Outcome.REJECTED}
    assert rejected == {135, 144, 149, 153}
    assert {128, 131, 151} <= {code for code, kind in kinds.items() if kind is Outcome.KEPT}


# ---- the message that a broker hangs up on


def play(window: int, poison: set[int], count: int, *, lose_acks: bool = False) -> tuple[list[int], list[int], int]:
    """A broker that hangs up on some rows: (what it took, what was given up, connections)."""
    suspects = Suspects()
    waiting, taken, given_up = list(range(1, count + 1)), [], []
    for connections in range(1, 1000):
        while waiting:
            flying = waiting[: 1 if suspects.careful else window]
            bad = next((row for row in flying if row in poison), None)
            good = flying if bad is None else flying[: flying.index(bad)]
            if bad is not None and lose_acks and len(flying) > 1:
                good = []  # the end of the connection overtook them
            for row in good:
                suspects.settled(row)
                waiting.remove(row)
                taken.append(row)
            if bad is None:
                continue
            left = [row for row in flying if row in waiting]
            lost = suspects.lost(left, proven=len(left) == 1)
            if lost is not None:
                suspects.settled(lost)
                waiting.remove(lost)
                given_up.append(lost)
            break
        if not waiting:
            assert not suspects.careful
            return taken, given_up, connections
    raise AssertionError("never came to an end")


@given(st.integers(1, 25), st.sets(st.integers(1, 40), max_size=4), st.booleans())
def test_exactly_the_poisonous_ones_are_given_up_and_the_others_pass_in_order(
    window: int, poison: set[int], lose_acks: bool
) -> None:
    taken, given_up, connections = play(window, poison, 40, lose_acks=lose_acks)
    assert given_up == sorted(poison)
    assert taken == [row for row in range(1, 41) if row not in poison]
    assert connections <= 1 + len(poison) * (STRIKES + ALONE)


def test_nothing_is_given_up_on_little_evidence() -> None:
    suspects = Suspects()
    for _ in range(STRIKES):
        assert not suspects.careful
        assert suspects.lost([5, 6], proven=False) is None
    assert suspects.careful
    for _ in range(50):  # connections that never worked, or more under way than the one
        assert suspects.lost([5], proven=False) is None
        assert suspects.lost([5, 6], proven=True) is None
        assert suspects.lost([], proven=True) is None
    assert [suspects.lost([5], proven=True) for _ in range(ALONE)] == [*[None] * (ALONE - 1), 5]


def test_suspects_that_were_dropped_meanwhile_do_not_slow_the_rest_for_ever() -> None:
    suspects = Suspects()
    for _ in range(STRIKES):
        suspects.lost([5, 6], proven=False)
    for row in range(7, 7 + OTHERS):
        assert suspects.careful
        suspects.settled(row)
    assert not suspects.careful


def test_a_network_that_breaks_while_messages_pass_makes_no_suspects() -> None:
    suspects = Suspects()
    for row in range(100):  # something was taken in between, so that another is in front each time
        assert suspects.lost([row, row + 1], proven=True) is None
        assert not suspects.careful


# ---- who we are


def test_a_second_device_is_told_once_an_hour() -> None:
    alarms: list[Event] = []
    identity = Identity("boot-1", "0.1", "client", alarms.append)
    assert json.loads(identity.status("online", 0)) == {
        "state": "online",
        "boot_id": "boot-1",
        "since": "1970-01-01T00:00:00.000Z",
        "version": "0.1",
    }
    for payload in (identity.status("offline", 1), b"", b"[]", b"\xff", b'{"boot_id":7}', b"[" * 5000):
        assert identity.look(payload) == ""
        assert not identity.rival
    other = Identity("boot-2", "0.1", "client", alarms.append).status("online", 2)
    assert "a second device uses the identity client" in identity.look(other)
    assert identity.rival
    identity.look(other)
    assert [event.what for event in alarms] == ["mqtt_session_taken_over"]


@given(st.binary(max_size=200))
def test_any_status_can_be_read(payload: bytes) -> None:
    assert isinstance(read_status(payload), dict)


# ---- properties


def test_properties_are_made_from_the_configuration() -> None:
    config = MqttConfig(
        message_expiry_s=60, will_delay_s=5, session_expiry_s=10, user_properties={"fleet": "north", "a": "b"}
    )
    contents = Contents(config)
    event, size = contents.of("application/json", retain=False)
    assert event.MessageExpiryInterval == 60  # type: ignore[attr-defined]
    assert event.UserProperty == [("fleet", "north"), ("a", "b")]  # type: ignore[attr-defined]
    packed = event.pack()  # type: ignore[no-untyped-call]
    assert packed == Properties.pack(event) and size == len(packed)  # type: ignore[no-untyped-call]
    assert event.pack() is packed, "made once, not for each message"  # type: ignore[no-untyped-call]
    assert contents.of("application/json", retain=False)[0] is event
    kept, _ = contents.of("application/json", retain=True)
    assert not hasattr(kept, "MessageExpiryInterval")
    assert of_will(config, "application/json").WillDelayInterval == 5  # type: ignore[attr-defined]
    assert packet_size("a/ü", size, b"12345") == 9 + 4 + size + 5
    plain, _ = Contents(MqttConfig()).of("application/json", retain=False, alias=3)
    assert plain.TopicAlias == 3  # type: ignore[attr-defined]
    assert not hasattr(plain, "UserProperty") and not hasattr(plain, "MessageExpiryInterval")
