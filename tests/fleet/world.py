"""A small fleet: a hub that becomes the broker, boxes, a camera, an update repository, and the controller's inventory."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import yaml

from edge_agent.ota.release import release_name
from tests.fleet.machines import Machine, Network, close_all, run, ssh_key
from tests.mosquitto import wait_for

ROOT = Path(__file__).parent.parent.parent
ANSIBLE = ROOT / "deploy" / "ansible"
SITES = {"box1": "berlin", "box2": "berlin", "box3": "hamburg", "box4": "munich"}
NETWORK = 77
BEAT_S = 5
MODEL = "person-n"


@dataclass
class Played:
    """What a playbook did."""

    code: int
    output: str
    took_s: float

    @property
    def changed(self) -> dict[str, int]:
        """Host to the number of changes."""
        return {host: int(n) for host, n in re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", self.output, re.MULTILINE)}


@dataclass
class World:
    """Everything there is. ``heard``: (topic, message) in order, from when the broker was there."""

    folder: Path
    network: Network
    key: Path
    hub: Machine
    boxes: dict[str, Machine]
    port: int
    heard: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    times: dict[str, float] = field(default_factory=dict)

    @property
    def inventory(self) -> Path:
        return self.folder / "inventory"

    def play(self, name: str, *more: str, timeout_s: float = 1500.0) -> Played:
        """Run a playbook as an operator does, in the folder of the collection."""
        log = self.folder / f"{len(self.times):02}-{name}.log"
        began = time.monotonic()
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "VIRTUAL_ENV"))
        }
        environment["PATH"] = f"{ROOT / '.venv-ansible' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        environment["ANSIBLE_LOG_PATH"] = str(log.with_suffix(".times"))  # what took how long
        with log.open("w") as out:
            code = subprocess.run(
                ["ansible-playbook", "-i", self.inventory, f"playbooks/{name}.yml", *more],
                cwd=ANSIBLE,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                timeout=timeout_s,
                check=False,
            ).returncode
        took = time.monotonic() - began
        self.times[f"{len(self.times):02} {name} {' '.join(more)}"] = took
        print(f"{took:6.1f} s  {name} {' '.join(more)}", flush=True)
        return Played(code, log.read_text(), took)

    def rollout(self, *more: str) -> tuple[Played, str]:
        """With short waits; its report."""
        waits: dict[str, float] = {
            "rollout_soak_s": 3 * BEAT_S,
            "rollout_gate_s": 120,
            "rollout_heartbeat_s": 2 * BEAT_S,
            "rollout_hold_s": 10,
            "rollout_deadline_s": 240,
        }
        # The camera's 2 frames per second are not always had where seven machines share two cores.
        waits |= {"rollout_min_fps_ratio": 0.5}
        played = self.play(
            "rollout", *(part for item in waits.items() for part in ("-e", "{}={}".format(*item))), *more
        )
        report = max((self.inventory / "rollouts").glob("*.md"), key=lambda path: path.stat().st_mtime, default=None)
        return played, report.read_text() if report else ""

    def newest(self, box: str, what: str) -> dict[str, Any]:
        """The last message of a box on a topic of its own; {} where none came."""
        topic = f"edge/v1/{SITES[box]}/{box}/{what}"
        return next((message for name, message in reversed(list(self.heard)) if name == topic), {})

    def model_of(self, box: str) -> str:
        """NAME@VERSION, by its last heartbeat."""
        model = self.newest(box, "heartbeat").get("model") or {}
        return f"{model.get('name')}@{model.get('version')}"

    def forget(self) -> None:
        """What was heard so far."""
        self.heard.clear()

    def wait_for_beats(self, boxes: list[str], timeout_s: float = 120.0) -> None:
        """Until a new heartbeat of each with a camera that delivers."""
        self.forget()

        def well(box: str) -> bool:
            cameras = self.newest(box, "heartbeat").get("cameras") or [{}]
            return bool(cameras[0].get("state") == "delivering")

        wait_for(lambda: all(map(well, boxes)), timeout_s, f"heartbeats of {boxes}")

    def wait_for_any_beat(self, box: str, timeout_s: float = 120.0) -> None:
        """Until it says anything about itself again, well or not."""
        self.forget()
        wait_for(lambda: self.newest(box, "heartbeat"), timeout_s, f"a heartbeat of {box}")

    def command(self, box: str, name: str) -> None:
        """Give it one, as the controller may."""
        run(
            "mosquitto_pub", *self._broker(), "-q", "1", "-t", f"edge/v1/{SITES[box]}/{box}/commands/{name}", "-m", "{}"
        )

    def _broker(self) -> list[str]:
        """How mosquitto's clients reach it as the controller."""
        files = {"--cafile": "ca.pem", "--cert": "controller.pem", "--key": "controller.key"}
        tls = [word for option, name in files.items() for word in (option, str(self.inventory / "pki" / name))]
        return ["-h", self.hub.address, "-p", "8883", "-V", "mqttv5", *tls]

    def listen(self) -> subprocess.Popen[str]:
        """To all that is said at the broker, as the controller may."""
        command = ["mosquitto_sub", *self._broker(), "-t", "edge/v1/#", "-F", "%t %p"]
        listener = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

        def take() -> None:
            assert listener.stdout is not None
            for line in listener.stdout:
                topic, _, payload = line.partition(" ")
                if payload.startswith("{"):
                    self.heard.append((topic, json.loads(payload)))

        threading.Thread(target=take, daemon=True).start()
        return listener

    # ---- the update repository

    def repo(self, *words: str | Path) -> None:
        """``edge-agent repo`` on the controller."""
        run(
            *(sys.executable, "-m", "edge_agent.cli", "repo", words[0], self.folder / "repo", *words[1:]),
            *("--passphrase-file", self.folder / "passphrase"),
            timeout_s=120,
        )

    def publish_model(self, version: str, *, good: bool = True) -> str:
        """The bundled model under another version; the bad one is fed pictures of another scale, and sees nothing right."""
        folder = self.folder / "models" / MODEL / version
        shutil.copytree(ROOT / "models" / MODEL / "1.0.0", folder)
        manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
        manifest["version"] = version
        if not good:
            manifest["input"]["std"] = [1.0, 1.0, 1.0]
        (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
        self.repo("publish", f"{MODEL}@{version}", "--models-dir", self.folder / "models", "--channel", "stable")
        return f"{MODEL}@{version}"

    def write_inventory(self) -> None:
        """As docs/fleet.md shows it."""
        config = {
            "model": MODEL,
            "cameras": [{"id": "cam", "source": f"rtsp://{self.network.address(1)}:{self.port}/cam", "max_fps": 2}],
            "use_cases": {"social_distancing": {"distance_m": 4.0, "min_duration_s": 0.5, "leave_duration_s": 0.5}},
            "mqtt": {"heartbeat_s": BEAT_S, "keepalive_s": 10},
            "ota": {
                "repository": f"http://{self.network.address(1)}:{self.port + 1}",
                "clock": "battery",
                "probation": {"frames": 10, "minutes": 0.1, "compare": 0.5},
            },
        }
        ssh = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        boxes: dict[str, Any] = {
            site: {
                "vars": {"edge_agent_site": site},
                "hosts": {box: {"ansible_host": self.boxes[box].address} for box in SITES if SITES[box] == site},
            }
            for site in sorted(set(SITES.values()))
        }
        boxes["berlin"]["hosts"]["box2"] |= {"remote_access_mode": "ssh", "remote_access_port": 20002}
        boxes["hamburg"]["hosts"]["box3"] |= {"remote_access_mode": "wireguard", "remote_access_address": "10.86.0.3"}
        inventory = {
            "all": {
                "vars": {
                    "ansible_user": "root",
                    "ansible_ssh_private_key_file": str(self.key),
                    "ansible_ssh_common_args": ssh,
                },
                "children": {
                    "broker": {
                        "hosts": {"hub": {"ansible_host": self.hub.address}},
                        "vars": {"hardening_tcp_ports": [8883, 8427], "hardening_udp_ports": [51820]},
                    },
                    "remote_hub": {"hosts": {"hub": {}}},
                    # No Grafana: it is in no repository of Debian's.
                    "observability": {"hosts": {"hub": {}}, "vars": {"observability_grafana": False}},
                    "canary": {"hosts": {"box1": {}}},
                    "edge_agents": {
                        "vars": {
                            "edge_agent_version": "0.1.0",
                            "edge_agent_bundles": str(self.folder / "dist"),
                            "rollout_bundles": str(self.folder / "dist"),
                            "edge_agent_ota_root": str(self.folder / "repo/public/metadata/1.root.json"),
                            "edge_agent_config": config,
                        },
                        "children": boxes,
                    },
                },
            }
        }
        self.inventory.mkdir(exist_ok=True)
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump(inventory, sort_keys=False))


