"""The ``mqtt`` section."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, StringConstraints

from edge_agent.config_base import Strict, TlsConfig

HostName = Annotated[str, StringConstraints(min_length=1, max_length=253)]
TcpPort = Annotated[int, Field(ge=1, le=65535)]
DiscoveryPrefix = Annotated[
    str, StringConstraints(pattern=r"^[^$+#/\x00-\x1f][^+#\x00-\x1f]*[^+#/\x00-\x1f]$", max_length=100)
]
SparkplugId = Annotated[str, StringConstraints(pattern=r"^[^+#/\x00-\x1f]+$", max_length=100)]
PropertyText = Annotated[str, StringConstraints(min_length=1, max_length=256)]
_FOR_EVER_S = 4_294_967_294


class Address(NamedTuple):
    """Where a broker listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class BrokerConfig(Strict):
    """One of several brokers."""

    host: HostName | None = Field(None, description="the broker's name or address; default: mqtt.host")
    port: TcpPort | None = Field(None, description="the broker's TCP port; default: mqtt.port")


class SparkplugConfig(Strict):
    """The box as an Edge Node of Sparkplug B, its cameras as Devices."""

    group_id: SparkplugId = Field(description="the group that the box belongs to")
    edge_node_id: SparkplugId | None = Field(None, description="the box in that group, unique there; default: device")


class MqttConfig(Strict):
    """The broker."""

    enabled: bool = Field(True, description="whether to use a broker")
    host: HostName = Field("localhost", description="the broker's name or address")
    port: TcpPort | None = Field(None, description="the broker's TCP port")
    brokers: list[BrokerConfig] = Field(
        default_factory=list, max_length=16, description="brokers to try in this order, in place of host and port alone"
    )
    tls: TlsConfig | None = Field(None, description="encryption; default: none")
    websocket_path: str | None = Field(
        None, pattern=r"^/[!-~]*$", max_length=500, description="MQTT over WebSocket at this path, for example /mqtt"
    )
    username: str | None = Field(None, description="user name at the broker")
    password_file: Path | None = Field(None, description="a file holding the password; or set EDGE_AGENT_MQTT_PASSWORD")
    client_id: str | None = Field(
        None, min_length=1, max_length=128, description="name of the session; default: edge-agent-<site>-<device>"
    )
    keepalive_s: int = Field(30, ge=5, le=3600, description="the connection is probed when it is silent for this long")
    in_flight: int = Field(20, ge=1, le=1000, description="messages on their way without an answer")
    session_expiry_s: int = Field(
        0, ge=0, le=_FOR_EVER_S, description="the broker remembers us for so long after a connection ended"
    )
    message_expiry_s: int | None = Field(
        None, ge=1, le=_FOR_EVER_S, description="the broker drops what it could not pass on for so long; default: never"
    )
    will_delay_s: int = Field(
        0, ge=0, le=_FOR_EVER_S, description="the broker waits so long with offline after the connection broke"
    )
    user_properties: dict[PropertyText, PropertyText] = Field(
        default_factory=dict, max_length=20, description="names and values to send with every message (MQTT 5)"
    )
    topic_alias: bool = Field(False, description="send a number in place of a topic that was sent before (MQTT 5)")
    home_assistant: bool | DiscoveryPrefix = Field(
        False,
        description="tell Home Assistant what there is by MQTT discovery; true: at its default prefix homeassistant",
    )
    sparkplug: SparkplugConfig | None = Field(None, description="state also as Sparkplug B; default: no")
    heartbeat_s: float = Field(30.0, ge=1, le=3600, description="time between heartbeats")
    reconnect_spread_s: float = Field(
        10.0, ge=0, le=3600, description="devices that lost their broker come back at random within so long"
    )
    reconnect_max_s: float = Field(60.0, ge=1, le=3600, description="longest pause between attempts")

    @property
    def discovery_prefix(self) -> str:
        """That of Home Assistant's discovery; "" where it is off."""
        return self.home_assistant if isinstance(self.home_assistant, str) else "homeassistant" * self.home_assistant

    @property
    def addresses(self) -> list[Address]:
        """The brokers in the order of preference, at least one."""
        known = {(False, False): 1883, (True, False): 8883, (False, True): 80, (True, True): 443}
        port = self.port or known[self.tls is not None, self.websocket_path is not None]
        others = [Address(broker.host or self.host, broker.port or port) for broker in self.brokers]
        return list(dict.fromkeys(others)) or [Address(self.host, port)]
