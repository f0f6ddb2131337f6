"""What survives a power cut: the agent is killed (-9) again and again, the broker comes and goes, and every event is counted.

``python -m benchmarks.crash_loop --kills 30 --seed 1 [--json]``. Two cameras on the pedestrian video, a real mosquitto behind a
gate that can be shut (so that what the broker took is never lost behind the agent's back), and a subscriber that keeps
everything. Kills strike while the agent starts, runs and stops, with the gate open or shut. Exit code 1 when a promise is
broken: ``sequence`` gapless from 1 up to the last number given out, a second delivery only with the same id and content,
first deliveries of a camera in order, every episode that was started ended exactly once.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.chaos_link import Link
from tests.mosquitto import Mosquitto, Subscriber, broker, subscriber, wait_for

ROOT = Path(__file__).parent.parent
MOMENTS = ("start", "start", "run", "run", "run", "stop")


@dataclass
class Report:
    """What came of the run; ``broken`` names every promise that was not kept."""

    kills: int
    seed: int
    moments: dict[str, int] = field(default_factory=dict)
    gate_shut: int = 0
    events: int = 0
    duplicates: int = 0
    episodes: int = 0
    ended_by: dict[str, int] = field(default_factory=dict)
    last_sequence: int = 0
    duration_s: float = 0.0
    broken: list[str] = field(default_factory=list)


class Run:
    """One state folder, one broker, many lives of the agent."""

    def __init__(self, kills: int, seed: int, folder: Path) -> None:
        self.report = Report(kills, seed)
        self.random = random.Random(seed)
        self.folder = folder
        self.log = folder / "agent.log"

    def go(self) -> Report:
        """All kills, a last life that delivers everything, then the judgement."""
        began = time.monotonic()
        with broker(self.folder / "broker") as server, subscriber(server.port, "edge/v1/lab/box1/events/#") as seen:
            self._go(server, seen)
            events = [json.loads(message.payload) for message in list(seen.messages)]
        self.report.duration_s = round(time.monotonic() - began, 1)
        judge(self.report, events)
        return self.report

    def _go(self, server: Mosquitto, seen: Subscriber) -> None:
        gate = Link("127.0.0.1")
        gate.target = server.port
        config = self._write_config(gate.port)
        moments: Counter[str] = Counter()
        for _ in range(self.report.kills):
            shut = self.random.random() < 0.4
            self.report.gate_shut += shut
            _set(gate, not shut)
            moments[self._life(config, gate)] += 1
        self.report.moments = dict(moments)
        _set(gate, True)
        with self._agent(config) as agent:
            self._wait(agent, "delivering")
            agent.send_signal(signal.SIGTERM)
            if agent.wait(15) != 0:
                self.report.broken.append(f"the last life ended with {agent.returncode}")
        with self._agent(config, "--max-frames", "1"):
            wait_for(lambda: self._waiting() == 0, 60, "the outbox to be empty")
        self.report.last_sequence = self._last_sequence()

    def _life(self, config: Path, gate: Link) -> str:
        """One life of the agent and its violent end; the moment that it ended in."""
        moment = self.random.choice(MOMENTS)
        with self._agent(config) as agent:
            if moment == "start":
                self._sleep(0.0, 2.0)
                return moment
            self._wait(agent, "delivering")
            self._sleep(0.5, 4.0)
            if self.random.random() < 0.5:
                _set(gate, self.random.random() < 0.5)
                self._sleep(0.0, 2.0)
            if moment == "stop":
                agent.send_signal(signal.SIGTERM)
                self._sleep(0.0, 0.6)
        return moment

    @contextlib.contextmanager
    def _agent(self, config: Path, *more: str) -> Iterator[subprocess.Popen[bytes]]:
        """Alive inside, killed with -9 at the end."""
        command = [sys.executable, "-m", "edge_agent.cli", "run", "-c", str(config), "--realtime", *more]
        self.log.write_bytes(b"")
        with self.log.open("ab") as log, self._whole_log().open("ab") as whole:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
            try:
                yield process
            finally:
                process.kill()
                process.wait(10)
                whole.write(self.log.read_bytes())

    def _whole_log(self) -> Path:
        return self.folder / "all.log"

    def _wait(self, agent: subprocess.Popen[bytes], text: str) -> None:
        wait_for(lambda: text.encode() in self.log.read_bytes() or agent.poll() is not None, 60, f"{text!r} in the log")
        if agent.poll() is not None:
            raise RuntimeError(f"the agent ended with {agent.returncode}: {self.log.read_text()[-2000:]}")

    def _sleep(self, least: float, most: float) -> None:
        time.sleep(self.random.uniform(least, most))

    def _query(self, sql: str) -> Any:
        with contextlib.closing(sqlite3.connect(self.folder / "state" / "outbox.db", timeout=5)) as database:
            return database.execute(sql).fetchone()

    def _waiting(self) -> int:
        return int(self._query("SELECT count(*) FROM message")[0])

    def _last_sequence(self) -> int:
        return int(self._query("SELECT value FROM meta WHERE key='sequence'")[0])

    def _write_config(self, port: int) -> Path:
        config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
        camera = config["cameras"][0] | {"source": str(ROOT / ".cache" / "vtest.avi"), "fps": 10}
        config |= {
            "site": "lab",
            "device": "box1",
            "state_dir": str(self.folder / "state"),
            "models_dir": str(ROOT / "models"),
            "http": {"enabled": False},
            "cameras": [copy.deepcopy(camera) | {"id": name} for name in ("one", "two")],
            "mqtt": {"host": "127.0.0.1", "port": port, "reconnect_max_s": 1, "heartbeat_s": 1},
        }
        config["use_cases"]["social_distancing"] |= {"min_duration_s": 0.3, "update_at_s": [0.5, 1, 2, 3, 4]}
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path


def _set(gate: Link, wanted: bool) -> None:
    (gate.unshut if wanted else gate.shut)("no broker")


def judge(report: Report, events: Sequence[dict[str, Any]]) -> None:
    """Every promise against what the subscriber got, in the order of arrival."""
    first: dict[int, dict[str, Any]] = {}
    for event in events:
        number = int(event["sequence"])
        if number not in first:
            first[number] = event
        elif first[number] == event:
            report.duplicates += 1
        else:
            report.broken.append(f"sequence {number} came with two contents")
    if len({event["id"] for event in first.values()}) != len(first):
        report.broken.append("one id with two sequence numbers")
    if missing := sorted(set(range(1, report.last_sequence + 1)) ^ set(first)):
        report.broken.append(f"sequence numbers missing or too many: {missing[:20]}")
    last: dict[str, int] = {}
    for number, event in first.items():
        if number < last.get(event["source"], 0):
            report.broken.append(f"{event['source']}: {number} after {last[event['source']]}")
        last[event["source"]] = number
    report.events = len(first)
    _judge_episodes(report, [first[number] for number in sorted(first)])


def _judge_episodes(report: Report, events: Sequence[dict[str, Any]]) -> None:
    state: dict[str, str] = {}
    ended: Counter[str] = Counter()
    for event in events:
        subject, what = event["subject"], event["type"].rpartition(".")[2]
        if what not in ("started", "updated", "ended"):
            continue
        before = state.get(subject, "")
        if (what == "started") != (before == "") or before == "ended":
            report.broken.append(f"episode {subject}: {what} after {before or 'nothing'}")
        state[subject] = what
        if what == "ended":
            ended[str(event["data"]["reason"])] += 1
    report.episodes = len(state)
    report.ended_by = dict(ended)
    report.broken += [f"episode {subject} was never ended" for subject, what in state.items() if what != "ended"]


def main() -> int:
    """Run, print, and say by the exit code whether all promises were kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave state and logs there")
    args = parser.parse_args()
    os.environ.pop("EDGE_AGENT_MQTT_PASSWORD", None)
    with tempfile.TemporaryDirectory() as made:
        folder = args.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        report = Run(args.kills, args.seed, folder).go()
    if args.json:
        print(json.dumps(asdict(report)))
    else:
        for name, value in asdict(report).items():
            print(f"{name:>14}  {value}")
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
