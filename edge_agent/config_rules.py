"""What must hold between the values of a configuration. Works on the raw tree, so that these faults come out together
with wrong types and unknown keys; whatever has the wrong shape is passed over here, the types report it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from edge_agent.config import TrackConfig
from edge_agent.config_acting_rules import acting_findings
from edge_agent.config_aggregate_rules import aggregate_findings
from edge_agent.config_sensors import SOURCES
from edge_agent.config_tree import (
    Corner,
    Finding,
    KeyPath,
    as_list,
    corner,
    corners,
    get,
    mapping,
    mappings,
    number,
    pair,
    unique_ids,
)
from edge_agent.config_use_case_rules import classifier_findings, use_case_findings

LOOPBACK = ("localhost", "127.0.0.1", "::1")
MIN_ZONE_AREA = 1e-4
"""Of the frame: a hundredth of its width by a hundredth of its height. Anything less is a slip of the pen."""


def findings(data: Any, has_http_token: bool) -> Iterator[Finding]:
    """Every broken rule. ``data`` is what the file says, ``has_http_token`` whether the environment gives one."""
    cameras = mappings(get(data, "cameras"))
    yield from unique_ids("cameras", cameras)
    for index, camera in cameras:
        yield from _zones(("cameras", index, "zones"), mapping(get(camera, "zones")))
        yield from _ground(("cameras", index, "ground"), mapping(get(camera, "ground")))
    yield from _scores(("track",), get(data, "track"))
    yield from use_case_findings(get(data, "use_cases"), cameras)
    yield from aggregate_findings(get(data, "use_cases"), cameras)
    yield from classifier_findings(get(data, "classifiers"), cameras)
    own = f"edge/v1/{get(data, 'site') or 'site'}/{get(data, 'device')}/"
    yield from acting_findings(data, cameras, own)
    sensors = mappings(get(data, "sensors"))
    yield from unique_ids("sensors", sensors)
    for index, sensor in sensors:
        yield from _sensor(("sensors", index), sensor, own)
    yield from _token(mapping(get(data, "http")), has_http_token)
    yield from _broker(("mqtt",), mapping(get(data, "mqtt")))
    for name in ("mqtt", "influxdb", "webhook"):
        yield from _tls((name, "tls"), mapping(get(get(data, name), "tls")))
    for name in ("influxdb", "webhook"):
        yield from _http_sink(name, mapping(get(data, name)))


def _scores(path: KeyPath, section: Any) -> Iterator[Finding]:
    given = pair(section, TrackConfig, ("low_score", "high_score"))
    if given and given[1] > given[2]:
        yield (*path, given[0]), f"low_score is {given[1]:g}, which must not be above high_score, {given[2]:g}"


def _zones(path: KeyPath, zones: dict[str, Any]) -> Iterator[Finding]:
    for name, polygon in zones.items():
        good = corners(polygon)
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
    size = corner(ground.get("image_size"))
    if size is None:
        return
    for index, point in enumerate(as_list(ground.get("points"))[:1000]):
        pixel = corner(get(point, "pixel"))
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
    low, high = number(sensor.get("min")), number(sensor.get("max"))
    if low is not None and high is not None and low >= high:
        yield (*path, "min"), f"is {low:g}, which must be below max, {high:g}"
    good_s, every_s = number(sensor.get("stale_after_s")), number(sensor.get("every_s"))
    if good_s is not None and every_s is not None and good_s <= every_s:
        yield (*path, "stale_after_s"), f"is {good_s:g}, which must be above every_s, {every_s:g}"
    topic = get(sensor.get("mqtt"), "topic")
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
    delay, expiry = number(mqtt.get("will_delay_s", 0)), number(mqtt.get("session_expiry_s", 0))
    if delay is not None and expiry is not None and delay > expiry:
        text = f"is {delay:g}, but the broker says offline as soon as it forgets the session, after session_expiry_s, {expiry:g}"
        yield (*path, "will_delay_s"), f"{text}; make that at least as long"
    first: dict[str, int] = {}
    for index, broker in enumerate(as_list(mqtt.get("brokers"))):
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
