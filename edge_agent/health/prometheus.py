"""The state in Prometheus' text exposition format 0.0.4.

Our own writer: the format is forty lines, ``prometheus_client`` keeps a global registry and metric objects of its own,
and everything shown here is a plain number we already hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias, get_args

from edge_agent.health.status import AgentStatus, CameraStatus, HardwareStatus, HostStatus, OutboxStatus, Throttling
from edge_agent.types import CameraState, SensorValue

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels: TypeAlias = Mapping[str, str]
Sample: TypeAlias = tuple[Labels, "float | int | bool | None"]


class Writer:
    """Collects metric families; each name once. Label and metric names are ours and fixed, label values are anybody's."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: Literal["counter", "gauge"], help_text: str, samples: Iterable[Sample]) -> None:
        """One metric with all its samples; a value of None is left out, a family without samples too."""
        lines = [f"{name}{_labels(labels)} {_number(value)}" for labels, value in samples if value is not None]
        if lines:
            self._lines += [f"# HELP {name} {_escape_help(help_text)}", f"# TYPE {name} {kind}", *lines]

    def text(self) -> str:
        """Everything, with the line feed the format asks for at the end."""
        return "\n".join(self._lines) + "\n"


def escape_label(value: str) -> str:
    """Backslash, double quote and line feed, as the format asks."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _labels(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{escape_label(value)}"' for name, value in labels.items()) + "}" if labels else ""


def _number(value: float | int | bool) -> str:
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        if math.isinf(value):
            return "+Inf" if value > 0 else "-Inf"
        return repr(value)
    return str(int(value))


def exposition(status: AgentStatus) -> str:
    """``/metrics``."""
    out = Writer()
    info = {"site": status.site, "device": status.device, "version": status.version, "config": status.config_hash[:12]}
    out.family("edge_agent_info", "gauge", "Always 1; who this is.", [(info, 1)])
    out.family("edge_agent_uptime_seconds", "gauge", "Since the process began.", [({}, status.uptime_s)])
    levels = {"ok": 0, "degraded": 1, "failing": 2}
    verdict = status.liveness()
    parts: list[Sample] = [({"part": name}, levels[part.status]) for name, part in verdict.parts.items()]
    out.family("edge_agent_health", "gauge", "0 ok, 1 degraded, 2 failing.", parts)
    out.family(
        "edge_agent_safe_mode", "gauge", "1 while inference is off after crashes.", [({}, bool(status.safe_mode))]
    )
    model = status.model
    labels = {"name": model.name, "version": model.version, "sha256": model.sha256, "backend": model.backend}
    out.family("edge_agent_model_active", "gauge", "1 while the model is loaded.", [(labels, model.active)])
    _cameras(out, status.cameras)
    _outbox(out, status.outbox)
    mqtt = status.mqtt
    out.family(
        "edge_agent_mqtt_connected",
        "gauge",
        "1 while the broker is there.",
        [({}, mqtt.connected)] if mqtt.enabled else [],
    )
    well: list[Sample] = [({"sink": sink.name}, not sink.last_error) for sink in status.sinks]
    out.family("edge_agent_sink_up", "gauge", "0 while a sink beside MQTT cannot deliver.", well)
    delivered: list[Sample] = [({"sink": sink.name}, sink.delivered) for sink in status.sinks]
    out.family("edge_agent_sink_delivered_total", "counter", "Messages a sink beside MQTT delivered.", delivered)
    workers: list[Sample] = [({"worker": worker.name}, worker.restarts) for worker in status.workers]
    out.family("edge_agent_worker_restarts_total", "counter", "Crashes that were followed by a new start.", workers)
    stuck: list[Sample] = [({"worker": worker.name}, worker.state == "stuck") for worker in status.workers]
    out.family("edge_agent_worker_stuck", "gauge", "1 while past the deadline of one unit of work.", stuck)
    _host(out, status.host)
    _hardware(out, status.hardware)
    _sensors(out, status.sensors)
    return out.text()


def _cameras(out: Writer, cameras: tuple[CameraStatus, ...]) -> None:
    def each(name: str, kind: Literal["counter", "gauge"], help_text: str, attribute: str) -> None:
        out.family(name, kind, help_text, [({"camera": c.id}, getattr(c, attribute)) for c in cameras])

    states: list[Sample] = [
        ({"camera": camera.id, "state": state}, camera.state == state)
        for camera in cameras
        for state in get_args(CameraState)
    ]
    out.family("edge_agent_camera_state", "gauge", "1 for the state the camera is in.", states)
    view: list[Sample] = [({"camera": camera.id}, camera.view == "ok") for camera in cameras]
    out.family("edge_agent_camera_view_ok", "gauge", "0 while black, frozen or covered.", view)
    each("edge_agent_camera_fps", "gauge", "Processed frames per second.", "fps")
    latency: list[Sample] = [({"camera": c.id}, None if c.latency_ms is None else c.latency_ms / 1000) for c in cameras]
    out.family("edge_agent_camera_latency_seconds", "gauge", "From capture to facts.", latency)
    each("edge_agent_camera_frame_age_seconds", "gauge", "Age of the last frame.", "age_s")
    each("edge_agent_camera_people", "gauge", "People seen now.", "people")
    each("edge_agent_camera_open_episodes", "gauge", "Violations that have not ended.", "open_episodes")
    each("edge_agent_camera_frames_total", "counter", "Frames processed.", "frames")
    each(
        "edge_agent_camera_frames_dropped_total", "counter", "Frames that nobody took before the next came.", "dropped"
    )
    each("edge_agent_camera_frames_failed_total", "counter", "Frames on which inference failed.", "failed")
    each("edge_agent_camera_reconnects_total", "counter", "Times the source was opened again.", "reconnects")


def _outbox(out: Writer, outbox: OutboxStatus) -> None:
    depth: list[Sample] = [({"priority": name}, count) for name, count in outbox.depth.items()]
    out.family("edge_agent_outbox_messages", "gauge", "Messages waiting for delivery.", depth)
    out.family("edge_agent_outbox_oldest_age_seconds", "gauge", "Age of the oldest one.", [({}, outbox.oldest_age_s)])
    out.family("edge_agent_outbox_bytes", "gauge", "Size on disk.", [({}, outbox.bytes)])
    out.family("edge_agent_outbox_accepted_total", "counter", "Messages taken in.", [({}, outbox.accepted)])
    out.family("edge_agent_outbox_dropped_total", "counter", "Messages given up.", [({}, outbox.dropped)])
    out.family("edge_agent_outbox_refused_total", "counter", "Messages a sink will never take.", [({}, outbox.refused)])
    sinks: list[Sample] = [({"sink": name}, count) for name, count in outbox.waits_for.items()]
    out.family("edge_agent_outbox_sink_messages", "gauge", "Messages waiting for a sink.", sinks)


def _host(out: Writer, host: HostStatus) -> None:
    def share(percent: float | None) -> float | None:
        return None if percent is None else percent / 100

    out.family("edge_agent_host_cpu_ratio", "gauge", "Busy share of all cores.", [({}, share(host.cpu_pct))])
    own = share(host.process_cpu_pct)
    out.family("edge_agent_process_cpu_ratio", "gauge", "Cores this process keeps busy.", [({}, own)])
    out.family("edge_agent_process_resident_memory_bytes", "gauge", "RSS.", [({}, host.rss_bytes)])
    out.family("edge_agent_host_memory_available_bytes", "gauge", "RAM left.", [({}, host.ram_available_bytes)])
    out.family("edge_agent_host_memory_total_bytes", "gauge", "RAM.", [({}, host.ram_total_bytes)])
    out.family(
        "edge_agent_host_disk_free_bytes", "gauge", "Disk left where the state lies.", [({}, host.disk_free_bytes)]
    )
    clock = host.clock_synchronised
    out.family(
        "edge_agent_host_clock_synchronised", "gauge", "1 while the kernel's clock is disciplined.", [({}, clock)]
    )


def _hardware(out: Writer, hardware: HardwareStatus) -> None:
    hot = hardware.temperature_c
    out.family("edge_agent_host_temperature_celsius", "gauge", "The hottest part.", [({}, hot)])
    throttled = hardware.throttled
    reasons: list[Sample] = [
        ({"reason": why}, None if throttled is None else why in throttled) for why in get_args(Throttling)
    ]
    out.family("edge_agent_host_throttled", "gauge", "1 while the box is slowed down for that reason.", reasons)
    slow_s: list[Sample] = [({}, hardware.throttled_s)]
    out.family("edge_agent_host_throttled_seconds_total", "counter", "Time slowed down since the start.", slow_s)
    rails: list[Sample] = [({"rail": rail}, watts) for rail, watts in hardware.power_w.items()]
    out.family("edge_agent_host_power_watts", "gauge", "What a rail delivers.", rails)


def _sensors(out: Writer, sensors: Mapping[str, SensorValue]) -> None:
    good: list[Sample] = [({"sensor": name}, sensor.quality == "good") for name, sensor in sensors.items()]
    out.family("edge_agent_sensor_good", "gauge", "0 while there is no value to rely on.", good)
    values: list[Sample] = [
        ({"sensor": name, "unit": sensor.unit}, sensor.value if sensor.quality == "good" else None)
        for name, sensor in sensors.items()
    ]
    out.family("edge_agent_sensor_value", "gauge", "The latest value, while it is good.", values)
