"""InfluxDB and the webhook: whether they can be reached, and where it can be asked without a trace, used."""

from __future__ import annotations

import ipaddress
import socket
from functools import partial
from urllib.parse import urlsplit

from edge_agent.config import Config
from edge_agent.doctor.box import Box
from edge_agent.doctor.finding import Check, Outcome, fail, ok, warn
from edge_agent.errors import ConfigError, HardwareError, SinkUnavailable
from edge_agent.sinks.influxdb import InfluxDbSink
from edge_agent.sinks.webhook import WebhookSink

_ANSWER_S = 4.0


def checks(box: Box, area: str) -> list[Check]:
    """Of the servers that are switched on."""
    found = []
    if box.config is not None and box.config.influxdb.enabled:
        found.append(Check(area, "influxdb", partial(influxdb, box.config)))
    if box.config is not None and box.config.webhook.enabled:
        found.append(Check(area, "webhook", partial(webhook, box.config)))
    return found


def local(host: str) -> bool:
    """Whether a name or address is this box."""
    try:
        return all(ipaddress.ip_address(info[4][0]).is_loopback for info in socket.getaddrinfo(host, None))
    except (OSError, ValueError):
        return False


def influxdb(config: Config, _: Box) -> Outcome:
    """Name, port, TLS, token, organisation and bucket."""
    try:
        quick = config.influxdb.model_copy(update={"timeout_s": _ANSWER_S})
        sink = InfluxDbSink(quick, site=config.site, device=config.device or "device")
        sink.probe()
    except HardwareError as error:
        return fail(str(error), "make venv EXTRAS=influxdb, or pip install influxdb-client")
    except (ConfigError, SinkUnavailable) as error:
        return fail(str(error), "see docs/influxdb.md")
    text = f"{sink.address}: may write to bucket {config.influxdb.bucket}"
    parts = urlsplit(config.influxdb.url)
    if parts.scheme == "http" and not local(parts.hostname or ""):
        return warn(
            f"{text}; token and data cross the network in the clear", "an https:// url: docs/influxdb.md; or a VPN"
        )
    return ok(text)


def webhook(config: Config, _: Box) -> Outcome:
    """Name, port and TLS; what the server thinks of events shows with the first one."""
    try:
        sink = WebhookSink(config.webhook.model_copy(update={"timeout_s": _ANSWER_S}))
        sink.probe()
    except (ConfigError, SinkUnavailable) as error:
        return fail(str(error), "see docs/webhook.md")
    return ok(f"{sink.address}: connected; nothing was sent")
