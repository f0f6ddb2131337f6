"""Made-up states of an agent."""

from __future__ import annotations

from edge_agent.health.status import (
    AgentStatus,
    CameraStatus,
    HardwareStatus,
    HostStatus,
    ModelStatus,
    MqttStatus,
    OutboxStatus,
    WorkerStatus,
)


def agent_status(**changes: object) -> AgentStatus:
    """A healthy agent with one camera."""
    values: dict[str, object] = {
        "site": "mill",
        "device": "box-7",
        "version": "0.1.0",
        "boot_id": "7d6b2f0e-3c52-4a6e-9a52-0c1f6f3c9a11",
        "config_hash": "c0ffee" * 10 + "abcd",
        "uptime_s": 83.4,
        "cameras": (CameraStatus("gate", "delivering", fps=6.98, latency_ms=34.2, age_s=0.12, people=3, frames=345),),
        "workers": (WorkerStatus("detect-0", essential=True, state="running"),),
        "outbox": OutboxStatus({"event": 2, "metric": 1}, 12.5, 40960, 30, 0),
        "mqtt": MqttStatus(enabled=True, connected=True, since=1.0, address="localhost:1883"),
        "model": ModelStatus("person-n", "1.0.0", "ab" * 32, "onnxruntime", active=True),
        "host": HostStatus(50.0, 141.0, 190 << 20, 8 << 30, 6 << 30, 64 << 30, 20 << 30, True),
        "hardware": HardwareStatus(51.2, "tj-thermal", (), 0.0, {"VDD_IN": 7.06, "VDD_SOC": 2.0}),
    }
    return AgentStatus(**{**values, **changes})  # type: ignore[arg-type]
