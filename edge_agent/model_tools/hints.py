"""What exporters write into a file's metadata: ultralytics' keys, in ONNX as texts, beside an IR as YAML."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Mapping
from typing import Any

from edge_agent.model_tools.facts import Hints

MAX_LITERAL = 256 * 1024
MAX_NESTING = 8
MAX_NAMES = 10_000


def read_hints(metadata: Mapping[str, Any]) -> Hints:
    """The keys that are known, where they are well formed; all others are ignored."""
    values = {key: literal(value) if isinstance(value, str) else value for key, value in metadata.items()}
    return Hints(
        labels=_names(values.get("names")),
        size=_size(values.get("imgsz")),
        task=_text(metadata.get("task")),
        licence=_text(metadata.get("license")),
        description=_text(metadata.get("description")),
    )


def literal(text: str) -> Any:
    """A Python literal, or None. Nothing is evaluated, and nothing that nests deeply gets to the parser."""
    depth = deepest = 0
    for char in text[: MAX_LITERAL + 1]:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    if len(text) > MAX_LITERAL or deepest > MAX_NESTING:
        return None
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return ast.literal_eval(text.strip())
    return None


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict) or not 0 < len(value) <= MAX_NAMES:
        return ()
    by_number = {}
    for key, name in value.items():
        if not str(key).isdecimal() or not isinstance(name, str) or not 0 < len(name) <= 64 or not name.isprintable():
            return ()
        by_number[int(key)] = name
    if sorted(by_number) != list(range(len(by_number))):
        return ()
    return tuple(by_number[i] for i in range(len(by_number)))


def _size(value: Any) -> tuple[int, int] | None:
    """``imgsz`` is [height, width], or one number for both."""
    sides = [value, value] if isinstance(value, int) else value
    if isinstance(sides, (list, tuple)) and len(sides) == 2 and all(type(s) is int and 16 <= s <= 4096 for s in sides):
        return sides[1], sides[0]
    return None


def _text(value: Any) -> str:
    return value[:1000] if isinstance(value, str) and value.isprintable() else ""
