"""YAML to plain Python, bounded, with the line and column of every key and value; collects faults instead of stopping.

The YAML of a configuration is a tree: aliases are refused, so that a small file cannot grow in memory, and so are tags.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, TypeAlias

import yaml

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
KeyPath: TypeAlias = tuple[str | int, ...]
Mark: TypeAlias = tuple[int, int]

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_NODES = 50_000
_PLAIN_TAGS = {
    f"tag:yaml.org,2002:{name}"
    for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge", "value")
}


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong at a place: ``mark`` is (line, column) from 1, ``path`` the key path, () for the whole file."""

    mark: Mark
    path: KeyPath
    text: str


@dataclass(slots=True)
class Tree:
    """What the file says: ``data`` of dict, list and scalars (times as RFC 3339 text), marks by key path, faults found."""

    data: Any = None
    keys: dict[KeyPath, Mark] = field(default_factory=dict)
    values: dict[KeyPath, Mark] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def mark(self, path: KeyPath) -> Mark:
        """Where ``path`` stands: its value, else the key of the nearest thing around it that is in the file."""
        if path in self.values:
            return self.values[path]
        return self.key_mark(path[:-1]) if path else (1, 1)

    def key_mark(self, path: KeyPath) -> Mark:
        """Where the key of ``path`` stands, or the element where it is one of a list."""
        return self.keys.get(path) or self.values.get(path) or (self.key_mark(path[:-1]) if path else (1, 1))


def read_tree(text: str) -> Tree:
    """Parse one document. Never raises on content: a fault that ends the reading is the last in ``faults``."""
    tree = Tree()
    if strange := yaml.reader.Reader.NON_PRINTABLE.search(text):
        before = text[: strange.start()]
        where = (before.count("\n") + 1, len(before) - before.rfind("\n"))
        tree.faults.append(Fault(where, (), f"the character U+{ord(strange[0]):04X} is not allowed"))
        return tree
    try:
        stop = _oversize(text)
        if stop:
            tree.faults.append(stop)
            return tree
        loader = Loader(text)
        try:
            root = loader.get_single_node()
            if root is not None:
                tree.data = _build(loader, root, (), tree)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = " ".join(part for part in (error.context, error.problem) if part)
        tree.faults.append(Fault(where, (), f"not valid YAML: {what}{_hint(text, where)}"))
    return tree


def _oversize(text: str) -> Fault | None:
    """Looks at the stream of events, which needs no recursion, before anything is built from it."""
    depth = 0
    for nodes, event in enumerate(yaml.parse(text, Loader=Loader)):
        mark = _mark(event)
        if isinstance(event, yaml.AliasEvent):
            return Fault(mark, (), "aliases (*name) are not allowed here; write the value out")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            return Fault(mark, (), f"nested more than {MAX_DEPTH} levels deep")
        if nodes > MAX_NODES:
            return Fault(mark, (), f"more than {MAX_NODES} values")
    return None


def _mark(place: Any) -> Mark:
    return place.start_mark.line + 1, place.start_mark.column + 1


def _hint(text: str, where: Mark) -> str:
    lines = text.splitlines()
    for number in {where[0], where[0] - 1}:
        line = lines[number - 1] if 0 < number <= len(lines) else ""
        if line.startswith("\t") or line.lstrip(" ").startswith("\t"):
            return " (indent with spaces, not with tabs)"
    return ""


def _build(loader: Any, node: yaml.Node, path: KeyPath, tree: Tree) -> Any:
    mark = _mark(node)
    tree.values[path] = mark
    if node.tag not in _PLAIN_TAGS:
        tree.faults.append(Fault(mark, path, f"tags are not allowed here: {node.tag[:60]!r}"))
        return None
    if isinstance(node, yaml.MappingNode):
        return dict(_members(loader, node, path, tree))
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, child, (*path, index), tree) for index, child in enumerate(node.value)]
    try:
        value = loader.construct_object(node)
    except (ValueError, ArithmeticError, yaml.YAMLError):
        tree.faults.append(Fault(mark, path, "not a value that YAML can hold; put quotes around it"))
        return None
    return value.isoformat() if isinstance(value, date | datetime) else value


def _members(loader: Any, node: yaml.MappingNode, path: KeyPath, tree: Tree) -> Iterator[tuple[str, Any]]:
    seen: dict[str, int] = {}
    for key, child in node.value:
        mark = _mark(key)
        if not isinstance(key, yaml.ScalarNode):
            tree.faults.append(Fault(mark, path, "a key must be plain text"))
            continue
        name = str(key.value)  # as written: `on` and `1` are names here, not a truth value and a number
        place = (*path, name)
        if name in seen:
            tree.faults.append(Fault(mark, place, f"given twice, first in line {seen[name]}; keep one"))
            continue
        seen[name] = mark[0]
        tree.keys[place] = mark
        yield name, _build(loader, child, place, tree)
