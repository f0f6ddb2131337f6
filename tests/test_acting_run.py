"""From a token before a camera to a door: the real agent, a real broker, and a door that answers."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import cv2
import pytest
import yaml

from edge_agent.types import U8
from tests.agent_process import RunningAgent, write_config
from tests.code_fixtures import key_file, qr, scene, signed
from tests.mosquitto import broker, subscriber, wait_for

pytestmark = pytest.mark.slow
DOOR = {
    "id": "door",
    "topic": "building/door/set",
    "actions": {"open": {"payload": "OPEN", "says": "open"}, "close": {"payload": "CLOSE", "says": "closed"}},
    "safe": "close",
    "ack": {"topic": "building/door", "key": "state"},
    "ack_s": 60,
    "expiry_s": 60,
}
FPS = 3
"""Of the film: what is judged here is the way from a code to a door, and a detector need not run for more."""
RULE = {
    "name": "lab",
    "when": {"code": "token:lab"},
    "token": "lab",
    "actuator": "door",
    "action": "open",
    "hold_s": 600,
    "cool_down_s": 0,
}


def two_pictures(folder: Path, first: int, *pictures: U8) -> Path:
    """A film of three minutes that shows one picture, from frame ``first`` on another; both are on disk once."""
    film = folder / "film"
    film.mkdir()
    for name, picture in zip(("0000.png", f"{first:04}.png"), pictures, strict=True):
        cv2.imwrite(str(film / name), picture)
    for number in range(180 * FPS):
        if number not in (0, first):
            (film / f"{number:04}.png").hardlink_to(film / ("0000.png" if number < first else f"{first:04}.png"))
    return film


def test_a_token_opens_the_door_once_and_a_kill_closes_it(root: Path, tmp_path: Path) -> None:
    film = two_pictures(
        tmp_path, 6, scene(size=(640, 360)), scene((qr(signed("lab"), px=4), 300, 100), size=(640, 360))
    )
    with broker(tmp_path / "broker") as server, subscriber(server.port) as seen:
        tree = {
            "codes": {
                "key_files": [str(key_file(tmp_path))],
                "clock": "battery",
                "every_s": 0.2,
                "max_share": 1,
                "events": True,
            },
            "actuators": {"allow": ["building/"], "devices": [{**DOOR, "max_s": 600}]},
            "mqtt": {"host": "127.0.0.1", "port": server.port},
            "use_cases": {"touchless": {"rules": [RULE]}},
        }
        config = write_config(root, tmp_path, **tree)
        changed = yaml.safe_load(config.read_text(encoding="utf-8"))
        changed["cameras"][0] |= {"source": str(film), "fps": FPS}
        del changed["cameras"][0]["ground"]  # of another picture
        config.write_text(yaml.safe_dump(changed), encoding="utf-8")

        def commands() -> list[bytes]:
            return [bytes(message.payload) for message in seen.under("building/door/set")]

        def events(kind: str) -> list[dict[str, object]]:
            found = [json.loads(message.payload) for message in seen.under("/events/")]
            return [event["data"] for event in found if event["type"] == f"edge_agent.{kind}"]

        def answer() -> None:
            """The door says what it was last told to be."""
            state = {b"OPEN": "open", b"CLOSE": "closed"}[commands()[-1]]
            seen.publish("building/door", json.dumps({"state": state}).encode(), retain=False)

        def told(kind: str) -> bool:
            answer()
            return bool(events(kind))

        with RunningAgent(tmp_path, "-c", config, "--realtime") as agent:
            wait_for(lambda: commands() == [b"OPEN"], 90, what="the command")
            wait_for(lambda: events("touchless.action.started"), what="the event")
            answer()
            agent.end(signal.SIGKILL)
        before = len(events("codes.seen"))
        with RunningAgent(tmp_path, "-c", config, "--realtime") as agent:
            wait_for(lambda: b"CLOSE" in commands(), 90, what="the door to be closed")
            wait_for(lambda: told("device.actuator"), 60, what="what became of it")
            wait_for(lambda: told("touchless.action.ended"), what="the end of the one that was killed")
            # The same token is shown again, and asks for nothing: it was used up.
            wait_for(
                lambda: "spent" in [event["token"] for event in events("codes.seen")[before:]], 90, what="the token"
            )
            assert agent.end() == 0
            assert "Traceback" not in agent.log
    assert commands().count(b"OPEN") == 1
    assert events("device.actuator")[-1] == {"actuator": "door", "state": "made_safe", "reason": "agent_restart"}
    assert [event["reason"] for event in events("touchless.action.ended")] == ["agent_restart"]
    assert {event["token"] for event in events("codes.seen")} == {"valid", "spent"}
