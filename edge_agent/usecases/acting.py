"""Something asks for an action, and a device does it: the way of one action from the request to the device's safe state.

::

    waiting ─when─► authorise ─► clear ─► command ─► hold ─► close ─► cool down ─► waiting
                    (a token)   (surely)  (answered)  (done)  (answered)

Whatever goes wrong after the command, ``close`` follows; and where this use case is no more (a restart, a camera that is gone),
the desk of the actuators brings the device back by itself (``acting.Actuators``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from edge_agent.acting import Actuators
from edge_agent.config_acting import ActionRule
from edge_agent.config_sop import Condition
from edge_agent.payload import Count, Time
from edge_agent.types import Event, Token
from edge_agent.usecases.conditions import Test
from edge_agent.usecases.evidence import TOLERANCE_S, TRUE
from edge_agent.usecases.minutes import Minute
from edge_agent.usecases.rules import RuleAtWork
from edge_agent.usecases.scene import Place, Scene
from edge_agent.usecases.spells import Moment, Spell, SpellFacts, Teller

A = TypeVar("A", bound=ActionRule)
Stage = Literal["waiting", "authorise", "clear", "command", "hold", "close", "cool_down"]
AGAIN_S = 1.0
"""What asked for it must have been over for so long before it asks again: whoever stays asks once."""


class ActionFacts(SpellFacts):
    """A device is asked to do something; from the request until it is safe again."""

    actuator: Annotated[str, Field(description="the device")]
    action: Annotated[str, Field(description="what it is to do")]
    token: Annotated[str | None, Field(description="id of the token that allows it; null: none is needed")]


class ActionStarted(ActionFacts):
    """Somebody or something asks for it."""

    ended: Annotated[None, Field(description="not yet")]
    reason: NotRequired[Annotated[Literal["late"], Field(description="late: the rate cap had held it back")]]


class ActionEnded(ActionFacts):
    """It is over, and the device is safe again, or being made so."""

    ended: Annotated[Time, Field(description="when it ended")]
    result: NotRequired[
        Annotated[
            Literal["done", "refused", "failed"],
            Field(description="refused: nothing was commanded; left out where the agent was killed meanwhile"),
        ]
    ]
    reason: Annotated[
        str,
        Field(
            description="done, taken; refused: token_ and why (expired, spent, bad, no_clock, forgotten, ...), interlock, not_clear; "
            "failed: not_connected, no_answer, nobody_listens, refused, broker_too_old, not_recorded, too_many, unknown, interlock, "
            "not_taken, not_closed, camera_gap, end_of_file, shutdown, agent_restart"
        ),
    ]


class ActionRuleMinute(TypedDict):
    """One rule in one minute."""

    actions: Annotated[Count, Field(description="that were asked for")]
    done: Annotated[Count, Field(description="of these: done")]


class ActionMinute(TypedDict):
    """What was asked for and done in one minute."""

    rules: Annotated[dict[str, ActionRuleMinute], Field(description="by name of the rule")]
    events_held_back: Annotated[Count, Field(description="events that the rate cap held back")]


class ActionAtWork(RuleAtWork[A]):
    """One rule. ``what`` names its events."""

    what = "action"
    done_reason = "done"

    def __init__(self, rule: A, place: Place, teller: Teller, actuators: Actuators) -> None:
        super().__init__(rule, place, teller)
        self._actuators = actuators
        self._when = self._test(rule.when)
        self.stage: Stage = "waiting"
        self._spell = Spell([])
        self._order = 0
        self._token: Token | None = None
        self._asked_at: float | None = None
        self._since = 0.0
        self._result: tuple[str, str] = ("", "")
        self._happened: dict[str, int] = {}

    # What the kinds differ in

    def purpose(self) -> str | None:
        """Of the token that is needed."""
        return None

    def clear(self, scene: Scene) -> bool:
        """Whether it may be done now."""
        return True

    def clear_within_s(self) -> float:
        """How long to wait for that."""
        return 0.0

    def over(self, scene: Scene, held_s: float) -> str:
        """Why it is over, once it was done: ``done_reason`` or what went wrong; "" while it lasts."""
        return ""

    # The way of one action

    @property
    def open(self) -> int:
        """See ``RuleAtWork``."""
        return int(self._spell.on and bool(self._spell.ident))

    def update(self, scene: Scene) -> Iterator[Event]:
        """See ``RuleAtWork``."""
        self._happened = {}
        t = scene.t
        asks = self._when.ask(scene) == TRUE
        again = self._asked_at is None or t - self._asked_at > AGAIN_S
        if asks:
            self._asked_at = t
        if self.stage == "cool_down" and t - self._since >= self.rule.cool_down_s - TOLERANCE_S:
            self.stage = "waiting"
        if self.stage == "waiting" and asks and again:
            yield from self._begin(scene)
        before = None
        while before != self.stage and self.stage not in ("waiting", "cool_down"):
            before = self.stage
            yield from self._go_on(scene)

    def end(self, reason: str, t: float, utc: float) -> Iterator[Event]:
        """See ``RuleAtWork``."""
        if self.stage in ("command", "hold"):
            self._make_safe()
        if self.stage not in ("waiting", "cool_down"):
            yield from self._finish("failed", reason, (t, utc))
        self._asked_at = None

    def levels(self) -> Mapping[str, float]:
        """See ``RuleAtWork``."""
        return {}

    def happened(self) -> Mapping[str, int]:
        """See ``RuleAtWork``."""
        return self._happened

    def minute(self, minute: Minute, prefix: str) -> ActionRuleMinute:
        """See ``RuleAtWork``."""
        return {"actions": minute.times(f"{prefix}actions"), "done": minute.times(f"{prefix}done")}

    def _begin(self, scene: Scene) -> Iterator[Event]:
        purpose = self.purpose()
        self._token = None
        if purpose is not None:
            shown = self.place.codes.tokens(purpose)
            if not shown:  # asked for without one: nobody is meant
                self._asked_at = None
                return
            self._token = shown[-1]
        self._happened["actions"] = 1
        change = self._spell.update(True, scene.t, scene.t, scene.t)
        yield from self.teller.change(self.what, self._spell, change, scene.now, self._facts)
        if self._token is None:
            self._enter("clear", scene.t)
        else:
            self._order = self._actuators.order(None, token=self._token)
            self._enter("authorise", scene.t)

    def _go_on(self, scene: Scene) -> Iterator[Event]:
        if self.stage == "authorise":
            result = self._actuators.result(self._order)
            if result is not None and result.ok:
                self._enter("clear", scene.t)
            elif result is not None:
                yield from self._finish("refused", result.reason, scene.now)
        elif self.stage == "clear":
            if self.clear(scene):
                self._order = self._actuators.order(self.rule.actuator, self.rule.action)
                self._enter("command", scene.t)
            elif scene.t - self._since >= self.clear_within_s():
                reason = "not_clear" if self.clear_within_s() else "interlock"
                yield from self._finish("refused", reason, scene.now)
        elif self.stage == "command":
            result = self._actuators.result(self._order)
            if result is not None and result.ok:
                self._enter("hold", scene.t)
            elif result is not None:
                self._close("failed", result.reason, scene.t)
        elif self.stage == "hold":
            reason = self.over(scene, scene.t - self._since)
            if reason:
                self._close("done" if reason == self.done_reason else "failed", reason, scene.t)
        elif self.stage == "close":
            result = self._actuators.result(self._order)
            if result is not None:
                outcome = self._result if result.ok or self._result[0] != "done" else ("failed", "not_closed")
                yield from self._finish(*outcome, scene.now)

    def _close(self, result: str, reason: str, t: float) -> None:
        self._result = result, reason
        self._make_safe()
        self._enter("close", t)

    def _make_safe(self) -> None:
        self._order = self._actuators.make_safe(self.rule.actuator)

    def _finish(self, result: str, reason: str, now: Moment) -> Iterator[Event]:
        if result == "done":
            self._happened["done"] = 1
        self._result = result, reason
        change = self._spell.end(reason, now[0])
        yield from self.teller.change(self.what, self._spell, change, now, lambda: self._facts() | {"result": result})
        self._token = None
        self._enter("cool_down", now[0])

    def _enter(self, stage: Stage, t: float) -> None:
        self.stage, self._since = stage, t

    def _facts(self) -> dict[str, object]:
        return {
            "rule": self.rule.name,
            "actuator": self.rule.actuator,
            "action": self.rule.action,
            "token": self._token.ident if self._token is not None else None,
        }

    def _test(self, condition: Condition) -> Test:
        return Test(condition, self.place, {}, somebody=True)
