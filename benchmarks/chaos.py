"""Everything at once: agent and broker are killed, the link is cut, slowed and stalled, the disk is filled; nothing may be lost.

    python -m benchmarks.chaos --minutes 65 --seed 1 [--json] [--keep FOLDER]

The agent is a child process (``benchmarks.chaos_agent``) that says of each event when it is on disk. Between it and a real
mosquitto lies a link (``benchmarks.chaos_link``) that writes down what was sent and what the broker confirmed; a subscriber
with a persistent session writes down what came. The judge (``benchmarks.chaos_judge``) compares the three. What a killed
broker had confirmed and did not pass on is shown apart: that is not the agent's loss. When each fault strikes and how is
drawn from the seed. Cable and disk need root; what this machine lacks is skipped and named. Exit code 1 on any broken promise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from benchmarks.chaos_judge import Ledger, Report, identify, show
from benchmarks.chaos_link import Link
from benchmarks.chaos_world import Cable, Lacking, SmallDisk
from edge_agent.outbox.verify import verify
from tests.mosquitto import Mosquitto, Subscriber, wait_for

RATE = 15.0
"""Events a second from each of three cameras."""
SETTLE_S = 60.0
"""In the end: for the agent to start, and for each message fewer in the outbox."""


class Chaos:
    """One state folder, two brokers of which one runs, many lives of the agent."""

    def __init__(self, minutes: float, seed: int, folder: Path) -> None:
        self.report = Report(seed, minutes)
        self.folder = folder
        self._faults: Counter[str] = Counter()
        self._over = threading.Event()
        self._received = Ledger()
        self._cleanup = contextlib.ExitStack()
        self._cable: Cable | None = None
        self._disk: SmallDisk | None = None
        with self._lacking():
            self._cable = Cable()
            self._cleanup.callback(self._cable.close)
        with self._lacking():
            self._disk = SmallDisk(folder / "disk")
            self._cleanup.callback(self._disk.close)
        self._state = folder / "disk" / "state"
        self._host = self._cable.host if self._cable else "127.0.0.1"
        self._link = Link(self._host)
        keep = ("persistence true", f"persistence_location {folder}/persistent/", "autosave_interval 1")
        self._brokers = {
            "with persistence": Mosquitto(folder / "persistent", extra=keep),
            "without persistence": Mosquitto(folder / "forgetful"),
        }
        for server in self._brokers.values():
            self._cleanup.callback(server.kill)
        self._kind = "with persistence"
        self._subscriber: Subscriber | None = None
        self._lives = 0

    @contextlib.contextmanager
    def _lacking(self) -> Iterator[None]:
        try:
            yield
        except Lacking as error:
            self.report.skipped.append(str(error))

    # ---- the run

    def go(self) -> Report:
        """All faults for so long, then peace until all is delivered, then the judgement."""
        began = time.monotonic()
        with self._cleanup:
            self._broker_up()
            acts = {
                "agent": self._agent_life,
                "broker": self._outage,
                "link": self._link_fault,
                "disk": self._disk_full,
            }
            threads = [threading.Thread(target=self._repeat, args=item) for item in acts.items()]
            for thread in threads:
                thread.start()
            try:
                self._over.wait(self.report.minutes * 60)
            finally:
                self._over.set()
                for thread in threads:
                    thread.join()
            self._settle()
            self._judge()
        self.report.faults = dict(sorted(self._faults.items()))
        self.report.duration_s = round(time.monotonic() - began, 1)
        return self.report

    def _repeat(self, kind: str, act: Callable[[random.Random], None]) -> None:
        rng = random.Random(f"{self.report.seed} {kind}")
        try:
            while not self._over.is_set():
                act(rng)
        except Exception:  # noqa: BLE001 - a fault that cannot be made ends the run, not its thread alone
            self.report.broken.append(f"{kind}: {traceback.format_exc(limit=3)}")
            self._over.set()

    def _settle(self) -> None:
        """A last life that delivers everything and stops as it should."""
        with self._agent(rate=0.0) as agent:
            try:
                wait_for(self._accepted_file().exists, SETTLE_S, "the last life")
                while (depth := self._query("SELECT count(*) FROM message")) > 0:
                    wait_for(lambda: self._query("SELECT count(*) FROM message") < depth, SETTLE_S, "fewer messages")
            except AssertionError as error:
                self.report.broken.append(str(error))
            agent.send_signal(signal.SIGTERM)
            if agent.wait(15) != 0:
                self.report.broken.append(f"the last life ended with {agent.returncode}")
        self._quiet()
        self._broker_down(signal.SIGTERM)
        self.report.broken += verify(self._state / "outbox.db").problems

    def _judge(self) -> None:
        self.report.last_sequence = self._query("SELECT value FROM meta WHERE key='sequence'")
        files = sorted(self.folder.glob("accepted-*"))
        accepted = [line for file in files for line in file.read_text().splitlines()]
        link = self._link
        self.report.judge(accepted, link.sent, link.acknowledged, link.repeated, self._received)

    def _query(self, sql: str) -> int:
        with contextlib.closing(
            sqlite3.connect(f"file:{self._state}/outbox.db?mode=ro", uri=True, timeout=5)
        ) as database:
            return int(database.execute(sql).fetchone()[0])

    # ---- the agent

    @contextlib.contextmanager
    def _agent(self, rate: float) -> Iterator[subprocess.Popen[bytes]]:
        """Alive inside, killed with -9 at the end."""
        self._lives += 1
        command = [
            sys.executable,
            "-m",
            "benchmarks.chaos_agent",
            str(self._state),
            self._host,
            str(self._link.port),
        ]
        command += [str(self._accepted_file()), "--life", str(self._lives), "--rate", str(rate)]
        if self._cable:
            command = self._cable.inside(command)
        with (self.folder / "agent.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                yield process
            finally:
                process.kill()
                process.wait(10)

    def _accepted_file(self) -> Path:
        return self.folder / f"accepted-{self._lives:05}"

    def _agent_life(self, rng: random.Random) -> None:
        end = rng.choice(("killed",) * 8 + ("stopped", "killed while it stops"))
        until = time.monotonic() + rng.choice((rng.uniform(0.2, 2.0), *[rng.uniform(2.0, 14.0)] * 4))
        with self._agent(RATE) as agent:
            while time.monotonic() < until and not self._over.wait(0.05):
                if agent.poll() is not None:
                    raise RuntimeError(f"the agent ended by itself with {agent.returncode}, see agent.log")
            if end != "killed":
                agent.send_signal(signal.SIGTERM)
                time.sleep(rng.uniform(0.0, 1.5))
            if end == "stopped" and agent.wait(15) not in (0, -signal.SIGTERM):  # it may come before there is a handler
                raise RuntimeError(f"the agent's stop ended with {agent.returncode}, see agent.log")
        self._faults[f"agent {end}"] += 1

    # ---- the broker

    def _broker_up(self) -> None:
        """The link opens when the subscriber is there: what nobody subscribes to, a broker may throw away."""
        server = self._brokers[self._kind]
        server.start()
        self._subscriber = Subscriber(server.port, "edge/v1/lab/box/#", session="judge")
        self._link.target = server.port
        self._link.unshut("no broker")

    def _broker_down(self, how: signal.Signals) -> None:
        self._brokers[self._kind].kill(how)
        self._link.shut("no broker")
        assert self._subscriber is not None
        self._subscriber.close()
        for message in self._subscriber.messages:
            seen = identify(message.topic, bytes(message.payload))
            if seen is not None:
                self._received.note(seen)

    def _quiet(self) -> None:
        """Until the subscriber has all that the broker holds."""
        assert self._subscriber is not None
        messages, before = self._subscriber.messages, -1
        while len(messages) != before:
            before = len(messages)
            time.sleep(0.5)

    def _outage(self, rng: random.Random) -> None:
        how = rng.choice(("killed", "killed", "stopped", "replaced"))
        if self._over.wait(rng.uniform(5.0, 25.0)):
            return
        away_s = rng.uniform(0.3, 6.0)
        name = f"broker {how}, {self._kind}"
        if how == "replaced":
            self._link.shut("no broker")
            self._quiet()  # or what it holds would come after what the other one gets
        self._broker_down(signal.SIGKILL if how == "killed" else signal.SIGTERM)
        if how == "replaced":
            (self._kind,) = set(self._brokers) - {self._kind}
        self._over.wait(away_s)
        self._broker_up()
        self._faults[name] += 1

    # ---- link and disk

    def _link_fault(self, rng: random.Random) -> None:
        link, cable = self._link, self._cable
        faults: dict[str, tuple[float, Callable[[], None], Callable[[], None]]] = {
            "link cut": (0.0, link.cut, link.heal),
            "link cut instead of a PUBACK": (2.0, lambda: setattr(link, "swallow", True), link.heal),
            "link shut": (6.0, lambda: link.shut("fault"), lambda: link.unshut("fault")),
            "link slow": (10.0, lambda: setattr(link, "slow", True), link.heal),
            "link half open": (20.0, link.stall, link.heal),
            "broker busy": (5.0, lambda: setattr(link, "busy", True), link.heal),
            "broker refuses": (5.0, link.refuse, link.heal),
            "broker hangs up": (5.0, link.hang_up, link.heal),
        }
        if cable:
            faults["cable pulled"] = (10.0, cable.pull, cable.plug)
            if "iptables" not in str(self.report.skipped):
                faults["packets dropped"] = (10.0, lambda: cable.drop(on=True), lambda: cable.drop(on=False))
        name = rng.choice(list(faults))
        longest_s, begin, end = faults[name]
        if self._over.wait(rng.uniform(1.0, 9.0)):
            return
        try:
            begin()
        except Lacking as error:
            self.report.skipped.append(str(error))
            return
        self._over.wait(rng.uniform(0.3 * longest_s, longest_s))
        end()
        self._faults[name] += 1

    def _disk_full(self, rng: random.Random) -> None:
        if self._over.wait(rng.uniform(10.0, 50.0)) or self._disk is None:
            return
        self._disk.fill()
        self._over.wait(rng.uniform(1.0, 10.0))
        self._disk.free()
        self._faults["disk full"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave what the agent and the brokers wrote there")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as made:
        folder = args.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        report = Chaos(args.minutes, args.seed, folder).go()
    if args.json:
        print(json.dumps(asdict(report), indent=1))
    else:
        show(report)
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
