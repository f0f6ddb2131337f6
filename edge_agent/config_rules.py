"""What must hold between the values of a configuration. Works on the raw tree, so that these faults come out together
with wrong types and unknown keys; whatever has the wrong shape is passed over here, the types report it.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from pydantic import ValidationError

from edge_agent.config import SocialDistancingConfig, TrackConfig
from edge_agent.config_base import Strict
from edge_agent.config_codes import CODE_NAME
from edge_agent.config_sensors import SOURCES
from edge_agent.config_sop import Procedure
from edge_agent.usecases.sop_check import Names, faults

KeyPath: TypeAlias = tuple[str | int, ...]
Finding: TypeAlias = tuple[KeyPath, str]
Corner: TypeAlias = tuple[float, float]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
MIN_ZONE_AREA = 1e-4
"""Of the frame: a hundredth of its width by a hundredth of its height. Anything less is a slip of the pen."""


def findings(data: Any, has_http_token: bool) -> Iterator[Finding]:
    """Every broken rule. ``data`` is what the file says, ``has_http_token`` whether the environment gives one."""
    cameras = _mappings(_get(data, "cameras"))
    yield from _unique_ids("cameras", cameras)
    for index, camera in cameras:
        yield from _zones(("cameras", index, "zones"), _mapping(_get(camera, "zones")))
        yield from _ground(("cameras", index, "ground"), _mapping(_get(camera, "ground")))
    yield from _scores(("track",), _get(data, "track"))
    path: KeyPath = ("use_cases", "social_distancing")
    use_case = _get(_get(data, "use_cases"), "social_distancing")
    yield from _leave(path, use_case)
    yield from _cameras(path, use_case, cameras)
    yield from _zone(path, use_case, cameras)
    yield from _procedures(_get(_get(data, "use_cases"), "sop"), cameras)
    yield from _codes(data, cameras)
    sensors = _mappings(_get(data, "sensors"))
    yield from _unique_ids("sensors", sensors)
    own = f"edge/v1/{_get(data, 'site') or 'site'}/{_get(data, 'device')}/"
    for index, sensor in sensors:
        yield from _sensor(("sensors", index), sensor, own)
    yield from _token(_mapping(_get(data, "http")), has_http_token)
    yield from _broker(("mqtt",), _mapping(_get(data, "mqtt")))
    for name in ("mqtt", "influxdb", "webhook"):
        yield from _tls((name, "tls"), _mapping(_get(_get(data, name), "tls")))
    for name in ("influxdb", "webhook"):
        yield from _http_sink(name, _mapping(_get(data, name)))


def closest(given: object, allowed: list[str]) -> str:
    """``did you mean X?`` or nothing."""
    near = [] if given in allowed else difflib.get_close_matches(str(given), allowed, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _get(data: Any, key: str) -> Any:
    return data.get(key) if isinstance(data, Mapping) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _mappings(value: Any) -> list[tuple[int, dict[str, Any]]]:
    return [(index, item) for index, item in enumerate(_list(value)) if isinstance(item, dict)]


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) < 1e300 else None  # a longer int has no float


def _corner(value: Any) -> Corner | None:
    numbers = [number for number in map(_number, _list(value)) if number is not None]
    return (numbers[0], numbers[1]) if len(numbers) == 2 == len(value) else None


def _unique_ids(section: str, items: list[tuple[int, dict[str, Any]]]) -> Iterator[Finding]:
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


def _pair(section: Any, model: type[Strict], keys: tuple[str, str]) -> tuple[str, float, float] | None:
    """The key to blame and both numbers, defaults filled in; None where neither is given or one is not a number."""
    given = [key for key in keys if key in _mapping(section)]
    first, second = (
        _number(section[key] if key in given else model.model_fields[key].default) if given else None for key in keys
    )
    return None if first is None or second is None else (given[0], first, second)


def _scores(path: KeyPath, section: Any) -> Iterator[Finding]:
    pair = _pair(section, TrackConfig, ("low_score", "high_score"))
    if pair and pair[1] > pair[2]:
        yield (*path, pair[0]), f"low_score is {pair[1]:g}, which must not be above high_score, {pair[2]:g}"


def _leave(path: KeyPath, section: Any) -> Iterator[Finding]:
    pair = _pair(section, SocialDistancingConfig, ("leave_distance_m", "distance_m"))
    if pair and pair[1] < pair[2]:
        yield (*path, pair[0]), f"leave_distance_m is {pair[1]:g}, which must not be below distance_m, {pair[2]:g}"


def _cameras(path: KeyPath, use_case: Any, cameras: list[tuple[int, dict[str, Any]]]) -> Iterator[Finding]:
    known = list(dict.fromkeys(camera["id"] for _, camera in cameras if isinstance(camera.get("id"), str)))
    for index, name in enumerate(_list(_get(use_case, "cameras"))):
        if isinstance(name, str) and name not in known:
            yield (
                (*path, "cameras", index),
                f"given {name!r}, no such camera; there are: {', '.join(known)}{closest(name, known)}",
            )


def _zone(path: KeyPath, use_case: Any, cameras: list[tuple[int, dict[str, Any]]]) -> Iterator[Finding]:
    zone = _get(use_case, "zone")
    if not isinstance(zone, str):
        return
    concerned = _chosen(use_case, cameras)
    without = [str(camera.get("id", "?")) for camera in concerned if zone not in _mapping(camera.get("zones"))]
    if without:
        zones = sorted({str(name) for camera in concerned for name in _mapping(camera.get("zones"))})
        there_are = f"zones there are: {', '.join(zones)}{closest(zone, zones)}" if zones else "it has no zones"
        yield (*path, "zone"), f"given {zone!r}, which camera {', '.join(without)} does not have; {there_are}"


def _chosen(use_case: Any, cameras: list[tuple[int, dict[str, Any]]]) -> list[dict[str, Any]]:
    """The cameras it runs on."""
    chosen = _get(use_case, "cameras")
    return [camera for _, camera in cameras if not isinstance(chosen, list) or camera.get("id") in chosen]


def _procedures(section: Any, cameras: list[tuple[int, dict[str, Any]]]) -> Iterator[Finding]:
    """Those that are right by their types; the others are told by these."""
    names: list[str] = []
    for index, procedure in enumerate(_list(_get(section, "procedures"))):
        path: KeyPath = ("use_cases", "sop", "procedures", index)
        yield from _cameras(path, procedure, cameras)
        try:
            typed = Procedure.model_validate_json(json.dumps(procedure), strict=True)
        except ValidationError:
            continue
        if typed.name in names:
            text = f"given {typed.name!r}, which is already the name of procedures[{names.index(typed.name)}]"
            yield (*path, "name"), f"{text}; names must differ"
        names.append(typed.name)
        for place, text in faults(typed, [_places(camera) for camera in _chosen(procedure, cameras)]):
            yield (*path, *place), text


def _codes(data: Any, cameras: list[tuple[int, dict[str, Any]]]) -> Iterator[Finding]:
    section = _get(data, "codes")
    yield from _cameras(("codes",), section, cameras)
    yield from _zone(("codes",), section, cameras)
    if _mapping(section).get("qr") is False and not _mapping(section).get("markers"):
        yield ("codes", "qr"), "is false, and no markers are named: nothing would be read"
    names = _mapping(_get(section, "names"))
    for name in names:
        if name in ("any", "token"):
            yield ("codes", "names", name), f"{name!r} has a meaning of its own in conditions; take another name"
    reads = isinstance(data, Mapping) and "codes" in data and _mapping(section).get("enabled") is not False
    keyed = bool(_list(_get(section, "key_files")))
    for path, asked in _asked(_get(data, "use_cases"), ("use_cases",)):
        if not reads:
            yield path, f"given {asked!r}, but no codes are read: add a section `codes:`, see docs/codes.md"
        elif asked.partition(":")[0] == "token":
            if not keyed:
                yield path, f"given {asked!r}, but there is no key to believe tokens by: name codes.key_files"
        elif asked != "any" and asked not in names and not re.fullmatch(CODE_NAME, asked):
            known = ["any", "token", *names]
            text = (
                f"given {asked!r}, no such group in codes.names, and no code's own name; there are: {', '.join(known)}"
            )
            yield path, text + closest(asked, known)


def _asked(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Every code that a condition asks for."""
    inner = value.items() if isinstance(value, dict) else enumerate(_list(value))
    for key, below in inner:
        if key == "code" and isinstance(below, str):
            yield (*path, key), below
        else:
            yield from _asked(below, (*path, key))


