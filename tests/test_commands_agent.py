"""Commands to the whole agent, as its user runs it, over a real broker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.agent_process import RunningAgent, write_config
from tests.command_fixtures import ANSWERS, ROOT, Asker
from tests.mosquitto import broker, subscriber, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("vtest_video")]


@contextmanager
def commanded(root: Path, folder: Path, *arguments: str, **change: Any) -> Iterator[tuple[RunningAgent, Asker]]:
    """A running agent that is connected to a broker, and whoever commands it."""
    video = {"id": "pets", "source": str(root / ".cache" / "vtest.avi"), "fps": 7, "max_fps": 2}
    with broker(folder / "broker") as server:
        mqtt = {"host": "127.0.0.1", "port": server.port, "reconnect_max_s": 1, "reconnect_spread_s": 0}
        config = write_config(root, folder, **{"mqtt": mqtt, "cameras": [video], **change})
        with subscriber(server.port) as sub, RunningAgent(folder, "-c", config, "--realtime", *arguments) as agent:
            wait_for(lambda: sub.under("/status"), 60, "the agent's status, which it sends after it has subscribed")
            yield agent, Asker(sub)


def test_a_ping_is_answered_where_the_asker_wants_it_and_else_beside_the_command(root: Path, tmp_path: Path) -> None:
    with commanded(root, tmp_path) as (agent, asker):
        correlation = asker.send("ping", {"id": "a1"})
        plain = asker.send("ping", to=None)
        wait_for(lambda: asker.answers(correlation) and asker.answers(plain))
        ((topic, answer),) = asker.answers(correlation)
        assert topic == ANSWERS and (answer["id"], answer["command"], answer["ok"]) == ("a1", "ping", True)
        assert answer["result"]["boot_id"] == json.loads(asker.sub.under("/status")[0].payload)["boot_id"]
        ((topic, answer),) = asker.answers(plain)
        assert topic == ROOT + "commands/ping/reply" and "id" not in answer and answer["ok"]
        assert agent.end() == 0
