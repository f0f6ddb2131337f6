"""What a device says it did."""

from __future__ import annotations

import json
from typing import Any

_MAX_BYTES = 65_536


def says(payload: bytes, key: str | None, wanted: str | bool | float | None) -> bool:
    """Whether a message holds what is ``wanted``, at ``key`` of its JSON (names with dots between them); None: anything."""
    if len(payload) > _MAX_BYTES:
        return False
    try:
        value: Any = payload.decode()
        if key is not None:
            value = json.loads(value)
            for part in key.split("."):
                value = value[part]
    except (UnicodeDecodeError, ValueError, KeyError, TypeError, RecursionError):
        return False
    return wanted is None or _plain(value) == _plain(wanted)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, int | float) else str(value).strip()
