"""The heartbeat: what a fleet operator must know every half minute, in one datagram's worth of JSON.

Size: at most 1024 bytes with one camera, whatever the names and errors are (names may have 63 characters), and at most
150 bytes for each further camera with a name of up to 32 characters (182 with 63). ``last_error`` gets what is left.
Unknown values are left out; of a model's version 32 characters are shown. Site, device and camera-independent names are in the topic.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import TypeVar, cast

from edge_agent.health.heartbeat_fields import CameraBeat, Heartbeat, HostBeat, ModelBeat, OutboxBeat
from edge_agent.health.status import AgentStatus, CameraStatus, HardwareStatus, HostStatus
from edge_agent.types import rfc3339

MAX_BYTES = 1024
"""With one camera."""
MAX_BYTES_PER_CAMERA = 182
"""Each further one, with a name of 63 characters."""
_TOP = 10**9
"""Counters are shown modulo this: a reader looks at differences, and the size is bounded."""
_TOP_MB = 10**8
_PART = 12
"""Characters of the name of the hottest part."""

_Part = TypeVar("_Part", bound=Mapping[str, object])


class HeartbeatBuilder:
    """Makes heartbeats with a sequence number that begins at 0 with the process. Thread-safe."""

    def __init__(self) -> None:
        self._next = 0
        self._lock = threading.Lock()

    def build(self, status: AgentStatus, utc: float) -> bytes:
        """The next heartbeat as compact UTF-8 JSON; ``utc`` POSIX seconds."""
        with self._lock:
            sequence, self._next = self._next, self._next + 1
        beat = _content(status, rfc3339(utc), sequence)
        budget = MAX_BYTES + MAX_BYTES_PER_CAMERA * max(len(status.cameras) - 1, 0)
        return _fit(beat, status.last_error, budget)


def _fit(beat: Heartbeat, last_error: str, budget: int) -> bytes:
    """``last_error`` cut until the whole fits; JSON escapes make its length unforeseeable."""
    if not last_error:
        return _encode(beat)
    text = " ".join(last_error[:300].split())
    while text:
        encoded = _encode({**beat, "last_error": text})
        if len(encoded) <= budget:
            return encoded
        text = text[: len(text) - max((len(encoded) - budget) // 6, 1)]  # an escape is six bytes at most
    return _encode(beat)


def _encode(beat: Heartbeat) -> bytes:
    return json.dumps(beat, separators=(",", ":"), allow_nan=False).encode()


def _content(status: AgentStatus, time: str, sequence: int) -> Heartbeat:
    outbox, model = status.outbox, status.model
    beat: Heartbeat = {
        "time": time,
        "sequence": sequence,
        "version": status.version[:20],
        "boot_id": status.boot_id[:36],
        "uptime_s": min(int(status.uptime_s), _TOP),
        "config": status.config_hash[:12],
        "status": status.liveness().status,
        "cameras": [_camera(camera) for camera in status.cameras],
        "outbox": _known(
            OutboxBeat(
                depth=outbox.waiting % _TOP,
                oldest_age_s=_whole(outbox.oldest_age_s),
                dropped=outbox.dropped % _TOP,
                refused=outbox.refused % _TOP or None,
                dropping=True if outbox.dropping else None,
                state=None if outbox.state == "ok" else outbox.state,
            )
        ),
        "model": ModelBeat(name=model.name[:63], version=model.version[:32], sha256=model.sha256[:64])
        if model.active
        else None,
        "host": _host(status.host, status.hardware),
    }
    if bad := sum(sensor.quality != "good" for sensor in status.sensors.values()):
        beat["sensors_bad"] = bad
    if status.safe_mode:
        beat["safe_mode"] = True
    return beat


def _camera(camera: CameraStatus) -> CameraBeat:
    delivering = camera.state == "delivering"
    return _known(
        CameraBeat(
            id=camera.id[:63],
            state=camera.state,
            view=camera.view[:8] if delivering and camera.view != "ok" else None,
            fps=_short(camera.fps) if delivering else None,
            latency_ms=_whole(camera.latency_ms, 99_999) if delivering else None,
            age_s=_short(camera.age_s),
            dropped=camera.dropped % _TOP or None,
        )
    )


def _host(host: HostStatus, hardware: HardwareStatus) -> HostBeat:
    used = None
    if host.ram_total_bytes and host.ram_available_bytes is not None:
        used = round(100 * (1 - host.ram_available_bytes / host.ram_total_bytes))
    return _known(
        HostBeat(
            cpu_pct=_whole(host.cpu_pct, 100),
            ram_pct=used,
            rss_mb=_megabytes(host.rss_bytes),
            disk_free_mb=_megabytes(host.disk_free_bytes),
            temperature_c=_whole(hardware.temperature_c, 999),
            hottest=_part(hardware.hottest) or None,
            throttled=list(hardware.throttled) if hardware.throttled else None,
            throttled_s=_whole(hardware.throttled_s, _TOP - 1) or None,
            power_w=_short(hardware.input_w),
            clock_ok=host.clock_synchronised,
        )
    )


def _part(name: str) -> str:
    """Without what JSON would need more than a byte for."""
    return "".join(char for char in name if " " <= char <= "~" and char not in '"\\')[:_PART]


def _known(part: _Part) -> _Part:
    return cast(_Part, {name: value for name, value in part.items() if value is not None})


def _whole(value: float | None, top: int = _TOP) -> int | None:
    return None if value is None else max(-top, min(round(value), top))


def _short(value: float | None) -> float | int | None:
    """At most six characters: a decimal below 100, whole numbers above."""
    if value is None:
        return None
    return round(value, 1) if abs(value) < 100 else _whole(value, 999_999)


def _megabytes(value: int | None) -> int | None:
    return None if value is None else min(value // 2**20, _TOP_MB - 1)
