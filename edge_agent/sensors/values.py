"""From what a file or a message says to a value. Whoever writes it may write anything: all is bounded."""

from __future__ import annotations

import json
import re
from typing import Any

from edge_agent.errors import SensorError

MAX_MESSAGE = 65_536
"""Bytes of a message; Zigbee gateways send a few hundred."""
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_WORDS = {"true": True, "on": True, "false": False, "off": False}


def from_text(text: str) -> bool | float:
    """A decimal number, or true, false, on, off in any case. Raises SensorError."""
    word = text.strip().lower()
    if word in _WORDS:
        return _WORDS[word]
    if len(word) > 64 or not _NUMBER.fullmatch(word):
        raise SensorError(f"{_shown(text)} is no number, and neither true, false, on nor off")
    return float(word)


def from_message(payload: bytes, key: str | None) -> bool | float:
    """The value in a message; with a ``key`` the message is JSON. Raises SensorError."""
    if len(payload) > MAX_MESSAGE:
        raise SensorError(f"a message of {len(payload)} bytes, at most {MAX_MESSAGE} are read")
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        raise SensorError("the message is no UTF-8 text") from None
    if key is None:
        return from_text(text)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise SensorError("the message is no JSON") from None
    for part in _parts(key):
        value = _inside(value, part, key)
    if isinstance(value, str):
        return from_text(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            raise SensorError(f"{_shown(str(key))} is a number out of all range") from None
    raise SensorError(f"{_shown(key)} is no value, but {'null' if value is None else 'a list or an object'}")


def _parts(key: str) -> list[str]:
    """RFC 6901 where it begins with a slash, else names with dots between them."""
    if not key.startswith("/"):
        return key.split(".")
    return [part.replace("~1", "/").replace("~0", "~") for part in key[1:].split("/")]


def _inside(value: Any, part: str, key: str) -> Any:
    if isinstance(value, dict) and part in value:
        return value[part]
    if isinstance(value, list) and re.fullmatch(r"[0-9]{1,6}", part) and int(part) < len(value):
        return value[int(part)]
    raise SensorError(f"no {_shown(key)} in the message")


def _shown(text: str) -> str:
    """In a message of ours: short, and quoted so that it can steer nothing."""
    return repr(text if len(text) <= 40 else text[:37] + "...")
