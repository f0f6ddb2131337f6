"""JSON Schemas of the payloads, from their types.

They are open: a field that they do not name is allowed, as a newer agent may send more. Only keywords are used that mean the same in
draft 2020-12 and in draft-07, which AsyncAPI builds on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from edge_agent.contract.published import CHANNELS, Message

_AT = "#/$defs/"
PUBLISHED = [message for channel in CHANNELS for message in channel.messages]


class _Plain(GenerateJsonSchema):
    """Without a title for each field: it would only repeat the name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def messages() -> dict[str, Any]:
    """One JSON Schema (2020-12): any message that is published. Its ``$defs`` hold each by name."""
    return _any_of("everything that edge-agent publishes", PUBLISHED)


def events() -> dict[str, Any]:
    """One JSON Schema (2020-12): any event. Its ``$defs`` hold each by name, and under each ``dataschema`` that of ``data``."""
    return _any_of("the events that edge-agent publishes", [each for each in PUBLISHED if "dataschema" in each.fixed])


def _any_of(title: str, messages: Sequence[Message]) -> dict[str, Any]:
    named, types = describe(messages, _AT)
    data: dict[str, Any] = {}
    for message in messages:
        if (urn := message.fixed.get("dataschema")) is not None:
            choices = data.setdefault(urn, {"anyOf": []})["anyOf"]
            choices.append(named[message.name]["allOf"][1]["properties"]["data"])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "anyOf": [{"$ref": _AT + message.name} for message in messages],
        "$defs": {**named, **data, **types},
    }


def describe(messages: Sequence[Message], at: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of each message by its name; the types that they refer to by theirs, to be found below ``at``."""
    kinds = dict.fromkeys(kind for message in messages for kind in (message.payload, message.data) if kind is not None)
    references, found = TypeAdapter.json_schemas(
        [(kind, "validation", TypeAdapter(kind)) for kind in kinds],
        ref_template=at + "{model}",
        schema_generator=_Plain,
    )
    named: dict[str, Any] = {}
    for message in messages:
        whole = references[message.payload, "validation"]
        if message.data is not None:
            properties: dict[str, Any] = {name: {"const": value} for name, value in message.fixed.items()}
            properties["data"] = references[message.data, "validation"]
            whole = {"allOf": [whole, {"properties": properties}]}
        named[message.name] = whole
    return named, found["$defs"]