@contextmanager
def small_fleet(folder: Path, video: Path) -> Iterator[World]:
    """Bare machines that are switched on, and everything they need from outside."""
    with ExitStack() as stack:
        network = Network(NETWORK)
        key = ssh_key(folder)
        machines = {name: Machine(name, 10 + n, network, folder, key) for n, name in enumerate(["hub", *SITES])}
        stack.callback(close_all, list(machines.values()), network)
        world = World(folder, network, key, machines.pop("hub"), machines, 8554)
        for machine in [world.hub, *world.boxes.values()]:
            machine.start()
        _first_bundle(folder / "dist")
        (folder / "passphrase").write_text("of the fleet's tests, long enough\n")
        (folder / "passphrase").chmod(0o600)
        world.repo("init")
        world.write_inventory()
        stack.enter_context(_camera(folder / "pictures", video, network.address(1), world.port))
        stack.enter_context(_served(folder / "repo" / "public", network.address(1), world.port + 1))
        for machine in [world.hub, *world.boxes.values()]:
            machine.wait_for_ssh(120)
        yield world


def _first_bundle(dist: Path) -> None:
    """As `make bundle` makes it. FLEET_BUNDLE: one that is there already, which saves the downloads."""
    dist.mkdir()
    made = os.environ.get("FLEET_BUNDLE")
    if made:
        shutil.copy(made, dist)
        return
    parts = ("--models", MODEL, "--extras", "coral", "influxdb")  # LiteRT for a delegate that hangs
    command: list[str | Path] = [sys.executable, ROOT / "scripts/make_bundle.py", *parts, "--out", dist]
    run(*command, timeout_s=900)
    assert list(dist.glob(f"{release_name()}-*.tar"))


@contextmanager
def _camera(pictures: Path, video: Path, address: str, port: int) -> Iterator[None]:
    """The pedestrian video over RTSP, again and again, for all boxes."""
    pictures.mkdir()
    film = cv2.VideoCapture(str(video))
    for number in range(400):
        there, frame = film.read()
        assert there
        cv2.imwrite(str(pictures / f"{number:05d}.jpg"), cv2.resize(frame, (512, 384)))
    server = subprocess.Popen(
        [
            "/usr/bin/python3",
            ROOT / "tests/rtsp_server.py",
            str(port),
            "512",
            "384",
            "7",
            f"{pictures}/%05d.jpg",
            address,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stdout is not None and server.stdout.readline().strip() == "ready"
        yield
    finally:
        server.kill()
        server.communicate(timeout=10)


@contextmanager
def _served(folder: Path, address: str, port: int) -> Iterator[None]:
    """A plain web server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer((address, port), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
