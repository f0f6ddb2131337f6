"""Devices are commanded at once or never, and end in their safe state whatever is lost, late, killed or damaged."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from edge_agent.acting import Rehearsal, Result
from edge_agent.actuators.answers import says
from edge_agent.actuators.desk import ActuatorDesk, Told
from edge_agent.config_actuators import ActuatorConfig
from edge_agent.errors import TokenRefused
from edge_agent.types import Token
from tests.code_fixtures import valid

RUNS = 300
MEMORY = Path("/dev/shm")
DOOR = ActuatorConfig.model_validate(
    {
        "id": "door",
        "topic": "site/door/set",
        "actions": {"open": {"payload": "OPEN", "says": "open"}, "close": {"payload": "CLOSE", "says": "closed"}},
        "safe": "close",
        "ack": {"topic": "site/door", "key": "state"},
        "ack_s": 2,
        "expiry_s": 3,
        "max_s": 20,
    }
)
LAMP = ActuatorConfig.model_validate(
    {"id": "lamp", "topic": "site/lamp", "actions": {"on": {"payload": "1"}, "off": {"payload": "0"}}, "safe": "off"}
)


class World:
    """A door and a lamp at a broker, and the desk; time is what the test says."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.rng, self.t = random.Random(seed), 0.0
        self.connected, self.loss, self.deaf = True, 0.0, False
        self.door, self.opened_at = "closed", [0.0][:0]
        self.sent: list[tuple[float, str]] = []
        self.told: list[Mapping[str, Any]] = []
        self.spent: list[str] = []
        self._coming: list[tuple[float, str]] = []
        self._path = folder / f"{seed}.db"
        self.start()

    def start(self) -> None:
        self.desk = ActuatorDesk(
            [DOOR, LAMP], self._path, send=self._send, spend=self._spend, tell=self.told.append, clock=lambda: self.t
        )

    def _spend(self, token: Token) -> None:
        if token.ident in self.spent:
            raise TokenRefused("spent")
        self.spent.append(token.ident)

    def _send(self, topic: str, payload: bytes, expiry_s: int, done: Told) -> bool:
        if not self.connected:
            return False
        self.sent.append((self.t, payload.decode()))
        if self.rng.random() >= self.loss:
            done("nobody_listens" if self.deaf else "")
            if topic == DOOR.topic and not self.deaf:
                after = max([self.t, *(when for when, _ in self._coming)])  # a broker keeps the order of a topic
                self._coming.append((after + self.rng.uniform(0, 0.5), payload.decode()))
        return True

    def go(self, seconds: float, step: float = 0.1) -> None:
        until = self.t + seconds
        while self.t < until - 1e-9:
            self.t += step
            for command in [command for command in self._coming if command[0] <= self.t]:
                self._coming.remove(command)
                self.door = {"OPEN": "open", "CLOSE": "closed"}[command[1]]
                if self.door == "open":
                    self.opened_at.append(self.t)
                if self.rng.random() >= self.loss:
                    self.desk.take("site/door", f'{{"state": "{self.door}", "battery": 90}}'.encode())
            self.desk.step()


def outcome(world: World, order: int, seconds: float = 6.0) -> Result | None:
    world.go(seconds)
    return world.desk.result(order)