def _places(camera: dict[str, Any]) -> Names:
    """The zones and lines of a camera, as far as they are right."""
    ground = _mapping(camera.get("ground"))
    zones, floor = (
        {name: corners for name, value in _mapping(given).items() if (corners := _corners(value))}
        for given in (camera.get("zones"), ground.get("zones"))
    )
    lines = [*_mapping(camera.get("lines")), *_mapping(ground.get("lines"))]
    return Names(str(camera.get("id", "?")), zones, floor, lines)


def _corners(polygon: Any) -> list[Corner] | None:
    """The corners of a polygon; None where they are not all right."""
    good = [corner for value in _list(polygon) if (corner := _corner(value)) is not None]
    return good if len(good) == len(_list(polygon)) and 3 <= len(good) <= 200 else None


def _zones(path: KeyPath, zones: dict[str, Any]) -> Iterator[Finding]:
    for name, polygon in zones.items():
        good = _corners(polygon)
        if good is None:
            continue
        area = abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in _edges(good))) / 2
        crossing = _crossing(good)
        if crossing:
            yield (
                (*path, name),
                f"edges {crossing[0] + 1} and {crossing[1] + 1} cross; list the corners in order around the zone",
            )
        elif area < MIN_ZONE_AREA:
            yield (
                (*path, name),
                f"covers {area:.2g} of the frame, next to nothing; at least {MIN_ZONE_AREA:g} is needed",
            )


