"""Commands at a real broker: at QoS 1 with an expiry, none from a backlog, and none from a connection that hung."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.mosquitto import broker, subscriber, wait_for
from tests.mqtt_fixtures import delivering
from tests.mqtt_stand_in import StandIn
from tests.outbox_fixtures import running

pytestmark = pytest.mark.slow


def test_a_command_carries_its_expiry_and_the_brokers_word_comes_back(tmp_path: Path) -> None:
    said: list[str] = []
    with (
        running(tmp_path / "o.db") as outbox,
        broker(tmp_path / "b") as server,
        delivering(outbox, server.port) as sink,
    ):
        wait_for(lambda: sink.state().connected)
        assert sink.command("site/nobody", b"OPEN", 5, said.append)
        wait_for(lambda: said == ["nobody_listens"])
        with subscriber(server.port, "site/#") as device:
            assert sink.command("site/door", b"OPEN", 5, said.append)
            wait_for(lambda: said[1:] == [""])
            wait_for(lambda: device.under("site/door"))
            [message] = device.under("site/door")
        properties: Any = message.properties
        assert (message.payload, message.qos, message.retain) == (b"OPEN", 1, False)
        assert properties.MessageExpiryInterval == 5


def test_while_the_broker_is_away_nothing_is_kept_for_it(tmp_path: Path) -> None:
    said: list[str] = []
    with running(tmp_path / "o.db") as outbox, broker(tmp_path / "b") as server:
        with delivering(outbox, server.port, reconnect_spread_s=0.05) as sink:
            wait_for(lambda: sink.state().connected)
            server.kill()
            wait_for(lambda: not sink.state().connected)
            assert not sink.command("site/door", b"OPEN", 60, said.append)
            server.start()
            with subscriber(server.port, "site/#") as device:
                wait_for(lambda: sink.state().connected)
                assert sink.command("site/door", b"CLOSE", 60, said.append)
                wait_for(lambda: device.under("site/door"))
                assert [message.payload for message in device.under("site/door")] == [b"CLOSE"]
    assert said == [""]


def test_a_broker_that_does_not_confirm_loses_the_connection_in_time(tmp_path: Path) -> None:
    """So that what waits in a buffer on the way is never delivered."""
    there = StandIn(hold=1000)
    said: list[str] = []
    try:
        with running(tmp_path / "o.db") as outbox, delivering(outbox, there.port, reconnect_spread_s=0.05) as sink:
            wait_for(lambda: sink.state().connected)
            assert sink.command("site/door", b"OPEN", 1, said.append)
            wait_for(lambda: len(there.visits) >= 2, what="another connection")
            assert "was not confirmed in time" in sink.state().last_error or sink.state().connected
            sent = [
                message.payload for visit in there.visits for message in visit.published if message.topic == "site/door"
            ]
            assert sent == [b"OPEN"] and said == []
            assert there.visits[0].ended is None
    finally:
        there.close()