def test_what_the_device_says_it_did_is_the_answer(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert outcome(world, world.desk.order("door", "open")) == Result(True, "acknowledged")
    assert world.door == "open"
    assert outcome(world, world.desk.make_safe("door")) == Result(True, "acknowledged")
    assert (world.door, world.told) == ("closed", [])
    world.go(60)
    assert [payload for _, payload in world.sent] == ["OPEN", "CLOSE"]


def test_without_a_connection_nothing_is_sent_and_nothing_comes_later(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.connected = False
    assert outcome(world, world.desk.order("door", "open")) == Result(False, "not_connected")
    world.go(3600, 1.0)
    world.connected = True
    world.go(60)
    assert "OPEN" not in [payload for _, payload in world.sent]
    assert world.door == "closed"


def test_a_device_that_does_not_answer_is_made_safe_until_it_does(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.loss = 1.0
    assert outcome(world, world.desk.order("door", "open")) == Result(False, "no_answer")
    world.go(100)
    tries = [payload for _, payload in world.sent]
    assert tries[0] == "OPEN" and set(tries[1:]) == {"CLOSE"} and 4 <= len(tries) <= 12
    assert [facts["state"] for facts in world.told] == ["not_safe"]
    world.loss = 0.0
    world.go(60)
    assert [(facts["state"], facts["reason"]) for facts in world.told[1:]] == [("made_safe", "no_answer")]
    sent = len(world.sent)
    world.go(300, 1.0)
    assert len(world.sent) == sent


def test_out_of_its_safe_state_for_too_long_it_is_brought_back(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.desk.order("door", "open")
    world.go(19)
    assert world.door == "open"
    world.go(4)
    assert world.door == "closed"
    assert [(facts["state"], facts["reason"]) for facts in world.told] == [("made_safe", "too_long")]


def test_after_a_kill_the_next_start_makes_it_safe(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.desk.order("door", "open")
    world.go(3)
    assert world.door == "open"
    world.start()
    world.go(3)
    assert world.door == "closed"
    assert [(facts["state"], facts["reason"]) for facts in world.told] == [("made_safe", "agent_restart")]
    world.start()
    world.go(3)
    assert [payload for _, payload in world.sent] == ["OPEN", "CLOSE"]


def test_a_damaged_book_makes_every_device_safe(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.desk.order("door", "open")
    world.go(3)
    (tmp_path / "0.db").write_bytes(b"no database, but long enough to be taken for one" * 50)
    world.start()
    world.go(3)
    assert world.door == "closed" and {facts["actuator"] for facts in world.told} == {"door", "lamp"}


def test_what_cannot_be_written_down_is_not_done(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    world = World(blocked)
    world.go(10)  # nothing is known of them: made safe
    world.sent.clear()
    assert outcome(world, world.desk.order("door", "open")) == Result(False, "not_recorded")
    assert "OPEN" not in [payload for _, payload in world.sent]


def test_a_token_is_used_up_before_anything_is_commanded(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert outcome(world, world.desk.order("door", "open", valid())) == Result(True, "acknowledged")
    assert outcome(world, world.desk.order("door", "open", valid())) == Result(False, "token_spent")
    assert outcome(world, world.desk.order(None, token=valid(ident="11" * 8))) == Result(True, "acknowledged")
    assert [payload for _, payload in world.sent].count("OPEN") == 1


def test_where_nobody_listens_the_broker_tells(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.deaf = True
    assert outcome(world, world.desk.order("lamp", "on"), 1) == Result(False, "nobody_listens")
    world.deaf = False
    assert outcome(world, world.desk.order("lamp", "on"), 1) == Result(True, "acknowledged")


@pytest.mark.parametrize(("device", "action"), [("gate", "open"), ("door", "explode")])
def test_what_is_not_there_cannot_be_ordered(tmp_path: Path, device: str, action: str) -> None:
    world = World(tmp_path)
    assert outcome(world, world.desk.order(device, action), 1) == Result(False, "unknown")
    assert world.sent == []


def test_a_flood_of_orders_is_cut_off(tmp_path: Path) -> None:
    world = World(tmp_path)
    orders = [world.desk.order("lamp", "on") for _ in range(500)]
    world.go(1)
    results = [world.desk.result(order) for order in orders]
    assert results.count(Result(False, "too_many")) == 400
    assert len(world.desk._results) <= 1000


@pytest.mark.slow
def test_hundreds_of_runs_of_trouble_end_safe(tmp_path: Path) -> None:
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else tmp_path) as folder:  # thousands of times on disk
        _trouble(Path(folder), range(RUNS))


def _trouble(folder: Path, seeds: range) -> None:
    opened = killed = 0
    for seed in seeds:
        world = World(folder, seed)
        rng = world.rng
        ordered: list[float] = []
        for _ in range(rng.randint(3, 8)):
            world.connected, world.loss = rng.random() < 0.8, rng.choice([0.0, 0.0, 0.3, 1.0])
            if rng.random() < 0.7:
                world.desk.order("door", "open")
                ordered.append(world.t)
            if rng.random() < 0.3:
                world.desk.make_safe("door")
            world.go(rng.uniform(0.1, 8), 0.2)
            if rng.random() < 0.2:
                killed += 1
                world.start()
        world.connected, world.loss = True, 0.0
        world.go(70, 0.2)
        opened += len(world.opened_at)
        assert world.door == "closed", seed
        assert world.desk._astray == {}, seed
        for at in world.opened_at:
            assert any(at - 1.5 <= when <= at for when in ordered), seed  # none that was stale
    assert opened > len(seeds) and killed > len(seeds) / 2


def test_a_rehearsal_moves_nothing_and_grants_each_token_once() -> None:
    desk = Rehearsal()
    assert desk.result(desk.order("door", "open")) == Result(True, "acknowledged")
    assert desk.result(desk.order("door", "open", valid())) == Result(True, "acknowledged")
    assert desk.result(desk.order("door", "open", valid())) == Result(False, "token_spent")
    assert desk.result(desk.order(None, token=Token("expired"))) == Result(False, "token_expired")
    assert desk.result(desk.make_safe("door")) == Result(True, "acknowledged")


@pytest.mark.parametrize(
    ("payload", "key", "wanted", "fits"),
    [
        (b"open", None, "open", True),
        (b" open\n", None, "open", True),
        (b"opened", None, "open", False),
        (b"anything", None, None, True),
        (b'{"state": "open"}', "state", "open", True),
        (b'{"lock": {"open": true}}', "lock.open", True, True),
        (b'{"lock": {"open": true}}', "lock.open", False, False),
        (b'{"level": 5}', "level", 5.0, True),
        (b'{"level": 5}', "state", None, False),
        (b"[" * 100_000, "state", None, False),
        (b"\xff", None, None, False),
        (b"open" * 20_000, None, None, False),
    ],
)
def test_what_a_device_says(payload: bytes, key: str | None, wanted: Any, fits: bool) -> None:
    assert says(payload, key, wanted) is fits
