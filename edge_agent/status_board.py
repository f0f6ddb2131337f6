"""What the parts say about themselves, as the status that REST, heartbeat and panel are made from."""

from __future__ import annotations

import time

from edge_agent.capture.worker import CaptureWorker
from edge_agent.health.status import CameraStatus, MqttStatus, OutboxStatus, SinkStatus
from edge_agent.outbox import OutboxStat
from edge_agent.pipeline import CameraChain
from edge_agent.sinks.batch import BatchPump
from edge_agent.sinks.mqtt import MqttSink


def camera_status(capture: CaptureWorker, chain: CameraChain, model: str) -> CameraStatus:
    """One camera: what was captured and what came of it. ``fps`` is of processed frames."""
    seen, done = capture.stats, chain.stats
    age = None if seen.last_frame is None else time.monotonic() - seen.last_frame
    return CameraStatus(
        id=capture.camera.id,
        state=seen.state,
        view=seen.view,
        fps=done.recent_fps(time.monotonic()),
        latency_ms=done.latency_s * 1000 if done.frames else None,
        age_s=age,
        people=done.people,
        open_episodes=chain.open_episodes,
        frames=done.frames,
        dropped=capture.dropped,
        failed=done.failed,
        reconnects=seen.reconnects,
        size=seen.size,
        model=model,
        last_error=seen.last_error or done.last_error,
        length=capture.length,
    )


def outbox_status(stat: OutboxStat) -> OutboxStatus:
    """The store."""
    return OutboxStatus(
        depth=stat.depth,
        oldest_age_s=stat.oldest_age_s,
        bytes=stat.bytes,
        accepted=sum(stat.accepted.values()),
        dropped=sum(stat.dropped.values()),
        state="ok" if stat.state == "ok" else "failing",
        reason=stat.reason,
        refused=sum(stat.refused.values()),
        dropping=tuple(name for name, sink in stat.sinks.items() if sink.dropping),
        waits_for={name: sum(sink.depth.values()) for name, sink in stat.sinks.items()},
    )


def mqtt_status(sink: MqttSink | None) -> MqttStatus:
    """The broker."""
    if sink is None:
        return MqttStatus()
    state = sink.state()
    return MqttStatus(
        enabled=True,
        connected=state.connected,
        since=state.since,
        last_error=state.last_error,
        address=state.address,
    )


def sink_status(pump: BatchPump) -> SinkStatus:
    """A sink that sends batches."""
    state = pump.state
    return SinkStatus(pump.name, pump.address, state.delivered, state.refused, state.failures, state.last_error)
