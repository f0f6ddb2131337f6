"""A box with real systemd on this machine: systemd-nspawn on the host's own /usr, everything else empty, and a network of its own.

The release in it is a virtual environment at its real place, ``/opt/edge-agent/releases/test``; what it imports are this
repository and the packages of the tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
import uuid
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.mosquitto import wait_for

ROOT = Path(__file__).parent.parent
RELEASE = "opt/edge-agent/releases/test"
_PACKAGES = sysconfig.get_paths()["purelib"]
_SYSTEMD_PYTHON = Path("/usr/lib/python3/dist-packages/systemd")
_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"

needs_nspawn = pytest.mark.skipif(
    os.geteuid() != 0 or sys.base_prefix != "/usr",
    reason="needs root, and a virtual environment of the system's Python",
)


class Machine:
    """``tree`` is what is bound into it; changes there are seen inside at once. ``fields``: with the package ``systemd``."""

    def __init__(self, folder: Path, config: dict[str, Any], *, binds: dict[Path, str], fields: bool) -> None:
        self.tree, self._folder, self._binds = folder / "tree", folder, binds
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0
        subprocess.run([ROOT / "systemd/install.sh", "--root", self.tree], check=True)
        wanted = self.tree / "etc/systemd/system/multi-user.target.wants"
        wanted.mkdir()
        (wanted / "edge-agent.service").symlink_to("../edge-agent.service")
        (self.tree / "etc/edge-agent/secrets").mkdir(parents=True)
        self.write_config(config)
        self._release(fields)

    def write_config(self, config: dict[str, Any]) -> None:
        """The operator's file."""
        self.config = config
        path = self.tree / "etc/edge-agent/config.yaml"
        path.write_text(yaml.safe_dump(config))

    def drop_in(self, name: str, text: str) -> None:
        """A change to the unit; takes hold at the next start of the service."""
        path = self.tree / f"etc/systemd/system/edge-agent.service.d/{name}.conf"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        if self._leader:
            self.run("systemctl", "daemon-reload")

    def _release(self, fields: bool) -> None:
        release = self.tree / RELEASE
        venv.create(release, with_pip=False, symlinks=True)
        (self.tree / "opt/edge-agent/current").symlink_to("releases/test")
        packages = release / f"lib/{_VERSION}/site-packages"
        (packages / "test.pth").write_text("/opt/edge-agent/packages\n/opt/edge-agent/source\n")
        if fields:
            (packages / "systemd").symlink_to(_SYSTEMD_PYTHON)
        program = release / "bin/edge-agent"
        program.write_text(f"#!/{RELEASE}/bin/python\nimport sys\nfrom edge_agent.cli import main\nsys.exit(main())\n")
        program.chmod(0o755)

    def boot(self) -> None:
        """Start it; returns once systemd answers."""
        binds = {self.tree / "etc" / name: f"/etc/{name}" for name in ("systemd/system", "sysusers.d", "tmpfiles.d")}
        binds |= {self.tree / "etc/edge-agent": "/etc/edge-agent", self.tree / "opt": "/opt"}
        read_only = {
            Path(_PACKAGES): "/opt/edge-agent/packages",
            ROOT / "edge_agent": "/opt/edge-agent/source/edge_agent",
        }
        read_only |= {ROOT / "models": f"/{RELEASE}/models"}
        command = [
            "systemd-nspawn",
            "--quiet",
            "--boot",
            "--directory=/",
            "--volatile=yes",
            "--register=no",
            "--keep-unit",
        ]
        command += [f"--machine=ea{uuid.uuid4().hex[:10]}", "--private-network", "--console=pipe"]
        command += [f"--bind={ours}:{there}" for ours, there in (binds | self._binds).items()]
        command += [f"--bind-ro={ours}:{there}" for ours, there in read_only.items()]
        with (self._folder / "console.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "systemd.mask=systemd-firstboot.service"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_for(self._up, 60, "systemd in the machine")

    def _up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "console.log").read_text()[-2000:]
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        if not children:
            return False
        self._leader = int(children[0])
        return self.run("systemctl", "is-system-running", check=False) in {"running", "degraded"}

    def run(self, *command: str, check: bool = True, timeout_s: float = 90.0) -> str:
        """A command inside, as root; what it printed, stripped."""
        inside = ["nsenter", "--all", "--target", str(self._leader), *command]
        done = subprocess.run(inside, capture_output=True, text=True, timeout=timeout_s, check=False)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.log()[-3000:]}"
        return done.stdout.strip()

    def background(self, *command: str) -> subprocess.Popen[bytes]:
        """A command inside that goes on; its output is a pipe."""
        inside = ["nsenter", "--all", "--target", str(self._leader), *command]
        return subprocess.Popen(inside, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def show(self, what: str) -> str:
        """A property of the service."""
        return self.run("systemctl", "show", "--property", what, "--value", "edge-agent.service")

    def pid(self) -> int:
        """The agent's inside, 0 while there is none."""
        return int(self.show("MainPID"))

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """Lines of the service with all their fields, oldest first."""
        text = self.run("journalctl", "--unit=edge-agent.service", "--output=json", "--all", *matches)
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def log(self) -> str:
        """The service's log as text."""
        inside = ["nsenter", "--all", "--target", str(self._leader), "journalctl", "-u", "edge-agent", "-o", "cat"]
        return subprocess.run(inside, capture_output=True, text=True, check=False).stdout

    def rest(self, path: str) -> Any:
        """An answer of the agent's REST API; empty while there is none."""
        ask = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080{path}', timeout=10).read().decode())"
        text = self.run("/usr/bin/python3", "-c", ask, check=False)
        return json.loads(text) if text else {}

    def wait_for_service(self, timeout_s: float = 90.0) -> int:
        """Until it is active; its process id."""
        wait_for(
            lambda: self.show("ActiveState") == "active" and self.pid(), timeout_s, f"service: {self.log()[-1500:]}"
        )
        return self.pid()

    def off(self) -> None:
        """Shut it down."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
        self._process, self._leader = None, 0


@contextlib.contextmanager
def machine(
    folder: Path, config: dict[str, Any], *, binds: dict[Path, str] | None = None, fields: bool = True
) -> Iterator[Machine]:
    """Booted, and gone at the end."""
    made = Machine(folder, config, binds=binds or {}, fields=fields)
    try:
        made.boot()
        yield made
    finally:
        made.off()


def endless_pictures(folder: Path, picture: Path, count: int = 6000) -> None:
    """A folder that serves as a camera for longer than any test: one picture under many names."""
    folder.mkdir()
    target = folder / f"000000{picture.suffix}"
    target.write_bytes(picture.read_bytes())
    for number in range(1, count):
        (folder / f"{number:06d}{picture.suffix}").symlink_to(target.name)
