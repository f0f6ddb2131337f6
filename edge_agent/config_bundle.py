"""A part of the configuration as a signed bundle: what may be in it, and its one file, ``config.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from edge_agent.config import Config, redact
from edge_agent.config_base import Slug
from edge_agent.config_overlay import SIGNED, Finding, findings, laid_over
from edge_agent.config_words import KeyPath, dotted, in_words, is_secret
from edge_agent.config_yaml import MAX_BYTES, read_tree
from edge_agent.errors import Tampered, UsageError
from edge_agent.ota.bundle import LAYER
from edge_agent.ota.offer import Bundle


class Layer(BaseModel):
    """``config.json``. ``config`` is a merge patch over the file on the box, ``cameras`` a mapping by camera id."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    format: Literal[1] = 1
    name: Slug
    version: Slug
    config: dict[str, Any]


def write_layer(folder: Path, name: str, version: str, source: Path) -> None:
    """Put the file of the bundle of ``source`` (YAML) into ``folder``. Raises UsageError with everything that is wrong in it."""
    try:
        with source.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise UsageError(f"{source}: larger than {MAX_BYTES} bytes; this is not a configuration")
        tree = read_tree(raw.decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{source}: cannot be read: {error}") from error
    wrong = [(fault.mark, fault.path, fault.text) for fault in tree.faults]
    if not wrong and not isinstance(tree.data, dict):
        wrong = [((1, 1), (), "must be a mapping of sections such as `detect:` and `use_cases:`")]
    if not wrong:
        wrong = [(tree.mark(path), path, text) for path, text in _findings(tree.data)]
    if wrong:
        lines = (
            f"{source}:{mark[0]}:{mark[1]}: {f'{dotted(path)}: ' if path else ''}{text}" for mark, path, text in wrong
        )
        raise UsageError("\n".join(lines))
    layer = Layer(name=name, version=version, config=json.loads(json.dumps(tree.data)))
    (folder / LAYER).write_text(layer.model_dump_json(indent=1) + "\n", "utf-8")


def read_layer(folder: Path, bundle: Bundle) -> dict[str, Any]:
    """The patch in an unpacked bundle that was checked. Raises Tampered where it holds none."""
    try:
        with (folder / LAYER).open("rb") as file:
            layer = Layer.model_validate_json(file.read(2 * MAX_BYTES))
    except (OSError, ValidationError) as error:
        raise Tampered(f"{bundle.label} is signed, but holds no {LAYER} as it should be") from error
    if (layer.name, layer.version) != (bundle.name, bundle.version):
        raise Tampered(f"{layer.name}@{layer.version} is in the place of {bundle.label}")
    return layer.config


def _findings(data: dict[str, Any]) -> Iterator[Finding]:
    """What can be told without the box that it is for."""
    cameras = data.get("cameras")
    names = list(cameras) if isinstance(cameras, dict) else []
    found = [*findings(data, names, SIGNED), *_secrets(data, ())]
    yield from found
    if found:
        return
    # Types and names of keys; rules between values need the rest of the file.
    whole = laid_over({"cameras": [{"id": name, "source": "0"} for name in names or ["any"]]}, data)
    try:
        Config.model_validate_json(json.dumps(whole), strict=True)
    except ValidationError as error:
        for item, (path, text, _) in zip(error.errors(), in_words(error, whole), strict=True):
            if item["type"] != "value_error":
                number = path[1] if path[:1] == ("cameras",) and len(path) > 1 else None
                yield (("cameras", names[number], *path[2:]) if isinstance(number, int) and names else path), text


def _secrets(value: Any, path: KeyPath) -> Iterator[Finding]:
    """What a file that all can read must not hold."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            if is_secret(str(key)) and below is not None:
                yield (*path, key), "a secret does not belong into a bundle, which all can read; it stays on the box"
            else:
                yield from _secrets(below, (*path, key))
    elif isinstance(value, list):
        for number, below in enumerate(value):
            yield from _secrets(below, (*path, number))
    elif isinstance(value, str) and redact(value) != value:
        yield path, "holds a password, which does not belong into a bundle that all can read; it stays on the box"
