"""Whether a package's licence lets the agent be shipped under Apache-2.0: anything but GPL and AGPL (LGPL is fine)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from email.message import Message
from importlib.metadata import Distribution
from typing import Any, cast

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# `WITH` an exception for what a compiler puts into its output is no obligation on the program.
_COPYLEFT = re.compile(
    r"(?<![A-Za-z])A?GPL(?=v?\d|\W|$)|(?<!LESSER )(?<!LIBRARY )\bGENERAL PUBLIC LICENSE|AFFERO", re.IGNORECASE
)
_EXCEPTION = re.compile(
    r"A?GPL-\S+ WITH (GCC-exception-\S+|Classpath-exception-\S+|Bootloader-exception)", re.IGNORECASE
)


def refused(text: str) -> bool:
    """Whether a licence name or SPDX expression leaves no way around GPL or AGPL: one alternative without them is enough."""
    text = _EXCEPTION.sub("", text.replace("/", " or "))
    if depth := re.search(r"\(([^()]*)\)", text):
        inner = "GPL" if refused(depth[1]) else "free"
        return refused(text[: depth.start()] + f" {inner} " + text[depth.end() :])
    return all(_COPYLEFT.search(part) for part in re.split(r"(?<!-)\bor\b(?!-| later)", text, flags=re.IGNORECASE))


def licence_of(distribution: Distribution) -> str:
    """What the package says its licence is; the expression is binding, then a short licence field, then the classifiers."""
    metadata = cast("Message", distribution.metadata)
    if expression := metadata.get("License-Expression"):
        return str(expression)
    field = str(metadata.get("License") or "").strip()
    named = [
        str(line).split(" :: ")[-1]
        for line in metadata.get_all("Classifier") or []
        if str(line).startswith("License :: ")
    ]
    named = [name for name in named if name not in ("OSI Approved", "DFSG approved")]
    short = field if "\n" not in field and field.upper() not in ("", "UNKNOWN", "DUAL LICENSE") else ""
    # Several classifiers do not say whether both or either hold; the stricter reading is safe, unless the field says "or".
    return (
        short
        if short and (not named or re.search(r"\bor\b|/", short))
        else " AND ".join([*named, short] if short else named)
    )


def closure(root: str, extras: Iterable[str], packages: dict[str, Distribution]) -> Iterator[str]:
    """Canonical names of ``root``'s dependencies, all the way down, for this interpreter; also those not in ``packages``."""
    seen: set[str] = set()
    todo = [(root, frozenset(extras))]
    while todo:
        name, wanted = todo.pop()
        for line in packages[name].requires or [] if name in packages else []:
            requirement = Requirement(line)
            marker = requirement.marker
            if marker and not any(marker.evaluate(_environment(extra)) for extra in (wanted or {""}) | {""}):
                continue
            child = canonicalize_name(requirement.name)
            if child not in seen:
                seen.add(child)
                todo.append((child, frozenset(requirement.extras)))
    yield from sorted(seen - {root})


def _environment(extra: str) -> dict[str, Any]:
    return {"extra": extra}


def offenders(names: Iterable[str], packages: dict[str, Distribution], reviewed: dict[str, str]) -> list[str]:
    """One line for each package whose licence is refused or not known."""
    found = []
    for name in names:
        text = licence_of(packages[name]) if name in packages else reviewed.get(name, "")
        if not text and name in reviewed:
            text = reviewed[name]
        if not text:
            found.append(f"{name}: states no licence; look at it and add it to the reviewed ones")
        elif refused(text):
            found.append(f"{name}: {text}")
    return found


def installed(path: list[str] | None = None) -> dict[str, Distribution]:
    """Distributions by canonical name, the first on the path winning as it does for imports."""
    found: dict[str, Distribution] = {}
    for distribution in Distribution.discover(path=path) if path else Distribution.discover():
        found.setdefault(canonicalize_name(distribution.metadata["Name"]), distribution)
    return found
