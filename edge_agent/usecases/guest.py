"""Guest: who shows a token that they were given wants to be known. Nobody is recognised by face, body or clothes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from edge_agent.acting import Actuators
from edge_agent.config_acting import GuestRule
from edge_agent.payload import Count
from edge_agent.types import Event, Token
from edge_agent.usecases.action_use_case import ActionUseCase
from edge_agent.usecases.minutes import Minute
from edge_agent.usecases.rules import RuleAtWork
from edge_agent.usecases.scene import Place, Scene
from edge_agent.usecases.spells import RuleFacts, Teller

_MOST = 1000


class GuestRecognised(RuleFacts):
    """A guest shows who they are. ``holder`` is what the token was made for, a pseudonym if the issuer is wise."""

    token: Annotated[str, Field(description="id of the token")]
    holder: Annotated[str, Field(description="whom or what it was made for; may be empty")]


class GuestRuleMinute(TypedDict):
    """One rule in one minute."""

    guests: Annotated[Count, Field(description="that were recognised")]


class GuestMinute(TypedDict):
    """Guests of one minute."""

    rules: Annotated[dict[str, GuestRuleMinute], Field(description="by name of the rule")]
    events_held_back: Annotated[Count, Field(description="events that the rate cap held back")]


class GuestAtWork(RuleAtWork[GuestRule]):
    """One rule. Of whoever shows no token nothing is kept."""

    def __init__(self, rule: GuestRule, place: Place, teller: Teller, actuators: Actuators) -> None:
        super().__init__(rule, place, teller)
        self._actuators = actuators
        self._told: dict[str, float] = {}
        self._asked: dict[int, Token] = {}
        self._happened: dict[str, int] = {}

    def update(self, scene: Scene) -> Iterator[Event]:
        """See ``RuleAtWork``."""
        self._happened = {}
        for token in self.place.codes.tokens(self.rule.token):
            last = self._told.get(token.ident)
            if last is None or scene.t - last >= self.rule.again_after_s:
                self._told.pop(token.ident, None)
                self._told[token.ident] = scene.t
                self._asked[self._actuators.order(None, token=token)] = token
        while len(self._told) > _MOST:
            del self._told[next(iter(self._told))]
        for order, token in list(self._asked.items()):
            result = self._actuators.result(order)
            if result is None:
                continue
            del self._asked[order]
            if result.ok:
                self._happened["guests"] = self._happened.get("guests", 0) + 1
                facts = {"rule": self.rule.name, "token": token.ident, "holder": token.holder}
                yield from self.teller.fact("recognised", scene.now, facts)

    def levels(self) -> Mapping[str, float]:
        """See ``RuleAtWork``."""
        return {}

    def happened(self) -> Mapping[str, int]:
        """See ``RuleAtWork``."""
        return self._happened

    def minute(self, minute: Minute, prefix: str) -> GuestRuleMinute:
        """See ``RuleAtWork``."""
        return {"guests": minute.times(f"{prefix}guests")}


class Guest(ActionUseCase[GuestRule]):
    """Guests who want to be known. Event: ``recognised``."""

    name = "guest"
    at_work = GuestAtWork
