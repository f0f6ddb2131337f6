"""The sinks that send batches, as the configuration has them."""

from __future__ import annotations

from edge_agent.config import Config
from edge_agent.sinks.influxdb import InfluxDbSink
from edge_agent.sinks.store import BatchSink
from edge_agent.sinks.webhook import WebhookSink


def batch_sinks(config: Config) -> dict[str, BatchSink]:
    """Those that are switched on, by their names in the outbox. Raises ConfigError, HardwareError (a package is missing)."""
    sinks: dict[str, BatchSink] = {}
    if config.influxdb.enabled:
        sinks["influxdb"] = InfluxDbSink(config.influxdb, site=config.site, device=config.device or "device")
    if config.webhook.enabled:
        sinks["webhook"] = WebhookSink(config.webhook)
    return sinks
