"""What was changed from afar lies over the operator's file: a JSON Merge Patch (RFC 7396), and what it may not touch.

In a patch ``cameras`` is a mapping by camera id, as a merge patch cannot change one element of a list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from edge_agent.config import PrivacyConfig
from edge_agent.config_words import KeyPath, dotted, holds_a_path

Patch: TypeAlias = Mapping[str, Any]
Finding: TypeAlias = tuple[KeyPath, str]

REMOTE: tuple[KeyPath, ...] = (
    ("model",),
    *(("cameras", "*", key) for key in ("source", "max_fps", "zones", "ground", "person_height_m")),
    ("detect",),
    ("track",),
    ("use_cases",),
    ("mqtt", "heartbeat_s"),
    ("logging",),
    ("privacy",),
)
"""What may be changed from afar: nothing that could lock the operator out, and nothing that is new and not thought about."""
SIGNED: tuple[KeyPath, ...] = (
    *REMOTE,
    *((key,) for key in ("classifiers", "sensors", "codes", "actuators", "outbox", "influxdb", "webhook")),
)
"""What a signed bundle may set beside that: a key of the operator's vouches for it, and not only the broker's rules."""
LOCAL: tuple[KeyPath, ...] = (
    ("detect", "tflite", "delegate"),
    ("detect", "tflite", "delegate_options"),
    ("use_cases", "attention"),
)
"""But not these, which load code, or look at people in a way that somebody on the spot must answer for.

A key that holds a path is never remote: it would make the agent read files."""
_SOURCE = re.compile(r"(rtsps?|https?)://[^\s$]+")


def laid_over(data: Mapping[str, Any], patch: Patch) -> dict[str, Any]:
    """``data`` as it would be with ``patch``; neither is changed. What has the wrong shape is left for ``findings`` to tell."""
    changes = patch.get("cameras")
    merged: dict[str, Any] = _merge(data, {key: value for key, value in patch.items() if key != "cameras"})
    cameras = data.get("cameras")
    if isinstance(changes, Mapping) and isinstance(cameras, list):
        merged["cameras"] = [_merge(camera, changes.get(camera.get("id"), {})) for camera in cameras]
    return merged


def _merge(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key), value)
    return merged


def one_patch(first: Patch, then: Patch) -> dict[str, Any]:
    """One patch that does what both do, one after the other: like a merge, but what removes a key goes on removing it."""
    both = dict(first)
    for key, value in then.items():
        before = both.get(key)
        both[key] = (
            one_patch(before if isinstance(before, Mapping) else {}, value) if isinstance(value, Mapping) else value
        )
    return both


def keys(patch: Patch) -> list[str]:
    """The keys that it touches, for people."""
    return list(dict.fromkeys(dotted(path).partition("[")[0] for path, _ in _leaves(patch, ()) if path))


def findings(patch: Patch, camera_ids: list[str], allowed: tuple[KeyPath, ...] = REMOTE) -> Iterator[Finding]:
    """What a patch may not do; it may touch what is ``allowed``."""
    cameras = patch.get("cameras", {})
    if not isinstance(cameras, Mapping):
        yield ("cameras",), 'must be a mapping by camera id here, such as {"cameras": {"hall": {"max_fps": 5}}}'
        cameras = {}
    for name in cameras:
        if name not in camera_ids:
            yield ("cameras", name), f"no such camera; there are: {', '.join(camera_ids)}; new ones belong to the file"
    for path, value in _leaves(patch, ()):
        if path[:1] == ("cameras",) and (len(path) < 2 or path[1] not in camera_ids):
            continue
        if not _remote(path, allowed):
            yield path, "cannot be changed from afar, only in the file on the box"
        elif path[2:] == ("source",) and path[0] == "cameras" and not _SOURCE.fullmatch(str(value)):
            yield path, "from afar only a URL of rtsp, rtsps, http or https, without ${…}"


def looser(file: PrivacyConfig, changed: PrivacyConfig) -> Iterator[Finding]:
    """Where a change would make privacy less than the file says."""
    for key, worse in (
        ("images", changed.images and not file.images),
        ("pixelate", file.pixelate and not changed.pixelate),
        ("retention_days", changed.retention_days > file.retention_days),
    ):
        if worse:
            yield (
                ("privacy", key),
                f"can only be made stricter from afar; the file says {str(getattr(file, key)).lower()}",
            )


def _leaves(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """Every value that is no mapping or list with something in it, and where it stands."""
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    if not inner:
        yield path, value
    for key, below in inner:
        yield from _leaves(below, (*path, key))


def _remote(path: KeyPath, patterns: tuple[KeyPath, ...]) -> bool:
    allowed = any(_begins(path, pattern) for pattern in patterns)
    touched = any(_begins(path, local) or _begins(local, path) for local in LOCAL)
    return allowed and not touched and not holds_a_path((path[0], 0, *path[2:]) if path[0] == "cameras" else path)


def _begins(path: KeyPath, pattern: KeyPath) -> bool:
    return len(path) >= len(pattern) and all(want in ("*", part) for part, want in zip(path, pattern, strict=False))
