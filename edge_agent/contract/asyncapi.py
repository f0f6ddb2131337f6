"""The AsyncAPI 3.0 document of what the agent publishes and what may be asked of it, from the tables and types of the JSON Schemas."""

from __future__ import annotations

import re
from typing import Any

import yaml

from edge_agent.commands.catalogue import COMMANDS, Command
from edge_agent.contract.commands import ANSWERS, REFUSAL, REQUESTS
from edge_agent.contract.message import Channel, Message
from edge_agent.contract.published import CHANNELS
from edge_agent.contract.schemas import PUBLISHED, describe

_BINDING = {"bindingVersion": "0.2.0"}
_ROOT = "edge/v1/{site}/{device}/"
_SCHEMAS = "#/components/schemas/"
_PARAMETERS = {
    "site": "`site` of the configuration",
    "device": "`device` of the configuration",
    "camera": "`id` of a camera",
    "use_case": "the use case",
    "what": "what happened to the box",
    "sensor": "`id` of a sensor",
    "command": "name of the command",
}
_REPLY_TO = "$message.header#/responseTopic"
_CORRELATION = "$message.header#/correlationData"
_MQTT5 = {
    "responseTopic": {"type": "string", "description": "where the answer is wanted, of what the agent may answer to"},
    "correlationData": {"type": "string", "description": "comes back with the answer"},
}
_ABOUT = """\
What a device publishes over MQTT, and the commands that it takes. Version 1 is the `v1` in the topics.

Delivery of events and metrics is at least once, in order for each camera: de-duplicate events on `id`. A gap in `sequence`
is explained by an event `outbox_drops`, `dead_letter` or `outbox_recreated`. Status, heartbeat and model state are sent as of
now and never replayed.

A command is answered at the response topic of MQTT 5, or where there is none at `commands/{command}/reply`. The device does only what
its configuration allows (`commands.allow`), once for each `id`.

Ignore fields that you do not know, and take an unknown value of an enumeration for "something else": both may come with any
version of the agent. Where a field goes, or changes its type, unit or meaning, the number at the end of an event's
`dataschema` goes up; for other messages it is the `v1` of the topics.
"""


def document() -> dict[str, Any]:
    """The whole, as what YAML and JSON have in common."""
    every = [*PUBLISHED, *REQUESTS.values()]
    payloads, types = describe(every, _SCHEMAS)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "edge-agent",
            "version": "1",
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"broker": _server()},
        "channels": {
            **{channel.name: _channel(channel) for channel in CHANNELS},
            **{f"commands.{name}": _channel(_asked(command)) for name, command in COMMANDS.items()},
            "replies": {
                "address": None,
                "description": "answers to commands at the response topic that they name",
                "messages": _references("components", (*ANSWERS.values(), REFUSAL)),
            },
        },
        "operations": {
            **{f"publish.{channel.name}": _operation(channel) for channel in CHANNELS},
            **{f"receive.commands.{name}": _receive(command) for name, command in COMMANDS.items()},
        },
        "components": {
            "messages": {message.name: _message(message, payloads[message.name]) for message in every},
            "schemas": types,
        },
    }


def as_yaml() -> str:
    """The document as it stands in docs/."""
    text: str = yaml.dump(document(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


class _Dumper(yaml.SafeDumper):
    """Without anchors; text of several lines as a block."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, "|" if "\n" in data else None)


_Dumper.add_representer(str, _Dumper.represent_str)


def _server() -> dict[str, Any]:
    return {
        "host": "localhost:1883",
        "protocol": "mqtt",
        "protocolVersion": "5.0",
        "description": "`mqtt` of the configuration: also TLS and WebSocket; MQTT 3.1.1 where the broker knows no better",
        "bindings": {"mqtt": {"lastWill": {"topic": _ROOT + "status", "qos": 1, "retain": True}, **_BINDING}},
    }


def _channel(channel: Channel) -> dict[str, Any]:
    address = _ROOT + channel.address
    parameters: dict[str, dict[str, Any]] = {
        name: {"description": _PARAMETERS[name]} for name in re.findall(r"{(\w+)}", address)
    }
    if values := list(dict.fromkeys(message.last for message in channel.messages if message.last)):
        parameters[list(parameters)[-1]]["enum"] = values
    return {
        "address": address,
        "description": channel.what,
        "parameters": parameters,
        "messages": _references("components", channel.messages),
    }


def _references(where: str, messages: tuple[Message, ...]) -> dict[str, dict[str, str]]:
    return {message.name: {"$ref": f"#/{where}/messages/{message.name}"} for message in messages}


def _asked(command: Command) -> Channel:
    return Channel("", f"commands/{command.name}", command.about, (REQUESTS[command.name],))


def _operation(channel: Channel) -> dict[str, Any]:
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{channel.name}"},
        "bindings": {"mqtt": {"qos": 1, "retain": channel.retained, **_BINDING}},
    }


def _receive(command: Command) -> dict[str, Any]:
    channel = f"channels/commands.{command.name}"
    return {
        "action": "receive",
        "channel": {"$ref": f"#/{channel}"},
        "summary": command.about,
        "messages": list(_references(channel, (REQUESTS[command.name],)).values()),
        "bindings": {"mqtt": {"qos": 1, **_BINDING}},
        "reply": {
            "address": {"location": _REPLY_TO},
            "channel": {"$ref": "#/channels/replies"},
            "messages": list(_references("channels/replies", (ANSWERS[command.name],)).values()),
        },
    }


def _message(message: Message, payload: dict[str, Any]) -> dict[str, Any]:
    made = {
        "name": message.name,
        "summary": (message.data or message.payload).__doc__,
        "contentType": message.content_type,
        "payload": payload,
        "bindings": {"mqtt": dict(_BINDING)},
    }
    if message in REQUESTS.values():
        made |= {
            "headers": {"type": "object", "properties": _MQTT5},
            "correlationId": {"location": _CORRELATION},
            "bindings": {"mqtt": {**_MQTT5, **_BINDING}},
        }
    return made
