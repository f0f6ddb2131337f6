"""JSON Schemas of the payloads, from their types.

They are open: a field that they do not name is allowed, as a newer agent may send more. Only keywords are used that mean the same in
draft 2020-12 and in draft-07, which AsyncAPI builds on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from edge_agent.commands.catalogue import COMMANDS, Ask
from edge_agent.contract.commands import ANSWERS, REQUESTS
from edge_agent.contract.message import Message
from edge_agent.contract.published import CHANNELS

_AT = "#/$defs/"
_DRAFT = "https://json-schema.org/draft/2020-12/schema"
PUBLISHED = [message for channel in CHANNELS for message in channel.messages]


class _Plain(GenerateJsonSchema):
    """Without a title for each field: it would only repeat the name. A tuple is a list, as draft-07 has no ``prefixItems``."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def tuple_schema(self, schema: Any) -> dict[str, Any]:
        made = super().tuple_schema(schema)
        if "prefixItems" in made:
            made["items"], *_ = made.pop("prefixItems")
        return made


def messages() -> dict[str, Any]:
    """One JSON Schema (2020-12): any message that is published. Its ``$defs`` hold each by name."""
    return _any_of("everything that edge-agent publishes", PUBLISHED)


def events() -> dict[str, Any]:
    """One JSON Schema (2020-12): any event. Its ``$defs`` hold each by name, and under each ``dataschema`` that of ``data``."""
    return _any_of("the events that edge-agent publishes", [each for each in PUBLISHED if "dataschema" in each.fixed])


def command_schemas() -> dict[str, Any]:
    """JSON Schemas (2020-12) of every command: what it takes and what it answers."""
    return {
        "$schema": _DRAFT,
        "commands": {
            command.name: {
                "description": command.about,
                "request": _alone(REQUESTS[command.name]),
                "answer": _alone(ANSWERS[command.name]),
            }
            for command in COMMANDS.values()
        },
    }


def _alone(message: Message) -> dict[str, Any]:
    named, types = describe([message], _AT)
    whole = named[message.name]
    if "$ref" in whole:
        whole = types.pop(whole["$ref"].removeprefix(_AT))
    return {**whole, "title": message.name, "$defs": types}


def _any_of(title: str, messages: Sequence[Message]) -> dict[str, Any]:
    named, types = describe(messages, _AT)
    data: dict[str, Any] = {}
    for message in messages:
        if (urn := message.fixed.get("dataschema")) is not None:
            choices = data.setdefault(urn, {"anyOf": []})["anyOf"]
            choices.append(named[message.name]["allOf"][1]["properties"]["data"])
    return {
        "$schema": _DRAFT,
        "title": title,
        "anyOf": [{"$ref": _AT + message.name} for message in messages],
        "$defs": {**named, **data, **types},
    }


def describe(messages: Sequence[Message], at: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of each message by its name; the types that they refer to by theirs, to be found below ``at``."""
    kinds = dict.fromkeys(kind for message in messages for kind in (message.payload, message.data) if kind is not None)
    references, found = TypeAdapter.json_schemas(
        [(kind, _mode(kind), TypeAdapter(kind)) for kind in kinds],
        ref_template=at + "{model}",
        schema_generator=_Plain,
    )
    named: dict[str, Any] = {}
    for message in messages:
        parts = [references[message.payload, _mode(message.payload)]]
        properties: dict[str, Any] = {name: {"const": value} for name, value in message.fixed.items()}
        if message.data is not None:
            properties[message.data_field] = references[message.data, _mode(message.data)]
        if properties:
            parts.append({"properties": properties})
        if message.also is not None:
            parts.append(message.also)
        named[message.name] = parts[0] if len(parts) == 1 else {"allOf": parts}
    return named, found["$defs"]


def _mode(kind: Any) -> Literal["validation", "serialization"]:
    """What we make has all its fields; what we are asked may leave out those that have a default."""
    asked = isinstance(kind, type) and issubclass(kind, Ask)
    return "validation" if asked else "serialization"
