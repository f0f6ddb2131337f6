"""What the fault tests run in a process of its own: a writer to be killed, and a disk too small or read-only.

``python -m tests.outbox_processes write PATH`` writes for ever; each line it prints is a number whose event is accepted.
``python -m tests.outbox_processes send PATH PORT`` puts and delivers thirty events, a few at a time, and prints their ids.
``python -m tests.outbox_processes disk FOLDER``, in a mount namespace of its own, prints what a full and a read-only disk do.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

from edge_agent.config_mqtt import MqttConfig
from edge_agent.outbox.verify import verify
from edge_agent.sinks.mqtt import MqttSink
from edge_agent.types import Event
from tests.mosquitto import wait_for
from tests.outbox_fixtures import make_event, make_outbox, rows, running


def write(path: Path) -> None:
    """Episodes that start, are updated and sometimes end, as fast as the disk takes them; two sinks, one takes what it likes."""
    rng = random.Random(0)
    outbox = make_outbox(path, commit_ms=2, sinks=("mqtt", "influxdb"))
    outbox.start()
    taker = outbox.outlet("influxdb")
    for n in range(10**9):
        batch: list[Event] = []
        for part in range(rng.randint(1, 5)):
            name = f"{outbox.stat().sequence}-{n}-{part}"
            batch.append(make_event(n, "started", name))
            batch.append(make_event(n + 4, "updated", name, note="seen"))
            if rng.random() < 0.7:
                batch.append(make_event(n + 5, "ended", name))
        outbox.put(batch)
        taker.acknowledge([row.row for row in taker.read(0, 0, 20) if rng.random() < 0.6])
        if outbox.flush(10):
            print(n, batch[-1].id, flush=True)


def send(path: Path) -> None:
    """Each is put while the sink waits for it: were it sent before it is on disk, that would show."""
    config = MqttConfig(host="127.0.0.1", port=int(sys.argv[3]))
    with running(path, commit_ms=1) as outbox:
        sink = MqttSink(
            config, outbox.outlet("mqtt"), site="s", device="d", boot_id="b", version="0", on_alarm=lambda _: None
        )
        sink.start()
        wait_for(lambda: sink.state().connected, 60)
        count = 0
        while count < 30:
            batch = [make_event(count + n) for n in range(1 + count % 3)]
            outbox.put(batch)
            count += len(batch)
            wait_for(lambda count=count: sink.state().acked == count, 60)  # type: ignore[misc]
            print(*(event.id for event in batch), sep="\n", flush=True)
        sink.stop(5.0)


def disk(folder: Path) -> None:
    """A tmpfs of 2 MB, filled by somebody else, freed; then read-only when the agent starts, and writable again."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], check=True)
    said: dict[str, object] = {}
    with running(folder / "o.db", queue=5000, max_mb=64) as outbox:
        outbox.put([make_event(0)])
        assert outbox.flush(30)
        (folder / "filler").write_bytes(b"x" * (2**21 - 400_000))
        outbox.put([make_event(n, text="x" * 300) for n in range(1, 1001)])
        wait_for(lambda: outbox.stat().state == "degraded")
        said["full"] = outbox.stat().reason
        said["flush while full"] = outbox.flush(0.3)
        (folder / "filler").unlink()
        said["flush when freed"] = outbox.flush(20)
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    with running(folder / "o.db", queue=5000, max_mb=64) as outbox:
        outbox.put([make_event(1001)])
        said["read-only at start"] = outbox.stat().reason
        said["flush while read-only"] = outbox.flush(0.3)
        subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
        said["flush when writable"] = outbox.flush(20)
        said["numbers"] = [json.loads(row.payload)["data"]["n"] for row in rows(outbox)]
        said["sequences"] = [int(json.loads(row.payload)["sequence"]) for row in rows(outbox)]
        wait_for(lambda: outbox.stat().state == "ok")
        said["state"] = outbox.stat().state
    said["problems"] = verify(folder / "o.db").problems
    print(json.dumps(said))


if __name__ == "__main__":
    {"write": write, "send": send, "disk": disk}[sys.argv[1]](Path(sys.argv[2]))
