"""What the fleet's boxes say at the broker, and whether that is what they should say. Runs on the controller only."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Payload = dict[str, Any]


class FleetError(Exception):
    """The broker can't be asked; the message says why, and what to do."""


@dataclass
class Heard:
    """Of one device, newest only; None: nothing came."""

    status: Payload | None = None
    heartbeat: Payload | None = None
    model: Payload | None = None
    heartbeat_at: float = 0.0
    """When it came, by this machine's monotonic clock."""
    clash: Payload | None = None
    """A second box uses its identity."""
    boots: list[str] = field(default_factory=list)

    @property
    def online(self) -> bool:
        """Not said to be offline, by itself or by its last will."""
        return self.status is not None and self.status.get("state") == "online"


class Watcher:
    """Subscribed to the whole fleet while it is open. ``heard`` grows in paho's thread, by ``site/device``."""

    def __init__(self, broker: Payload, *, connect_s: float = 20.0) -> None:
        try:
            import paho.mqtt.client as paho
            from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
        except ImportError as error:
            raise FleetError("paho-mqtt is missing on the controller: pip install -r requirements.txt") from error
        self.heard: dict[str, Heard] = {}
        self._lock = threading.Lock()
        self._subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        if broker.get("ca_file"):
            try:
                self._client.tls_set(broker["ca_file"], broker.get("cert_file") or None, broker.get("key_file") or None)
            except (OSError, ValueError) as error:
                raise FleetError(f"the files for TLS can't be read: {error}") from error
        if broker.get("username"):
            self._client.username_pw_set(broker["username"], broker.get("password"))
        self._client.on_connect = lambda client, *_: client.subscribe(
            [(f"edge/v1/+/+/{what}", 1) for what in ("status", "heartbeat", "model", "events/_device/#")]
        )
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = lambda _client, _data, message: self._take(message.topic, message.payload)
        where = f"{broker['host']}:{broker['port']}"
        try:
            self._client.connect(broker["host"], int(broker["port"]), keepalive=20)
        except (OSError, ValueError) as error:
            raise FleetError(f"the broker {where} can't be reached: {error}") from error
        self._client.loop_start()
        if not self._subscribed.wait(connect_s):
            self.close()
            raise FleetError(
                f"the broker {where} took no subscription within {connect_s:.0f} s; does it know our certificate?"
            )

    def _take(self, topic: str, payload: bytes) -> None:
        _, _, site, device, what, *rest = topic.split("/")
        try:
            told = json.loads(payload)
        except ValueError:
            return
        if not isinstance(told, dict):
            return
        with self._lock:
            heard = self.heard.setdefault(f"{site}/{device}", Heard())
            if what == "heartbeat":
                heard.heartbeat, heard.heartbeat_at = told, time.monotonic()
                if told.get("boot_id") not in heard.boots:
                    heard.boots.append(str(told.get("boot_id")))
            elif what == "events":
                if rest[-1:] == ["mqtt_session_taken_over"]:
                    heard.clash = told
            elif what in {"status", "model"}:
                setattr(heard, what, told)

    def wait(self, seconds: float, until: Callable[[dict[str, Heard]], bool] = lambda _: False) -> None:
        """For so long, or shorter where ``until`` holds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until(self.heard):
            time.sleep(0.2)

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def fps_of(heartbeat: Payload | None) -> dict[str, float]:
    """Frames per second of each camera that delivers."""
    cameras = (heartbeat or {}).get("cameras", [])
    return {
        camera["id"]: camera["fps"] for camera in cameras if camera.get("state") == "delivering" and "fps" in camera
    }


def fault(
    heard: Heard | None, since: float, kind: str, target: str, *, fps_before: dict[str, float], ratio: float
) -> str:
    """Why a box that was changed is not as it should be; empty: it is. ``since``: only what it said after that counts."""
    if heard is None or heard.heartbeat is None or heard.heartbeat_at < since:
        return "silent: no heartbeat"
    if not heard.online:
        return "silent: the broker says it is offline"
    beat = heard.heartbeat
    if beat.get("safe_mode"):
        return "in safe mode"
    model = beat.get("model") or {}
    runs = beat.get("version", "") if kind == "agent" else f"{model.get('name')}@{model.get('version')}"
    if runs != target:
        return f"runs {runs or 'nothing'}, not {target}"
    fps = fps_of(beat)
    for camera, before in fps_before.items():
        if fps.get(camera, 0.0) < ratio * before:
            return f"camera {camera} has {fps.get(camera, 0.0):.1f} frames per second, and had {before:.1f}"
    return ""


def on_probation(heard: Heard | None) -> bool:
    """Whether the box has not made up its mind about its new model."""
    return heard is not None and (heard.model or {}).get("state") == "probation"


def too_many(bad: int, all_: int, limit_pct: float) -> bool:
    """Whether a share of hosts halts a rollout."""
    return bad > 0 and 100.0 * bad >= limit_pct * all_
