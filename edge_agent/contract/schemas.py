"""JSON Schemas of the payloads, from their types.

They are open: a field that they do not name is allowed, as a newer agent may send more. Only keywords are used that mean the same in
draft 2020-12 and in draft-07, which AsyncAPI builds on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from edge_agent.contract.published import CHANNELS, Message

DEFINITIONS = "#/$defs/"
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
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "anyOf": [{"$ref": DEFINITIONS + message.name} for message in messages],
        "$defs": {**by_name(messages, DEFINITIONS), **_by_urn(messages), **types(messages, DEFINITIONS)},
    }


def by_name(messages: Iterable[Message], at: str) -> dict[str, dict[str, Any]]:
    """The schema of each message; what it refers to is to be found ``at``."""
    return {message.name: _schema(message, at) for message in messages}


def types(messages: Iterable[Message], at: str) -> dict[str, dict[str, Any]]:
    """The schemas of all types that occur in the messages, by name."""
    made = [kind for message in messages for kind in (message.payload, message.data) if kind is not None]
    _, found = TypeAdapter.json_schemas(
        [(kind.__name__, "validation", TypeAdapter(kind)) for kind in dict.fromkeys(made)],
        ref_template=at + "{model}",
        schema_generator=_Plain,
    )
    definitions: dict[str, dict[str, Any]] = found["$defs"]
    return definitions


def _schema(message: Message, at: str) -> dict[str, Any]:
    reference = {"$ref": at + message.payload.__name__}
    if message.data is None:
        return reference
    properties: dict[str, Any] = {name: {"const": value} for name, value in message.fixed.items()}
    properties["data"] = {"$ref": at + message.data.__name__}
    return {"allOf": [reference, {"properties": properties}]}


def _by_urn(messages: Iterable[Message]) -> dict[str, dict[str, Any]]:
    found: dict[str, list[Mapping[str, str]]] = {}
    for message in messages:
        if (urn := message.fixed.get("dataschema")) is not None:
            found.setdefault(urn, []).append({"$ref": DEFINITIONS + message.data.__name__})
    return {urn: {"anyOf": choices} for urn, choices in found.items()}
