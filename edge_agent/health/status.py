"""What the agent knows about itself at one moment: the one value that REST, heartbeat, metrics and panel are made from.

All values are immutable; ``None`` means "not known", never zero. Ages and durations are seconds, sizes bytes, ``since``
POSIX seconds. The judgement over the parts (``liveness``, ``readiness``) stands here so that every reader says the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from edge_agent.health.shadow import ShadowStatus
from edge_agent.types import CameraState, SensorValue

Health: TypeAlias = Literal["ok", "degraded", "failing"]
WorkerState: TypeAlias = Literal["running", "stuck", "restarting", "done", "failed"]
Throttling: TypeAlias = Literal["power", "temperature", "voltage"]
"""Why a box is slowed down: it draws too much, is too hot, or is given too little."""
_ORDER: dict[Health, int] = {"ok": 0, "degraded": 1, "failing": 2}
_LOW_DISK = 200 * 2**20
"""Bytes. Below it the outbox may soon be unable to commit."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One supervised thread. ``busy_s``: how long it has been inside the present unit of work, None while it waits."""

    name: str
    essential: bool
    state: WorkerState
    busy_s: float | None = None
    restarts: int = 0
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """One camera. ``age_s`` is that of the last frame; ``size`` (width, height) pixels; ``length`` frames, of a file only."""

    id: str
    state: CameraState
    view: str = "ok"
    fps: float | None = None
    latency_ms: float | None = None
    age_s: float | None = None
    people: int = 0
    open_episodes: int = 0
    frames: int = 0
    dropped: int = 0
    failed: int = 0
    """Frames on which inference failed."""
    reconnects: int = 0
    size: tuple[int, int] | None = None
    model: str = ""
    last_error: str = ""
    length: int | None = None


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """The store: ``depth`` messages waiting, by priority; ``failing`` while it cannot write, ``reason`` says why."""

    depth: Mapping[str, int] = field(default_factory=dict)
    oldest_age_s: float | None = None
    bytes: int = 0
    accepted: int = 0
    dropped: int = 0
    state: Literal["ok", "failing"] = "ok"
    reason: str = ""
    refused: int = 0
    """Messages that a sink will never take."""
    dropping: tuple[str, ...] = ()
    """The sinks for which something had to be dropped within the last minute."""
    waits_for: Mapping[str, int] = field(default_factory=dict)
    """Messages by sink."""

    @property
    def waiting(self) -> int:
        """Messages of all priorities."""
        return sum(self.depth.values())


@dataclass(frozen=True, slots=True)
class MqttStatus:
    """The broker; ``address`` is host:port, ``since`` when the present state began (POSIX seconds)."""

    enabled: bool = False
    connected: bool = False
    since: float | None = None
    last_error: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """One sink beside MQTT; counts are since the process began, ``last_error`` is "" while all is well."""

    name: str
    address: str = ""
    delivered: int = 0
    refused: int = 0
    failures: int = 0
    """Deliveries in a row after which something had to be kept."""
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class UpdateStatus:
    """The last update of the model, or attempt at one. ``progress``: the done fraction of what ``state`` names.

    ``agreement`` (0 to 1) is how far two models agree on the boxes of the same frames, of which there were ``compared``.
    """

    model: str
    state: str
    bundle: str = ""
    progress: float | None = None
    reason: str = ""
    detail: str = ""
    agreement: float | None = None
    compared: int = 0


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """The model at work; ``active`` False while none is loaded. ``bundle`` is the SHA-256 of what was signed, "" for one
    that came with the agent; ``previous`` (name@version, "" where there is none) and its bundle are what a rollback brings.

    ``precision`` is that of the file at work; ``why`` says why it is this model, "" where it was named. ``error`` says why
    none is, or why something lesser than was meant runs it. ``not_taken`` says, for each other way to run
    it on a box like this, why it was not taken.
    """

    name: str = ""
    version: str = ""
    sha256: str = ""
    backend: str = ""
    precision: str = ""
    active: bool = False
    why: str = ""
    error: str = ""
    not_taken: Mapping[str, str] = field(default_factory=dict)
    bundle: str = ""
    previous: str = ""
    previous_bundle: str = ""
    update: UpdateStatus | None = None
    shadow: ShadowStatus | None = None


@dataclass(frozen=True, slots=True)
class ConfigStatus:
    """The signed part of the configuration: ``bundle`` and ``previous`` as name@version, "" where the box's file is alone.

    ``error`` says why it is set aside for now.
    """

    bundle: str = ""
    previous: str = ""
    error: str = ""
    update: UpdateStatus | None = None


@dataclass(frozen=True, slots=True)
class HostStatus:
    """The box: ``cpu_pct`` of all cores together (0–100), ``rss_bytes`` of this process, ``disk_*`` where the state lies."""

    cpu_pct: float | None = None
    process_cpu_pct: float | None = None
    """Of one core: 150 is one and a half cores."""
    rss_bytes: int | None = None
    ram_total_bytes: int | None = None
    ram_available_bytes: int | None = None
    disk_total_bytes: int | None = None
    disk_free_bytes: int | None = None
    clock_synchronised: bool | None = None


