"""The raw tree of a configuration, as the file says it, whatever its shape: for rules that hold between values."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from edge_agent.config_base import Strict

KeyPath: TypeAlias = tuple[str | int, ...]
Finding: TypeAlias = tuple[KeyPath, str]
Corner: TypeAlias = tuple[float, float]


def closest(given: object, allowed: list[str]) -> str:
    """``did you mean X?`` or nothing."""
    near = [] if given in allowed else difflib.get_close_matches(str(given), allowed, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def get(data: Any, key: str) -> Any:
    """The value of a key, where it is a mapping that has it."""
    return data.get(key) if isinstance(data, Mapping) else None


def as_list(value: Any) -> list[Any]:
    """The value where it is a list."""
    return value if isinstance(value, list) else []


def mapping(value: Any) -> dict[str, Any]:
    """The value where it is a mapping."""
    return value if isinstance(value, dict) else {}


def mappings(value: Any) -> list[tuple[int, dict[str, Any]]]:
    """The mappings in a list, and where they stand."""
    return [(index, item) for index, item in enumerate(as_list(value)) if isinstance(item, dict)]


def number(value: Any) -> float | None:
    """The value where it is a number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) < 1e300 else None  # a longer int has no float


def corner(value: Any) -> Corner | None:
    """The value where it is two numbers."""
    found = [each for each in map(number, as_list(value)) if each is not None]
    return (found[0], found[1]) if len(found) == 2 == len(value) else None


def unique_ids(section: str, items: list[tuple[int, dict[str, Any]]]) -> Iterator[Finding]:
    """Refuse an id that another item of the section has."""
    first: dict[str, int] = {}
    for index, item in items:
        name = item.get("id")
        if isinstance(name, str) and name in first:
            yield (
                (section, index, "id"),
                f"given {name!r}, which is already the id of {section}[{first[name]}]; ids must differ",
            )
        elif isinstance(name, str):
            first[name] = index


def pair(section: Any, model: type[Strict], keys: tuple[str, str]) -> tuple[str, float, float] | None:
    """The key to blame and both numbers, defaults filled in; None where neither is given or one is not a number."""
    given = [key for key in keys if key in mapping(section)]
    first, second = (
        number(section[key] if key in given else model.model_fields[key].default) if given else None for key in keys
    )
    return None if first is None or second is None else (given[0], first, second)


def corners(polygon: Any) -> list[Corner] | None:
    """The corners of a polygon; None where they are not all right."""
    good = [found for value in as_list(polygon) if (found := corner(value)) is not None]
    return good if len(good) == len(as_list(polygon)) and 3 <= len(good) <= 200 else None
