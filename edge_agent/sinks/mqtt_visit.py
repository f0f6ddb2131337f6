"""Short connections beside the one that delivers: to look, to leave one message."""

from __future__ import annotations

import time
from collections.abc import Callable

from typing_extensions import TypedDict

from edge_agent.config_mqtt import Address, MqttConfig
from edge_agent.errors import SinkError
from edge_agent.sinks.mqtt_connection import ClosedUnanswered, Connection, Refused, too_new


class Probe(TypedDict):
    """An empty document, to see whether the broker takes it."""


def visit(config: MqttConfig, address: Address, client_id: str, stopping: Callable[[], bool]) -> Connection:
    """An open connection that leaves nothing behind, in the protocol that the broker speaks. Raises SinkUnavailable."""
    connection = Connection(config, address, client_id, "5.0", lambda: None)
    try:
        connection.open(stopping)
    except (Refused, ClosedUnanswered) as error:
        connection.close()
        if not too_new(error):
            raise
    except SinkError:
        connection.close()
        raise
    else:
        return connection
    connection = Connection(config, address, client_id, "3.1.1", lambda: None)
    try:
        connection.open(stopping)
    except SinkError:
        connection.close()
        raise
    return connection


def acknowledged(connection: Connection, mid: int, within_s: float) -> tuple[int, str] | None:
    """Reason code of the PUBACK of ``mid``, and the name of one that is an error; None where it does not come. Raises SinkError."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        for answered, code, reason in connection.acks():
            if answered == mid:
                return code, reason
        connection.check()
        time.sleep(0.02)
    return None