@dataclass(frozen=True, slots=True)
class HardwareStatus:
    """The board: its ``hottest`` part, whether it is slowed down and for how long in all since the start, watts by rail."""

    temperature_c: float | None = None
    hottest: str = ""
    throttled: tuple[Throttling, ...] | None = None
    throttled_s: float | None = None
    power_w: Mapping[str, float] = field(default_factory=dict)

    @property
    def input_w(self) -> float | None:
        """What the whole box draws, where that is measured: rails need not add up to it."""
        inputs = [watts for rail, watts in self.power_w.items() if rail.endswith("_IN") or len(self.power_w) == 1]
        return inputs[0] if inputs else None


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """The whole. ``safe_mode`` holds the reason while inference is switched off after repeated crashes, else ""."""

    site: str
    device: str
    version: str
    boot_id: str
    config_hash: str
    uptime_s: float
    cameras: tuple[CameraStatus, ...] = ()
    workers: tuple[WorkerStatus, ...] = ()
    outbox: OutboxStatus = OutboxStatus()
    mqtt: MqttStatus = MqttStatus()
    sinks: tuple[SinkStatus, ...] = ()
    model: ModelStatus = ModelStatus()
    config: ConfigStatus = ConfigStatus()
    host: HostStatus = HostStatus()
    hardware: HardwareStatus = HardwareStatus()
    sensors: Mapping[str, SensorValue] = field(default_factory=dict)
    last_error: str = ""
    safe_mode: str = ""
    certificate: str = ""
    """What is wrong with the certificates that this box shows, "" while nothing is."""
    http: str = ""
    """Where the REST API is (a URL), "" when it is off."""

    def camera(self, camera_id: str) -> CameraStatus | None:
        """The camera of that id, None where there is none."""
        return next((camera for camera in self.cameras if camera.id == camera_id), None)

    def liveness(self) -> Verdict:
        """For ``/healthz``: failing only where a restart of the process would help, degraded where someone should look."""
        return _verdict(
            {
                "workers": _workers(self.workers),
                "cameras": _cameras(self.cameras),
                "model": _model(self.model, self.safe_mode),
                "outbox": _outbox(self.outbox),
                "mqtt": _mqtt(self.mqtt),
                **{sink.name: _sink(sink) for sink in self.sinks},
                "host": _host(self.host, self.hardware),
                "sensors": _sensors(self.sensors),
                **({"certificate": Part("degraded", self.certificate)} if self.certificate else {}),
                **({"config": Part("degraded", self.config.error)} if self.config.error else {}),
            }
        )

    def readiness(self) -> Verdict:
        """For ``/readyz``: a model is active and at least one camera delivers."""
        delivering = [camera for camera in self.cameras if camera.state == "delivering"]
        cameras = _cameras(self.cameras)
        return _verdict(
            {
                "model": _model(self.model, self.safe_mode)
                if self.model.active
                else Part("failing", _no_model(self.model)),
                "cameras": cameras if delivering else Part("failing", cameras.reason or "no camera delivers"),
            }
        )


@dataclass(frozen=True, slots=True)
class Part:
    """The judgement over one part; ``reason`` is "" when it is ok."""

    status: Health
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The worst of the parts, and the parts."""

    status: Health
    parts: Mapping[str, Part]


def _verdict(parts: dict[str, Part]) -> Verdict:
    return Verdict(max((part.status for part in parts.values()), key=_ORDER.__getitem__), parts)


def _workers(workers: tuple[WorkerStatus, ...]) -> Part:
    bad = [worker for worker in workers if worker.state in {"stuck", "failed", "restarting"}]
    reason = "; ".join(f"{worker.name} {worker.state}" for worker in bad)
    if any(worker.essential and worker.state in {"stuck", "failed"} for worker in bad):
        return Part("failing", reason)
    return Part("degraded", reason) if bad else Part("ok")


def _cameras(cameras: tuple[CameraStatus, ...]) -> Part:
    bad = [
        f"{camera.id} {camera.state}" for camera in cameras if camera.state not in {"delivering", "starting", "ended"}
    ]
    bad += [
        f"{camera.id} view {camera.view}" for camera in cameras if camera.state == "delivering" and camera.view != "ok"
    ]
    return Part("degraded", "; ".join(bad)) if bad else Part("ok")


def _no_model(model: ModelStatus) -> str:
    return model.error or "no model is active"


def _model(model: ModelStatus, safe_mode: str) -> Part:
    if safe_mode:
        return Part("degraded", f"safe mode: {safe_mode}")
    if not model.active:
        return Part("degraded", _no_model(model))
    return Part("degraded", model.error) if model.error else Part("ok")


def _outbox(outbox: OutboxStatus) -> Part:
    if outbox.state != "ok":
        return Part("degraded", outbox.reason or outbox.state)
    if outbox.dropping:
        return Part(
            "degraded", f"messages for {', '.join(outbox.dropping)} are dropped: a bound of the outbox is reached"
        )
    return Part("ok")


def _mqtt(mqtt: MqttStatus) -> Part:
    if not mqtt.enabled or mqtt.connected:
        return Part("ok")
    return Part("degraded", mqtt.last_error or "not connected")


def _sink(sink: SinkStatus) -> Part:
    return Part("degraded", sink.last_error) if sink.last_error else Part("ok")


def _host(host: HostStatus, hardware: HardwareStatus) -> Part:
    bad = []
    if host.disk_free_bytes is not None and host.disk_free_bytes < _LOW_DISK:
        bad.append(f"{host.disk_free_bytes // 2**20} MB of disk left")
    if host.clock_synchronised is False:
        bad.append("clock not synchronised")
    if hardware.throttled:
        bad.append(f"slowed down: {', '.join(hardware.throttled)}")
    return Part("degraded", "; ".join(bad)) if bad else Part("ok")


def _sensors(sensors: Mapping[str, SensorValue]) -> Part:
    bad = [f"{name} {sensor.quality}: {sensor.reason}" for name, sensor in sensors.items() if sensor.quality != "good"]
    return Part("degraded", "; ".join(bad)) if bad else Part("ok")
