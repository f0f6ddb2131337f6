"""The state of the moment as metrics of Sparkplug: the box is the Edge Node, each camera a Device."""

from __future__ import annotations

from typing import Protocol

from edge_agent.config import Config
from edge_agent.health.status import AgentStatus, CameraStatus
from edge_agent.sinks.sparkplug import Device, Reading, Sparkplug
from edge_agent.sinks.sparkplug_payload import Metric


class Told(Protocol):
    """The agent, as Sparkplug sees it."""

    config: Config
    device: str

    def status(self) -> AgentStatus:
        """The state of the moment; from any thread, cheap."""


def sparkplug_sink(agent: Told) -> Sparkplug | None:
    """None where it is off."""
    config = agent.config
    if config.mqtt.sparkplug is None:
        return None
    return Sparkplug(
        config.mqtt,
        client_id=config.mqtt.client_id or f"edge-agent-{config.site}-{agent.device}",
        device=agent.device,
        state_dir=config.state_dir,
        read=lambda: reading(agent.status()),
    )


def reading(status: AgentStatus) -> Reading:
    """Names and types are the same whatever the state is; what is not known has no value."""
    host, hardware = status.host, status.hardware
    used = None
    if host.ram_total_bytes and host.ram_available_bytes is not None:
        used = 100 * (1 - host.ram_available_bytes / host.ram_total_bytes)
    node = [
        Metric("Properties/Version", "String", status.version),
        Metric("Properties/Boot ID", "String", status.boot_id),
        Metric("Properties/Config Hash", "String", status.config_hash[:12]),
        Metric("Health/Status", "String", status.liveness().status),
        Metric("Health/Last Error", "String", status.last_error[:300]),
        Metric("Model/Name", "String", status.model.name),
        Metric("Model/Version", "String", status.model.version),
        Metric("Outbox/Depth", "Int64", status.outbox.waiting),
        Metric("Outbox/Dropped", "Int64", status.outbox.dropped),
        Metric("Host/CPU", "Double", _rounded(host.cpu_pct, 0)),
        Metric("Host/Memory", "Double", _rounded(used, 0)),
        Metric("Host/Disk Free", "Int64", None if host.disk_free_bytes is None else host.disk_free_bytes // 2**20),
        Metric("Host/Temperature", "Double", _rounded(hardware.temperature_c, 0)),
        Metric("Host/Power", "Double", _rounded(hardware.input_w, 1)),
        Metric("Host/Slowed Down", "Boolean", None if hardware.throttled is None else bool(hardware.throttled)),
        Metric("Host/Clock Synchronised", "Boolean", host.clock_synchronised),
    ]
    return Reading(node, [_camera(camera) for camera in status.cameras])


def _camera(camera: CameraStatus) -> Device:
    metrics = [
        Metric("State", "String", camera.state),
        Metric("View", "String", camera.view),
        Metric("People", "Int64", camera.people),
        Metric("Open Episodes", "Int64", camera.open_episodes),
        Metric("Frame Rate", "Double", _rounded(camera.fps, 1)),
        Metric("Latency", "Double", _rounded(camera.latency_ms, 0)),
        Metric("Frames Dropped", "Int64", camera.dropped),
        Metric("Reconnects", "Int64", camera.reconnects),
    ]
    return Device(camera.id, camera.state == "delivering", metrics)


def _rounded(value: float | None, digits: int) -> float | None:
    """So that only what changed is sent."""
    return None if value is None else round(value, digits)
