"""Sparkplug B: what is sent, as the real protobuf reads it; births, deaths and rebirths at a real broker."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.config_mqtt import MqttConfig
from edge_agent.health.status import AgentStatus, CameraStatus, HostStatus
from edge_agent.sinks.sparkplug import BirthNumber, Reading, Session, Sparkplug, death
from edge_agent.sinks.sparkplug_payload import MAX_BYTES, Metric, NotSparkplug, encode, switched_on
from edge_agent.sparkplug_board import reading
from tests.agent_process import RunningAgent
from tests.command_fixtures import config_for
from tests.health_fixtures import agent_status
from tests.mosquitto import Subscriber, broker, subscriber, wait_for
from tests.sparkplug_host import REBIRTH, Host, Payload, decode, rebirth, value

NCMD = "spBv1.0/plant/NCMD/box"


def status(**cameras: str) -> AgentStatus:
    made = tuple(CameraStatus(name, state, fps=7.0, people=2) for name, state in cameras.items())  # type: ignore[arg-type]
    return agent_status(cameras=made)


# ---- payloads

metrics = st.one_of(
    st.builds(Metric, st.text(max_size=30), st.just("Int64"), st.integers(-(2**63), 2**63 - 1) | st.none()),
    st.builds(Metric, st.text(max_size=30), st.just("Double"), st.floats(allow_nan=False) | st.none()),
    st.builds(Metric, st.text(max_size=30), st.just("Boolean"), st.booleans() | st.none()),
    st.builds(Metric, st.text(max_size=30), st.just("String"), st.text(max_size=300) | st.none()),
)


@given(st.lists(metrics, max_size=5), st.integers(0, 2**63), st.integers(0, 255) | st.none())
def test_the_real_protobuf_reads_what_is_encoded(made: list[Metric], utc_ms: int, seq: int | None) -> None:
    message = decode(encode(made, utc_ms, seq))
    assert (message.timestamp, message.seq if message.HasField("seq") else None) == (utc_ms, seq)
    assert [(metric.name, value(metric)) for metric in message.metrics] == [(each.name, each.value) for each in made]


@given(st.lists(metrics, max_size=5))
def test_what_the_real_protobuf_encodes_is_read(made: list[Metric]) -> None:
    payload = decode(encode(made, 1, 1)).SerializeToString()
    last = {each.name for each in made if each.value is True and each.datatype == "Boolean"}
    assert switched_on(payload) == last


@given(st.binary(max_size=200))
def test_no_bytes_can_break_the_reader(payload: bytes) -> None:
    with suppress(NotSparkplug):
        switched_on(payload)


@given(st.data())
def test_a_command_that_is_cut_off_is_refused_or_harmless(data: Any) -> None:
    whole = rebirth()
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with suppress(NotSparkplug):
        assert switched_on(part) == set()


def test_bounds_of_what_is_read() -> None:
    many = Payload()
    for n in range(300):
        many.metrics.add(name=str(n), boolean_value=True)
    for payload in (many.SerializeToString(), bytes(MAX_BYTES + 1), b"\x12\xff\xff\xff\xff\x0f", b"\xff" * 11, b"\x0b"):
        with pytest.raises(NotSparkplug):
            switched_on(payload)
    assert switched_on(rebirth()) == {REBIRTH} and switched_on(rebirth(wanted=False)) == set()


# ---- a session


class Sent:
    """A session whose messages a host takes."""

    def __init__(self, number: int = 7) -> None:
        self.host = Host("plant", "box")
        self.session = Session("plant", "box", number, self.send)

    def send(self, topic: str, payload: bytes) -> None:
        self.host.take(topic, payload, qos=0, retained=False)


def test_births_then_only_what_changed() -> None:
    sent = Sent()
    sent.session.born(reading(status(door="delivering", till="starting")))
    assert sent.host.online and sent.host.numbers == [7] and set(sent.host.values) == {"", "door"}
    assert sent.host.values["door"]["People"] == 2 and sent.host.values[""]["Host/Temperature"] == 51.0
    sent.session.data(reading(status(door="delivering", till="starting")))
    assert sent.host.kinds == ["NBIRTH", "DBIRTH"], "nothing changed"
    now = status(door="delivering", till="starting")
    busy = replace(now.cameras[0], people=5)
    sent.session.data(reading(replace(now, cameras=(busy, now.cameras[1]), host=HostStatus())))
    assert sent.host.kinds[2:] == ["NDATA", "DDATA"]
    assert sent.host.values["door"]["People"] == 5 and sent.host.values[""]["Host/CPU"] is None


def test_a_camera_dies_and_comes_back() -> None:
    sent = Sent()
    sent.session.born(reading(status(door="delivering")))
    for state in ("stalled", "reconnecting", "delivering", "delivering"):
        sent.session.look(reading(status(door=state)))
        sent.session.data(reading(status(door=state)))
        assert ("door" in sent.host.values) is (state == "delivering")
    assert sent.host.kinds == ["NBIRTH", "DBIRTH", "DDEATH", "NDATA", "DBIRTH", "NDATA"]


def test_numbers_wrap_and_a_rebirth_begins_at_0_with_the_same_number() -> None:
    sent = Sent()
    sent.session.born(reading(status(door="delivering")))
    for n in range(600):
        camera = CameraStatus("door", "delivering", people=n % 2)
        sent.session.data(reading(agent_status(cameras=(camera,))))
    assert sent.host.kinds.count("DDATA") > 512
    sent.session.born(reading(status(door="delivering")))
    assert sent.host.numbers == [7, 7]


def test_names_and_types_do_not_depend_on_the_state() -> None:
    def shape(made: Reading) -> list[tuple[str, str]]:
        return [(each.name, each.datatype) for each in (*made.node, *made.devices[0].metrics)]

    bare = AgentStatus("s", "d", "1", "b", "c", 0.0, cameras=(CameraStatus("door", "starting"),))
    assert shape(reading(bare)) == shape(reading(status(door="delivering")))


def test_the_number_goes_on_over_restarts(tmp_path: Path) -> None:
    file = tmp_path / "n"
    assert [BirthNumber(file).next() for _ in range(3)] == [0, 1, 2]
    away = BirthNumber(file)
    assert away.next() == 3
    away.unused()
    assert away.next() == 3, "there was no CONNECT with it"
    file.write_bytes(b"255")
    numbers = BirthNumber(file)
    assert [numbers.next(), numbers.next()] == [0, 1]
    for broken in (b"", b"x", b"\xff\xfe"):
        file.write_bytes(broken)
        assert BirthNumber(file).next() == 0
    file.unlink()
    file.mkdir()
    numbers = BirthNumber(file)
    assert [numbers.next(), numbers.next()] == [0, 1], "also where it cannot be kept"


@pytest.mark.parametrize(
    "wrong", [{"group_id": ""}, {"group_id": "a/b"}, {"group_id": "a+"}, {}, {"group_id": "a", "x": 1}]
)
def test_what_cannot_be_in_a_topic_is_no_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="sparkplug"):
        MqttConfig(sparkplug=wrong)


# ---- at a real broker


@contextmanager
def node(port: int, folder: Path, **config: Any) -> Iterator[Sparkplug]:
    options = {"host": "127.0.0.1", "port": port, "reconnect_spread_s": 0, "sparkplug": {"group_id": "plant"}, **config}
    made = Sparkplug(
        MqttConfig(**options),
        client_id="edge-agent-site-box",
        device="box",
        state_dir=folder,
        read=lambda: reading(status(door="delivering")),
    )
    made.start()
    try:
        yield made
    finally:
        made.end()
        made.join(10)


def following(sub: Subscriber, node: str = "box") -> Callable[[], Host]:
    """The host after all that came so far."""
    host, taken = Host("plant", node), 0

    def now() -> Host:
        nonlocal taken
        for message in sub.messages[taken:]:
            host.take(message.topic, bytes(message.payload), qos=message.qos, retained=message.retain)
            taken += 1
        return host

    return now


@pytest.mark.slow
def test_birth_rebirth_and_a_death_by_its_own_hand(tmp_path: Path) -> None:
    with broker(tmp_path / "m") as server, subscriber(server.port) as sub:
        host = following(sub)
        with node(server.port, tmp_path):
            wait_for(lambda: "door" in host().values)
            for junk in (b"", b"\xff" * 50, rebirth(wanted=False)):
                sub.publish(NCMD, junk, retain=False)
            sub.publish("spBv1.0/plant/NCMD/other", rebirth(), retain=False)
            sub.publish(NCMD, rebirth(), retain=False)
            wait_for(lambda: host().numbers == [0, 0] and "door" in host().values)
        wait_for(lambda: not host().online)
        assert host().kinds == ["NBIRTH", "DBIRTH", "NBIRTH", "DBIRTH", "NDEATH"]


@pytest.mark.slow
def test_it_is_born_again_at_a_broker_that_was_away(tmp_path: Path) -> None:
    with broker(tmp_path / "m") as server, node(server.port, tmp_path) as made:
        wait_for(lambda: made.births == 1)
        server.kill()
        server.start()
        wait_for(lambda: made.births == 2)
        with subscriber(server.port) as sub:
            host = following(sub)
            sub.publish(NCMD, rebirth(), retain=False)
            wait_for(lambda: host().numbers == [1] and "door" in host().values)


@pytest.mark.slow
def test_a_broker_that_forbids_it_is_no_end(tmp_path: Path) -> None:
    acl = ["user box", "topic readwrite edge/#", "user all", "topic readwrite #"]
    secret = tmp_path / "password"
    secret.write_text("b")
    with broker(tmp_path / "m", users={"box": "b", "all": "a"}, acl=acl) as server:
        with subscriber(server.port, user=("all", "a")) as sub:
            with node(server.port, tmp_path, username="box", password_file=secret) as made:
                wait_for(lambda: made.births == 1)
            assert not sub.messages


@pytest.mark.slow
def test_an_agent_that_is_killed_is_dead_and_the_next_is_born(root: Path, tmp_path: Path, vtest_video: Path) -> None:
    with broker(tmp_path / "m") as server, subscriber(server.port) as sub:
        mqtt = {"sparkplug": {"group_id": "plant", "edge_node_id": "Line 7"}, "heartbeat_s": 1}
        config = config_for(root, tmp_path, server, mqtt=mqtt)
        host = following(sub, "Line 7")
        with RunningAgent(tmp_path, "-c", config, "--realtime") as agent:
            wait_for(lambda: "DDATA" in host().kinds, 80, "data of a camera")
            assert host().values[""]["Model/Name"].startswith("person-")
            agent.end(signal.SIGKILL)
            wait_for(lambda: not host().online, what="NDEATH after a kill")
        with RunningAgent(tmp_path, "-c", config, "--realtime") as agent:
            wait_for(lambda: host().numbers == [0, 1], 80, "the next birth")
            agent.end()
        wait_for(lambda: not host().online and host().kinds[-1] == "NDEATH")


def test_a_death_of_an_earlier_session_is_known_to_be_old() -> None:
    sent = Sent(9)
    sent.session.born(reading(status(door="delivering")))
    sent.host.take("spBv1.0/plant/NDEATH/box", death(8), qos=1, retained=False)
    assert sent.host.online
    sent.host.take("spBv1.0/plant/NDEATH/box", death(9), qos=1, retained=False)
    assert not sent.host.online