def _edges(corners: list[Corner]) -> list[tuple[Corner, Corner]]:
    return list(zip(corners, [*corners[1:], corners[0]], strict=True))


def _crossing(corners: list[Corner]) -> tuple[int, int] | None:
    edges = _edges(corners)
    for i, (a, b) in enumerate(edges):
        for j in range(i + 1, len(edges)):
            c, d = edges[j]
            if _side(a, b, c) * _side(a, b, d) < 0 and _side(c, d, a) * _side(c, d, b) < 0:
                return i, j
    return None


def _side(a: Corner, b: Corner, p: Corner) -> float:
    return (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])


def _ground(path: KeyPath, ground: dict[str, Any]) -> Iterator[Finding]:
    size = _corner(ground.get("image_size"))
    if size is None:
        return
    for index, point in enumerate(_list(ground.get("points"))[:1000]):
        pixel = _corner(_get(point, "pixel"))
        if pixel and not (0 <= pixel[0] <= size[0] and 0 <= pixel[1] <= size[1]):
            u, v = pixel
            text = (
                f"given [{u:g}, {v:g}], outside the picture of {size[0]:g} × {size[1]:g} pixels that image_size names"
            )
            yield (*path, "points", index, "pixel"), text


def _sensor(path: KeyPath, sensor: dict[str, Any], own: str) -> Iterator[Finding]:
    given = [name for name in SOURCES if sensor.get(name) is not None]
    if len(given) != 1:
        yield path, f"names {' and '.join(given) or 'no source'}; it needs exactly one of {', '.join(SOURCES)}"
    low, high = _number(sensor.get("min")), _number(sensor.get("max"))
    if low is not None and high is not None and low >= high:
        yield (*path, "min"), f"is {low:g}, which must be below max, {high:g}"
    good_s, every_s = _number(sensor.get("stale_after_s")), _number(sensor.get("every_s"))
    if good_s is not None and every_s is not None and good_s <= every_s:
        yield (*path, "stale_after_s"), f"is {good_s:g}, which must be above every_s, {every_s:g}"
    topic = _get(sensor.get("mqtt"), "topic")
    if isinstance(topic, str) and topic.startswith(own):
        yield (*path, "mqtt", "topic"), f"given {topic!r}, which this box itself publishes or listens to"


def _token(http: dict[str, Any], has_http_token: bool) -> Iterator[Finding]:
    host = http.get("host", LOOPBACK[1])
    if host in LOOPBACK or not isinstance(host, str) or http.get("enabled", True) is False:
        return
    if not http.get("token_file") and not has_http_token:
        text = f"given {host!r}, reachable from the network, which needs a token: set http.token_file to a file holding one"
        yield ("http", "host"), f"{text}, or EDGE_AGENT_HTTP_TOKEN; or keep 127.0.0.1"


def _broker(path: KeyPath, mqtt: dict[str, Any]) -> Iterator[Finding]:
    delay, expiry = _number(mqtt.get("will_delay_s", 0)), _number(mqtt.get("session_expiry_s", 0))
    if delay is not None and expiry is not None and delay > expiry:
        text = f"is {delay:g}, but the broker says offline as soon as it forgets the session, after session_expiry_s, {expiry:g}"
        yield (*path, "will_delay_s"), f"{text}; make that at least as long"
    first: dict[str, int] = {}
    for index, broker in enumerate(_list(mqtt.get("brokers"))):
        if isinstance(broker, dict):
            where = (broker.get("host", mqtt.get("host")), broker.get("port", mqtt.get("port")))
            if repr(where) in first:
                yield (*path, "brokers", index), f"the same host and port as brokers[{first[repr(where)]}]; keep one"
            first.setdefault(repr(where), index)


def _tls(path: KeyPath, tls: dict[str, Any]) -> Iterator[Finding]:
    if tls.get("key_file") and not tls.get("cert_file"):
        yield (*path, "key_file"), "given without cert_file, the certificate that it is the key of"


def _http_sink(name: str, section: dict[str, Any]) -> Iterator[Finding]:
    url = section.get("url")
    if section.get("enabled") is True and name == "webhook" and url is None:
        yield (name, "enabled"), "is true, but where to? set webhook.url"
    if not isinstance(url, str) or not url.lower().startswith("http://"):
        return
    if "tls" in section:
        yield (name, "url"), "is http://, which the section tls says nothing about; make it https://, or take tls out"
    elif name == "webhook" and _host(url) not in LOOPBACK:
        yield (
            (name, "url"),
            "is http:// and not on this machine: events would cross the network in the clear; use https://",
        )


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
