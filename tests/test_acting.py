"""Touchless, dispenser and guest on scripted scenes: who asks gets it once, only where it is safe, and everything closes again."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest

from edge_agent.acting import Result
from edge_agent.config_acting import DispenserConfig, GuestConfig, TouchlessConfig
from edge_agent.types import Code, Event, Metric, Output, Token, uuid7_factory
from edge_agent.usecases.dispenser import Dispenser
from edge_agent.usecases.guest import Guest
from edge_agent.usecases.scene import Places
from edge_agent.usecases.touchless import Touchless
from tests.code_fixtures import seen, valid
from tests.scene_fixtures import LEFT, MIDDLE, NOWHERE, RIGHT, Person, Thing, camera, observe

DOOR: dict[str, Any] = {
    "name": "door",
    "when": {"zone": "left", "for_s": 2},
    "actuator": "door",
    "action": "open",
    "hold_s": 4,
    "cool_down_s": 3,
}
KEYS: dict[str, Any] = {
    "name": "keys",
    "when": {"code": "token:keys"},
    "token": "keys",
    "clear": {"count": "person", "zone": "right", "at_most": 0, "for_s": 1},
    "taken": {"count": "key", "zone": "middle", "at_most": 0, "for_s": 1},
    "actuator": "flap",
    "action": "open",
    "clear_within_s": 6,
    "take_within_s": 8,
}


class Devices:
    """Devices that answer after a while, or with what the test says. ``log``: what was ordered when."""

    def __init__(self, delay_s: float = 0.3, trouble: Sequence[str] = ()) -> None:
        self.t, self.delay_s, self.trouble = 0.0, delay_s, list(trouble)
        self.log: list[tuple[float, str]] = []
        self.used: list[str] = []
        self._results: dict[int, tuple[float, Result]] = {}

    def order(self, actuator: str | None, action: str = "", token: Token | None = None) -> int:
        reason = "acknowledged"
        if token is not None:
            reason = "token_spent" if token.ident in self.used else reason
            self.used.append(token.ident)
        elif actuator is not None:
            self.log.append((self.t, action))
            reason = (self.trouble.pop(0) if self.trouble else "") or reason
        number = len(self._results) + 1
        self._results[number] = (self.t + self.delay_s, Result(reason == "acknowledged", reason))
        return number

    def make_safe(self, actuator: str) -> int:
        return self.order(actuator, "safe")

    def result(self, order: int) -> Result | None:
        at, result = self._results[order]
        return result if self.t >= at - 1e-9 else None


class Scene:
    """One use case on the camera of three zones."""

    def __init__(self, kind: Any, section: Any, rule: dict[str, Any], devices: Devices | None = None, fps: float = 10):
        place = camera()
        self.devices = devices or Devices()
        self.case = kind(
            section.model_validate({"rules": [rule]}),
            place,
            uuid7_factory(random.Random(1)),
            Places(place),
            self.devices,
        )
        self.fps, self.frame = fps, 0
        self.told: list[Output] = []

    @property
    def t(self) -> float:
        return self.frame / self.fps

    def go(
        self,
        seconds: float,
        people: Sequence[Person] = (),
        things: Sequence[Thing] = (),
        codes: Sequence[Code] = (),
        **more: Any,
    ) -> Scene:
        until = self.t + seconds
        while self.t < until - 1e-9:
            self.devices.t = self.t
            self.told += self.case.update(observe(self.t, people, things, codes=codes, **more))
            self.frame += 1
            codes = ()
        return self

    def events(self) -> list[Event]:
        return [event for event in self.told if isinstance(event, Event)]

    def results(self) -> list[tuple[str, str]]:
        return [(event.data["result"], event.data["reason"]) for event in self.events() if event.phase == "ended"]

    def orders(self) -> list[str]:
        return [action for _, action in self.devices.log]


def touchless(
    rule: dict[str, Any] | None = None, devices: Devices | None = None, fps: float = 10, **more: Any
) -> Scene:
    return Scene(Touchless, TouchlessConfig, {**(rule or DOOR), **more}, devices, fps)


def dispenser(devices: Devices | None = None, **more: Any) -> Scene:
    return Scene(Dispenser, DispenserConfig, {**KEYS, **more}, devices)


def shows(purpose: str = "keys", ident: str = "00112233aabbccdd", at: tuple[float, float] = (0.2, 0.5)) -> list[Code]:
    return [seen(f"token-{ident}", at, said=valid(purpose, ident))]


ASIDE = (0.65, 0.6)


def step_aside(scene: Scene, others: list[Person], things: Sequence[Thing] = ()) -> None:
    """Number 2 walks out of the right zone. Who only vanishes there may still be there, and nothing is clear."""
    for k in range(20):
        scene.go(0.1, [*others, (2, (0.8 - 0.0075 * k, 0.6))], things)


# ---- touchless


@pytest.mark.parametrize("fps", [2, 5, 15, 30])
def test_who_stays_long_enough_gets_the_door_once(fps: float) -> None:
    scene = touchless(fps=fps).go(1.5, [(1, LEFT)]).go(6, [(1, NOWHERE)])
    assert scene.orders() == []
    scene.go(20, [(2, LEFT)])
    assert scene.orders() == ["open", "safe"] and scene.results() == [("done", "done")]
    (opened, _), (closed, _) = scene.devices.log
    assert opened == pytest.approx(7.5 + 2, abs=1.6) and closed - opened == pytest.approx(4.3, abs=1.1)
    scene.go(3, [(2, NOWHERE)]).go(10, [(3, LEFT)])
    assert scene.orders() == ["open", "safe"] * 2
    started = scene.events()[0]
    assert started.type == "edge_agent.touchless.action.started"
    assert started.data["actuator"] == "door" and started.data["token"] is None and started.data["ended"] is None


def test_it_cools_down_first() -> None:
    scene = touchless(cool_down_s=30).go(10, [(1, LEFT)]).go(3, [(1, NOWHERE)]).go(5, [(2, LEFT)])
    assert scene.orders() == ["open", "safe"]


def test_the_interlock_must_be_so_and_stay_so() -> None:
    free = {"count": "person", "zone": "right", "at_most": 0}
    scene = touchless(only_if=free).go(5, [(1, LEFT), (2, RIGHT)])
    assert scene.orders() == [] and scene.results() == [("refused", "interlock")]
    step_aside(scene, [(1, NOWHERE)])
    scene.go(4, [(1, LEFT), (2, ASIDE)]).go(3, [(1, LEFT), (2, RIGHT)])
    assert scene.orders() == ["open", "safe"]
    assert scene.results()[1:] == [("failed", "interlock")]


def test_an_interlock_that_nobody_knows_is_not_so() -> None:
    stopped = {"sensor": "spindle", "below": 1.0}
    assert touchless(only_if=stopped).go(5, [(1, LEFT)]).orders() == []


@pytest.mark.parametrize("reason", ["not_connected", "no_answer", "nobody_listens", "not_recorded"])
def test_what_fails_is_told_and_made_safe(reason: str) -> None:
    scene = touchless(devices=Devices(trouble=[reason])).go(10, [(1, LEFT)])
    assert scene.orders() == ["open", "safe"] and scene.results() == [("failed", reason)]


def test_a_door_that_does_not_close_is_no_success() -> None:
    scene = touchless(devices=Devices(trouble=["", "no_answer"])).go(10, [(1, LEFT)])
    assert scene.results() == [("failed", "not_closed")]


@pytest.mark.parametrize("reason", ["camera_gap", "shutdown"])
def test_at_the_end_it_is_made_safe(reason: str) -> None:
    scene = touchless().go(4, [(1, LEFT)])
    assert scene.orders() == ["open"] and scene.case.open_episodes == 1
    scene.told += scene.case.close(reason)
    assert scene.orders() == ["open", "safe"] and scene.results() == [("failed", reason)]
    assert scene.case.open_episodes == 0


def test_only_for_a_token_and_that_is_used_up() -> None:
    scene = touchless(token="lab").go(5, [(1, LEFT)])
    assert scene.orders() == [] and scene.events() == []
    scene.go(3, [(1, LEFT)], codes=shows("lab")).go(10, [(1, NOWHERE)])
    assert scene.orders() == ["open", "safe"]
    scene.go(3, [(2, LEFT)]).go(3, [(2, LEFT)], codes=shows("lab"))
    assert scene.orders() == ["open", "safe"] and scene.results()[1:] == [("refused", "token_spent")]


def test_minutes_count_what_was_asked_for_and_done() -> None:
    scene = touchless(devices=Devices(trouble=["", "", "no_answer"])).go(10, [(1, LEFT)]).go(9, [(1, NOWHERE)])
    scene.go(50, [(2, LEFT)])
    scene.told += scene.case.close("end_of_file")
    minutes = [output.data["rules"]["door"] for output in scene.told if isinstance(output, Metric)]
    assert sum(minute["actions"] for minute in minutes) == 2 and sum(minute["done"] for minute in minutes) == 1


# ---- dispenser

RUNS = 60
KEY: list[Thing] = [(50, "key", (0.5, 0.6))]


def test_a_key_is_handed_out_against_a_token() -> None:
    scene = dispenser().go(2, [(1, LEFT)], KEY).go(3, [(1, LEFT)], KEY, shows()).go(8, [(1, LEFT)])
    assert scene.orders() == ["open", "safe"] and scene.results() == [("done", "taken")]
    ended = scene.events()[-1]
    assert ended.type == "edge_agent.dispenser.dispense.ended" and ended.data["token"] == "00112233aabbccdd"


def test_while_somebody_is_in_the_way_it_waits_and_then_gives_up() -> None:
    blocked: list[Person] = [(1, LEFT), (2, RIGHT)]
    scene = dispenser().go(2, blocked, KEY).go(2, blocked, KEY, shows())
    step_aside(scene, [(1, LEFT)], KEY)
    scene.go(3, [(1, LEFT), (2, ASIDE)], KEY)
    assert scene.orders() == ["open"]
    scene = dispenser().go(2, blocked, KEY).go(12, blocked, KEY, shows())
    assert scene.orders() == [] and scene.results() == [("refused", "not_clear")]


def test_what_is_not_taken_is_closed_again() -> None:
    scene = dispenser().go(2, [(1, LEFT)], KEY).go(20, [(1, LEFT)], KEY, shows())
    assert scene.orders() == ["open", "safe"] and scene.results() == [("failed", "not_taken")]


@pytest.mark.parametrize("state", ["expired", "spent", "no_clock", "bad", "early"])
def test_a_token_that_is_not_valid_asks_for_nothing(state: str) -> None:
    codes = [seen("token-00", (0.2, 0.5), said=Token(state, "00", "keys"))]  # type: ignore[arg-type]
    assert dispenser().go(2, [(1, LEFT)], KEY).go(9, [(1, LEFT)], KEY, codes).told == []


def test_a_token_for_something_else_asks_for_nothing() -> None:
    assert dispenser().go(2, [(1, LEFT)], KEY).go(9, [(1, LEFT)], KEY, shows("door")).told == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["touchless", "dispenser"])
def test_many_random_scenes(kind: str) -> None:
    """Whatever happens: opened only by whoever may, only where it is surely clear, and closed at the end of each."""
    asked = opened = 0
    for seed in range(RUNS):
        rng = random.Random(seed)
        trouble = [rng.choice(["", "", "", "no_answer", "not_connected"]) for _ in range(20)]
        devices = Devices(rng.choice([0.0, 0.3, 2.0]), trouble)
        free = {"count": "person", "zone": "right", "at_most": 0}
        scene = touchless(devices=devices, fps=5, only_if=free) if kind == "touchless" else dispenser(devices)
        scene.fps = 5
        tokens: list[str] = []
        crowd: dict[float, bool] = {}
        for _ in range(rng.randint(4, 10)):
            people = [(1 + k, rng.choice([LEFT, NOWHERE, MIDDLE, RIGHT])) for k in range(rng.randint(0, 3))]
            people = [(ident, (x + 0.02 * ident, y)) for ident, (x, y) in people]
            things = KEY if rng.random() < 0.6 else []
            codes = shows(ident=f"{rng.randint(0, 3):016x}") if rng.random() < 0.5 else []
            tokens += [code.name.removeprefix("token-") for code in codes]
            begun, blocked = scene.t, any(place[0] > 0.7 for _, place in people)
            scene.go(rng.uniform(1, 8), people, things, codes)
            crowd |= {k / 5: blocked for k in range(round(begun * 5), scene.frame)}
        scene.told += scene.case.close("shutdown")
        log = devices.log
        for (at, action), (_, then) in itertools.pairwise([*log, (0.0, "end")]):
            if action == "open":
                opened += 1
                assert then == "safe", seed
                assert not crowd[round(at, 1)], seed
        phases = [event.phase for event in scene.events()]
        asked += phases.count("started")
        assert phases == ["started", "ended"] * (len(phases) // 2), seed
        assert scene.case.open_episodes == 0
        if kind == "dispenser":
            granted = [event.data["token"] for event in scene.events() if event.data.get("reason") == "taken"]
            assert len(granted) == len(set(granted)) and set(granted) <= set(tokens), seed
    assert opened > RUNS / 5 and asked > opened


# ---- guest


def test_a_guest_is_told_once_and_nobody_else_at_all() -> None:
    scene = Scene(Guest, GuestConfig, {"name": "lobby", "again_after_s": 60})
    token = valid("guest", once=False, holder="guest-17")
    code = [seen("token-00112233aabbccdd", (0.2, 0.5), said=token)]
    scene.go(5, [(1, LEFT)]).go(5, [(1, LEFT)], codes=code).go(5, [(1, LEFT)], codes=code)
    [event] = scene.events()
    assert event.type == "edge_agent.guest.recognised"
    assert event.data == {"rule": "lobby", "token": "00112233aabbccdd", "holder": "guest-17"}
    scene.devices.used.clear()
    scene.go(60).go(5, codes=code)
    assert len(scene.events()) == 2
    assert scene.go(5, codes=shows("door", "11" * 8)).events() == scene.events()


def test_a_guest_whose_token_is_refused_is_not_told() -> None:
    devices = Devices()
    devices.used.append("00112233aabbccdd")
    scene = Scene(Guest, GuestConfig, {"name": "lobby"}, devices)
    assert scene.go(5, codes=shows("guest")).events() == []
