"""Pydantic's errors in the words of the configuration: what was given, what is allowed, how to mend it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from edge_agent.config import Config, redact
from edge_agent.config_tree import closest

KeyPath: TypeAlias = tuple[str | int, ...]

_SECRET_KEY = re.compile(r"pass|pwd|token|secret|credential|api_?key", re.IGNORECASE)
_SECRET_HELP: dict[KeyPath, str] = {
    (
        "mqtt",
    ): "put it in a file and name that: password_file: /etc/edge-agent/mqtt-password, or set EDGE_AGENT_MQTT_PASSWORD",
    (
        "influxdb",
    ): "put it in a file and name that: token_file: /etc/edge-agent/influxdb-token, or set EDGE_AGENT_INFLUXDB_TOKEN",
    (
        "webhook",
    ): "put it in a file and name that: secret_file: /etc/edge-agent/webhook-secret, or set EDGE_AGENT_WEBHOOK_SECRET",
    ("http",): "put it in a file and name that: token_file: /etc/edge-agent/http-token, or set EDGE_AGENT_HTTP_TOKEN",
    ("ota",): "put it in a file and name that: token_file: /etc/edge-agent/ota-token, or set EDGE_AGENT_OTA_TOKEN",
}
_TYPES = {
    "string_type": "text; put quotes around it",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "path_type": "a path",
}
_SLUG = "letters, digits, '.', '_' and '-' only, at most 63, the first a letter or digit"


def in_words(error: ValidationError, data: Any) -> Iterator[tuple[KeyPath, str, bool]]:
    """(key path, message, whether it is about the key itself) for each error; ``data`` is what the file says."""
    for item in error.errors(include_url=False, include_context=True):
        path, about_key = _key_path(item["loc"], item["type"], data)
        yield path, _message(path, about_key, item, data), about_key


def shown(path: KeyPath, value: Any) -> str:
    """A value as a message may show it: short, without secrets."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if any(is_secret(str(part)) for part in path):
        return "a value (not shown)"
    text = redact(repr(value) if isinstance(value, str) else str(value))
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_secret(key: str) -> bool:
    """Whether a key's name says that its value is one."""
    return _SECRET_KEY.search(key) is not None


def dotted(path: KeyPath) -> str:
    """``cameras[0].ground.points``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{_plain(part)}" for part in path).removeprefix(".")


def _plain(key: str) -> str:
    """A key as it is, or quoted and cut where it could break a line or hide something."""
    return key if key and key.isprintable() and len(key) <= 60 else repr(key[:60])


def value_at(data: Any, path: KeyPath) -> Any:
    """What the file says at ``path``, None where it says nothing."""
    for part in path:
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def _key_path(loc: tuple[int | str, ...], kind: str, data: Any) -> tuple[KeyPath, bool]:
    """The place in the file: pydantic also puts tags of unions, and ``[key]`` for a key, into its locations."""
    path: list[str | int] = []
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        if part == "[key]" and last and kind != "extra_forbidden":
            return tuple(path), True
        if (isinstance(data, dict) and part in data) or (isinstance(data, list) and isinstance(part, int)):
            path.append(part)
            data = value_at(data, (part,))
        elif last and kind == "missing" and isinstance(data, dict):
            path.append(part)
    return tuple(path), kind == "extra_forbidden"


def _message(path: KeyPath, about_key: bool, item: Mapping[str, Any], data: Any) -> str:
    kind = item["type"]
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if about_key:
        return f"the name {shown((), path[-1])} is not allowed: {_SLUG}"
    field = _field(path)
    what = f" ({field.description})" if field and field.description else ""
    if kind == "missing":
        return f"missing, and it must be given{what}"
    given = f"given {shown(path, value_at(data, path))}"
    return f"{given}; {_allowed(path, item, value_at(data, path), what)}"


def _allowed(path: KeyPath, item: Mapping[str, Any], value: Any, what: str) -> str:
    kind = item["type"]
    context: Mapping[str, Any] = item.get("ctx", {})
    simple = {
        "greater_than": "must be above {gt:g}",
        "greater_than_equal": "must be at least {ge:g}",
        "less_than": "must be below {lt:g}",
        "less_than_equal": "must be at most {le:g}",
        "string_too_short": "must not be empty",
        "string_too_long": "must be at most {max_length} characters",
        "too_long": "must have at most {max_length} of them",
    }
    if kind in simple:
        return simple[kind].format(**context) + what
    if kind == "literal_error":
        options = re.findall(r"'([^']*)'", context["expected"])
        section = _model(path)
        mapping = f", or a mapping of {', '.join(section.model_fields)}" if section else ""
        return f"allowed: {', '.join(options)}{mapping}{closest(value, options) or what}"
    if kind == "too_short":
        return f"must have at least {context['min_length']} of them{what}"
    if kind == "string_pattern_mismatch":
        pattern = str(context["pattern"])
        if "{0,62}$" in pattern:
            return f"must be {_SLUG}"
        return "must be NAME or NAME@VERSION, without spaces" if "@" in pattern else f"must have another form{what}"
    if kind.startswith(("datetime", "timezone")):
        return "must be a time like 2026-01-31T12:00:00Z"
    if kind == "value_error":
        return str(context.get("error", item["msg"]))
    if kind in ("int_type", "float_type") and isinstance(value, str) and re.fullmatch(r"[-+.\deE]+", value):
        return f"must be {_TYPES[kind]}, without quotes{what}"
    return f"must be {_TYPES[kind]}{what}" if kind in _TYPES else f"{item['msg']}{what}"


def _unknown_key(path: KeyPath) -> str:
    if is_secret(str(path[-1])) and (help_ := _SECRET_HELP.get(path[:-1])):
        kind = {"mqtt": "password", "webhook": "secret"}.get(str(path[0]), "token")
        if not str(path[-1]).endswith("file"):
            return f"a {kind} does not belong into this file; {help_}"
    model = _model(path[:-1])
    allowed = list(model.model_fields) if model else []
    return f"unknown key{closest(path[-1], allowed)} Allowed here: {', '.join(allowed)}".replace(
        "key Allowed", "key; allowed"
    )


def _field(path: KeyPath) -> FieldInfo | None:
    if not path or not isinstance(path[-1], str):
        return None
    model = _model(path[:-1])
    return model.model_fields.get(path[-1]) if model else None


def holds_a_path(path: KeyPath) -> bool:
    """Whether a value at ``path``, or something around it in a list or mapping, names a file or folder."""
    fields = (_field(path[:end]) for end in range(1, len(path) + 1))
    return any(field is not None and _is_a_path(field.annotation) for field in fields)


def _is_a_path(kind: Any) -> bool:
    return kind is Path or any(_is_a_path(part) for part in get_args(kind))


def _model(path: KeyPath) -> type[BaseModel] | None:
    """The section's model at ``path``, found by walking the types."""
    kind: Any = Config
    for part in path:
        kind = next((found for found in (_inner(option, part) for option in _options(kind)) if found is not None), None)
    return next(
        (option for option in _options(kind) if isinstance(option, type) and issubclass(option, BaseModel)), None
    )


def _inner(kind: Any, part: str | int) -> Any:
    if isinstance(kind, type) and not get_origin(kind) and issubclass(kind, BaseModel):
        return kind.model_fields[part].annotation if part in kind.model_fields else None
    args = get_args(kind)
    if get_origin(kind) is list and isinstance(part, int):
        return args[0]
    return args[1] if get_origin(kind) is dict else None


def _options(kind: Any) -> list[Any]:
    """The alternatives of a union, annotations taken off."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        return [option for arg in get_args(kind) for option in _options(arg)]
    return [kind]
