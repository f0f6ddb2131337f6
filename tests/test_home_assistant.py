"""The box in Home Assistant: what it is told, what it makes of our messages, and that it is taken back."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_agent.config import Config
from edge_agent.device_facts import model_state
from edge_agent.health.heartbeat import HeartbeatBuilder
from edge_agent.health.status import AgentStatus, CameraStatus, HardwareStatus
from edge_agent.outbox.messages import draft
from edge_agent.sinks.home_assistant import BIRTH_TOPIC, components, discovery_topic, document
from edge_agent.sinks.home_assistant_link import HomeAssistant as Link
from edge_agent.sinks.mqtt import MqttSink
from edge_agent.sinks.mqtt_identity import Identity
from edge_agent.types import Event, Metric, Telemetry
from tests.agent_process import RunningAgent
from tests.command_fixtures import config_for
from tests.health_fixtures import agent_status
from tests.home_assistant import HomeAssistant, check_discovery
from tests.mosquitto import Mosquitto, Subscriber, broker, subscriber, wait_for
from tests.mqtt_fixtures import delivering
from tests.outbox_fixtures import UTC, running
from tests.test_social_distancing import events, near, play, use_case

ROOT = "edge/v1/site/box/"


def configured(*cameras: str, home: bool | str = True, **change: Any) -> Config:
    values: dict[str, Any] = {
        "cameras": [{"id": camera, "source": "0"} for camera in cameras or ("cam",)],
        "mqtt": {"home_assistant": home, "reconnect_spread_s": 0},
        "use_cases": {"social_distancing": {}},
        **change,
    }
    return Config.model_validate(values)


def heartbeat(**change: Any) -> bytes:
    camera = CameraStatus("cam", "delivering", fps=6.98, latency_ms=34.2, age_s=0.1)
    return HeartbeatBuilder().build(agent_status(**{"cameras": (camera,), **change}), UTC)


def told(config: Config, *messages: tuple[str, bytes]) -> HomeAssistant:
    """Home Assistant after our discovery, our status and these messages below our root."""
    home = HomeAssistant()
    home.take(discovery_topic(config, "box"), json.dumps(document(config, "box", "1", {})).encode())
    home.take(ROOT + "status", Identity("boot", "1", "box", lambda _: None).status("online", UTC), retained=True)
    for topic, payload in messages:
        home.take(ROOT + topic, payload)
    return home


def event_message(event: Event) -> tuple[str, bytes]:
    made = draft(event, site="site", device="box", boot_id="b")
    return made.topic, made.payload(1, clock_ok=True)


# ---- what it is told


def test_the_message_is_as_home_assistant_wants_it() -> None:
    config = configured("door", "till", sensors=[{"id": "fridge", "unit": "°C", "file": "/x"}])
    made = check_discovery(discovery_topic(config, "box"), json.dumps(document(config, "box", "1", {})).encode())
    assert {"connectivity", "door_fps", "till_violation", "till_violation_event", "sensor_fridge"} <= set(
        made["components"]
    )
    assert discovery_topic(config, "box") == "homeassistant/device/edge-agent_site_box/config"


def test_it_is_off_unless_switched_on_and_takes_another_prefix() -> None:
    assert (
        discovery_topic(configured(home=False), "box")
        == ""
        == discovery_topic(Config(cameras=configured().cameras), "box")
    )
    assert discovery_topic(configured(home="ha/x"), "box").startswith("ha/x/device/")
    for wrong in ("", "/", "a/", "/a", "a#", "a+b", "$SYS/x", 3):
        with pytest.raises(ValueError, match="home_assistant"):
            configured(home=wrong)  # type: ignore[arg-type]


def test_only_what_runs_is_told() -> None:
    bare = components(configured("door", use_cases={}), "box")
    assert not [name for name in bare if "violation" in name or "people" in name]
    some = components(configured("door", "till", use_cases={"social_distancing": {"cameras": ["till"]}}), "box")
    assert [name for name in some if "violation" in name] == ["till_violation", "till_violation_event"]


def test_names_that_home_assistant_does_not_take_stay_apart() -> None:
    config = configured("a.b", "a_b", site="north.1")
    topic = discovery_topic(config, "box.7")
    check_discovery(topic, json.dumps(document(config, "box.7", "1", {})).encode())
    assert topic != discovery_topic(configured(site="north_1"), "box_7")
    assert len([name for name in components(config, "box.7") if name.endswith("_fps")]) == 2


# ---- what it makes of our messages


def test_a_heartbeat_fills_the_sensors() -> None:
    states = told(
        configured(), ("heartbeat", heartbeat()), ("model", json.dumps(model_state(agent_status().model)).encode())
    ).states
    expected = {"cam_fps": "7.0", "cam_state": "delivering", "cam_problem": "off", "temperature": "51", "disk": "20480"}
    expected |= {"health": "ok", "model": "person-n 1.0.0", "connectivity": "on", "throttled": "off", "waiting": "3"}
    assert {name: states[name] for name in expected} == expected
    assert states["cam_people"] == "unknown"


def test_what_is_not_known_is_unknown_and_what_is_wrong_shows() -> None:
    bad = agent_status(
        cameras=(CameraStatus("cam", "delivering", view="black", fps=5.0),),
        hardware=HardwareStatus(throttled=("power",)),
    )
    states = told(configured(), ("heartbeat", HeartbeatBuilder().build(bad, UTC))).states
    assert states["temperature"] == states["power"] == "unknown"
    assert (states["cam_problem"], states["throttled"]) == ("on", "on")
    gone: AgentStatus = agent_status(cameras=())
    states = told(configured(), ("heartbeat", HeartbeatBuilder().build(gone, UTC))).states
    assert (states["cam_state"], states["cam_fps"], states["cam_problem"]) == ("unknown", "0", "on")


def test_a_violation_is_on_until_the_last_episode_ended() -> None:
    made = [event_message(event) for event in events(play(use_case(), near(14.0), 24))]
    home = told(configured(), made[0])
    assert home.states["cam_violation"] == "on"
    for message in made[1:]:
        home.take(ROOT + message[0], message[1])
    assert home.states["cam_violation"] == "off"
    assert [event["event_type"] for event in home.events] == ["started", "updated", "ended"]
    assert len({event["episode"] for event in home.events}) == 1


def test_two_episodes_at_once_are_one_state() -> None:
    def scene(t: float) -> Any:
        away = 1.5 if t < 12 else 9.0
        return {1: (0.0, 0.0), 2: (1.5, 0.0), 3: (40.0, 0.0), 4: (40.0 + away, 0.0)}

    made = [event_message(event) for event in events(play(use_case(), scene, 30))]
    home, seen = told(configured()), []
    for topic, payload in made:
        home.take(ROOT + topic, payload)
        seen.append((json.loads(payload)["type"].split(".")[-1], home.states["cam_violation"]))
    assert [state for phase, state in seen if phase == "ended"] == ["on", "off"]


def test_what_a_crash_left_open_is_off_again() -> None:
    topic, payload = event_message(events(play(use_case(), near(14.0), 10, close=False))[0])
    crashed = json.loads(payload)
    crashed["type"] = crashed["type"].replace("started", "ended")
    crashed["data"] |= {"reason": "agent_restart", "ended": "2026-01-31T12:00:00.000Z"}  # as the outbox does
    home = told(configured(), (topic, payload), (topic, json.dumps(crashed).encode()))
    assert crashed["data"]["open_episodes"] == 1 and home.states["cam_violation"] == "off"


def test_minutes_and_other_sensors() -> None:
    config = configured(sensors=[{"id": "fridge", "unit": "°C", "file": "/x"}, {"id": "door", "file": "/y"}])
    minute = next(m for m in play(use_case(), near(14.0), 70) if isinstance(m, Metric))
    cold, open_door = Telemetry("fridge", UTC, 4.5, "°C", "good"), Telemetry("door", UTC, True, "", "good")
    messages = []
    for made in (minute, cold, open_door):
        row = draft(made, site="site", device="box", boot_id="b")
        messages.append((row.topic, row.payload(None, clock_ok=True)))
    states = told(config, *messages).states
    assert states["cam_people"] == "2" and states["sensor_fridge"] == "4.5" and states["sensor_door"] == "True"


def test_a_box_that_is_gone_is_unavailable_and_says_so() -> None:
    home = told(configured(), ("heartbeat", heartbeat()))
    home.take(ROOT + "status", Identity("boot", "1", "box", lambda _: None).status("offline", UTC), retained=True)
    assert home.states["connectivity"] == "off" and home.states["cam_fps"] == "unavailable"


# ---- telling it


class Told(list[tuple[str, bytes]]):
    """What a link sent; ``refused`` is what the broker says of it."""

    refused = ""
    beats = 0

    def send(self, topic: str, payload: bytes, done: Callable[[str], None]) -> bool:
        self.append((topic, payload))
        done(self.refused)
        return True

    def beat(self) -> None:
        self.beats += 1


def link(config: Config, folder: Path) -> tuple[Link, Told]:
    """One that was started and is connected."""
    sent = Told()
    made = Link(config.model_copy(update={"state_dir": folder}), "box", "1", sent.send, sent.beat)
    made.start()
    made.connected()
    made.look()
    return made, sent


def test_a_camera_that_went_is_removed_and_stays_so(tmp_path: Path) -> None:
    home = HomeAssistant()
    for cameras in (("door", "till"), ("door",), ("door",)):
        _, sent = link(configured(*cameras), tmp_path)
        home.take(*sent[0])
        assert ("till_fps" in home.components) is ("till" in cameras)
    link(configured("door", "till"), tmp_path)
    assert len(json.loads(link(configured("door", "till"), tmp_path)[1][0][1])["components"]["till_fps"]) > 1


def test_what_was_told_is_taken_back_once_the_broker_took_that(tmp_path: Path) -> None:
    topic = discovery_topic(configured(), "box")
    link(configured(), tmp_path)
    _, sent = link(configured(home="other"), tmp_path)
    assert sent[0] == (topic, b"") and sent[1][0].startswith("other/")
    off = configured(home=False).model_copy(update={"state_dir": tmp_path})
    refusing = Told()
    refusing.refused = "Not authorized"
    made = Link(off, "box", "1", refusing.send, refusing.beat)
    made.start()
    made.connected()
    made.look()
    assert [payload for _, payload in refusing] == [b""] and (tmp_path / "home-assistant.json").exists()
    _, sent = link(configured(home=False), tmp_path)
    assert [payload for _, payload in sent] == [b""] and not (tmp_path / "home-assistant.json").exists()
    _, sent = link(configured(home=False), tmp_path)
    assert sent == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"topic":1}', b'{"topic":"a","components":[1],"old":[]}', b"\xff"]
)
def test_a_file_that_cannot_be_read_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "home-assistant.json").write_bytes(content)
    _, sent = link(configured(), tmp_path)
    assert len(sent) == 1 and sent[0][1]
    assert json.loads((tmp_path / "home-assistant.json").read_bytes())["components"]["cam_fps"] == "sensor"


def test_a_disk_that_does_not_take_it_is_no_end(tmp_path: Path) -> None:
    (tmp_path / "home-assistant.json").mkdir()
    _, sent = link(configured(), tmp_path)
    assert len(sent) == 1 and sent[0][1]


def test_a_broker_that_hangs_up_on_it_is_left_in_peace(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sent: list[str] = []

    def hang_up(topic: str, payload: bytes, done: Callable[[str], None]) -> bool:
        sent.append(topic)  # and no answer ever comes
        return True

    made = Link(configured().model_copy(update={"state_dir": tmp_path}), "box", "1", hang_up, lambda: None)
    made.start()
    for _ in range(10):
        made.connected()
        made.look()
    assert len(sent) == 3 and caplog.text.count("hangs up") == 1
    made, answered = link(configured(), tmp_path)
    for _ in range(10):
        made.connected()
        made.look()
    assert len(answered) == 11


def test_a_change_from_afar_is_told(tmp_path: Path) -> None:
    made, sent = link(configured(), tmp_path)
    slow = configured()
    slow = slow.model_copy(update={"mqtt": slow.mqtt.model_copy(update={"heartbeat_s": 600.0}), "state_dir": tmp_path})
    made.changed(slow)
    made.look()
    assert json.loads(sent[-1][1])["components"]["cam_fps"]["expire_after"] == 1800


# ---- with a real broker


@contextmanager
def at(server: Mosquitto, folder: Path, home: bool = True, **options: Any) -> Iterator[tuple[Link, MqttSink]]:
    """A link over a real sink, connected; whoever has it calls ``look``, as the agent does."""
    sinks: list[MqttSink] = []

    def beat() -> None:
        sinks[0].publish_now("heartbeat", heartbeat(), retain=False)

    made = Link(
        configured(home=home).model_copy(update={"state_dir": folder}),
        "box",
        "1",
        lambda topic, payload, done: sinks[0].retain(topic, payload, done),  # noqa: PLW0108 - it is not there yet
        beat,
    )
    made.start()
    with running(folder / "o.db") as outbox:
        options = {"listeners": made.listeners, "reconnect_spread_s": 0.0, **options}
        with delivering(outbox, server.port, **options) as sink:
            sinks.append(sink)
            wait_for(lambda: sink.state().connected)
            made.connected()
            yield made, sink


def looked(link: Link) -> bool:
    link.look()
    return True


def config_messages(sub: Subscriber) -> list[bytes]:
    return [bytes(message.payload) for message in sub.under("/config")]


@pytest.mark.slow
def test_it_hears_that_home_assistant_came_and_survives_a_new_broker(tmp_path: Path) -> None:
    with broker(tmp_path / "m") as server, at(server, tmp_path) as (link, sink):
        with subscriber(server.port) as sub:
            wait_for(lambda: config_messages(sub))
            sub.publish(BIRTH_TOPIC, b"online", retain=False)
            wait_for(lambda: looked(link) and len(config_messages(sub)) > 1 and sub.under("/heartbeat"))
        server.kill()
        server.start()  # it has forgotten everything
        with subscriber(server.port) as sub:
            wait_for(lambda: sink.state().connects > 1 and sink.state().connected)
            link.connected()
            wait_for(lambda: config_messages(sub))
        with subscriber(server.port) as late:
            wait_for(lambda: config_messages(late))
            assert late.under("/config")[0].retain
            assert "cam_fps" in HomeAssistant(*late.messages).components


@pytest.mark.slow
def test_where_it_is_switched_off_the_broker_forgets_it(tmp_path: Path) -> None:
    with broker(tmp_path / "m") as server, subscriber(server.port) as sub:
        with at(server, tmp_path) as (link, _):
            wait_for(lambda: looked(link) and config_messages(sub))
        with at(server, tmp_path, home=False) as (link, _):
            wait_for(lambda: looked(link) and not (tmp_path / "home-assistant.json").exists())
        wait_for(lambda: config_messages(sub)[-1] == b"")
        with subscriber(server.port) as late:
            wait_for(lambda: late.under("/status"))
            assert not config_messages(late)


@pytest.mark.slow
def test_a_broker_that_forbids_it_takes_events_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    acl = ["user box", f"topic readwrite {ROOT}#", "user all", "topic read #"]
    with (
        broker(tmp_path / "m", users={"box": "b", "all": "a"}, acl=acl) as server,
        subscriber(server.port, user=("all", "a")) as sub,
    ):
        secret = tmp_path / "password"
        secret.write_text("b")
        with at(server, tmp_path, username="box", password_file=secret) as (link, sink):
            wait_for(lambda: looked(link) and "does not take" in caplog.text)
            assert sink.state().connected and "Not authorized" in sink.state().last_error
            assert sink.publish_now("heartbeat", heartbeat(), retain=False)
            wait_for(lambda: sub.under("/heartbeat"))
        assert not config_messages(sub)


@pytest.mark.slow
def test_an_agent_shows_up_and_what_goes_is_removed(root: Path, tmp_path: Path, vtest_video: Path) -> None:
    with broker(tmp_path / "m") as server, subscriber(server.port) as sub:
        video = {"source": str(vtest_video), "fps": 7, "max_fps": 2}
        both = [{"id": "hall", **video}, {"id": "till", **video}]

        def config(cameras: list[dict[str, Any]]) -> Path:
            return config_for(root, tmp_path, server, cameras=cameras, mqtt={"home_assistant": True, "heartbeat_s": 1})

        home = HomeAssistant()
        taken = 0

        def states() -> dict[str, str]:
            nonlocal taken
            for message in sub.messages[taken:]:
                home.take(message.topic, bytes(message.payload), retained=message.retain)
                taken += 1
            return home.states

        with RunningAgent(tmp_path, "-c", config(both), "--realtime") as agent:
            wait_for(lambda: states().get("till_state") == "delivering", 90, "a camera in Home Assistant")
            assert states()["connectivity"] == "on" and states()["model"].startswith("person-")
            agent.end(signal.SIGKILL)
            wait_for(lambda: states()["connectivity"] == "off", what="offline after a kill")
            assert states()["hall_fps"] == "unavailable"
        with RunningAgent(tmp_path, "-c", config(both[:1]), "--realtime") as agent:
            wait_for(lambda: states()["connectivity"] == "on" and "till_fps" not in states(), 90, "one camera less")
            agent.end()
