"""Machines on a network of their own: a bridge without a way out, and Debian in systemd-nspawn with real systemd and sshd."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.fleet.image import base_image
from tests.mosquitto import wait_for

SSH = (
    "-o",
    "StrictHostKeyChecking=no",
    "-o",
    "UserKnownHostsFile=/dev/null",
    "-o",
    "LogLevel=ERROR",
    "-o",
    "BatchMode=yes",
)


def run(*command: str | Path, timeout_s: float = 60.0, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A program to its end; its output is in the failure."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=timeout_s, check=False)
    assert not check or done.returncode == 0, (
        f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    )
    return done


class Network:
    """A bridge in this machine; ``address(n)`` on it. Nothing is routed, so nobody on it has internet."""

    def __init__(self, number: int) -> None:
        self.bridge = f"eafl{number}"
        self._prefix = f"10.77.{number}"
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "address", "add", f"{self.address(1)}/24", "dev", self.bridge)
        run("ip", "link", "set", self.bridge, "up")

    def address(self, host: int) -> str:
        """1 is this machine."""
        return f"{self._prefix}.{host}"

    def close(self) -> None:
        run("ip", "link", "delete", self.bridge, check=False)


class Machine:
    """One box. Its disk is a layer over the base image, and stays what it is over reboots and power cuts."""

    def __init__(self, name: str, number: int, network: Network, folder: Path, key: Path) -> None:
        self.name = name
        self.address = network.address(number)
        self._network = network
        self._key = key
        self._space = f"{network.bridge}-{name}"
        self._link = f"{network.bridge}h{number}"
        self._disk = folder / name
        self.root = self._disk / "root"
        """Its file system while it is switched on."""
        self._process: subprocess.Popen[bytes] | None = None
        for part in ("upper", "work", "root"):
            (self._disk / part).mkdir(parents=True)

    @property
    def upper(self) -> Path:
        """What was written to its disk since it was bare."""
        return self._disk / "upper"

    def clone_disk_of(self, other: Machine) -> None:
        """Before the first start: a copy of the other's card."""
        shutil.rmtree(self.upper)
        run("cp", "-a", other.upper, self.upper)

    def start(self) -> None:
        """Switch it on; returns at once."""
        layers = f"lowerdir={base_image()},upperdir={self.upper},workdir={self._disk / 'work'}"
        run("mount", "-t", "overlay", "overlay", "-o", layers, self.root)
        ssh = self.root / "root/.ssh"
        ssh.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(self._key.with_suffix(".pub"), ssh / "authorized_keys")
        (self.root / "etc/hostname").write_text(f"{self.name}\n")
        self._plug_in()
        with (self._disk / "console.log").open("ab") as console:
            self._process = subprocess.Popen(
                [
                    *("sh", "-c", 'while "$@"; [ $? -eq 133 ]; do :; done', "power"),  # 133: it wants to boot again
                    "systemd-nspawn",
                    "--quiet",
                    "--boot",
                    f"--directory={self.root}",
                    "--register=no",
                    "--keep-unit",
                    f"--machine={self._space}",
                    f"--network-namespace-path=/run/netns/{self._space}",
                    "--console=pipe",
                    "--capability=CAP_NET_ADMIN",
                    *(["--bind=/dev/net/tun"] if Path("/dev/net/tun").exists() else []),
                    "--resolv-conf=off",
                    "--timezone=off",
                    "--link-journal=no",
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )

    def _plug_in(self) -> None:
        run("ip", "netns", "add", self._space)
        run("ip", "link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self._space)
        run("ip", "link", "set", self._link, "master", self._network.bridge, "up")
        inside = ("ip", "-n", self._space)
        run(*inside, "address", "add", f"{self.address}/24", "dev", "eth0")
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "link", "set", "eth0", "up")

    def cut_off(self) -> None:
        """Pull its network cable."""
        run("ip", "link", "set", self._link, "down")

    def reconnect(self) -> None:
        """And put it back."""
        run("ip", "link", "set", self._link, "up")

    def wait_for_ssh(self, timeout_s: float = 60.0) -> None:
        """Until one may log in."""
        wait_for(lambda: self.try_ssh("true").returncode == 0, timeout_s, f"ssh to {self.name}")

    def try_ssh(self, command: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """A shell command on it, whatever comes of it."""
        return run(
            *("ssh", *SSH, "-i", self._key, "-o", "ConnectTimeout=5", f"root@{self.address}", command),
            timeout_s=timeout_s,
            check=False,
        )

    def ssh(self, command: str, timeout_s: float = 60.0) -> str:
        """What the command printed; it must succeed."""
        done = self.try_ssh(command, timeout_s)
        assert done.returncode == 0, f"{self.name}: {command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def power_cut(self) -> None:
        """Off, without a warning."""
        if self._process is not None:
            all_of_it = _descendants(self._process.pid)  # what keeps the power on, nspawn, its first process
            for pid in all_of_it:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait(20)
            self._process = None
            wait_for(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in all_of_it), 20, "its end")
        run("umount", "--lazy", self.root, check=False)
        run("ip", "link", "delete", self._link, check=False)
        run("ip", "netns", "delete", self._space, check=False)


def _descendants(pid: int, depth: int = 3) -> list[int]:
    """A process, its children, and theirs."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if depth > 1 else []
    except OSError:
        children = []
    return [pid, *(found for child in children for found in _descendants(int(child), depth - 1))]


def ssh_key(folder: Path) -> Path:
    """A key pair for the controller."""
    key = folder / "controller-key"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "controller", "-f", key)
    return key


def close_all(machines: Sequence[Machine], network: Network) -> None:
    """Nothing of them stays."""
    for machine in machines:
        machine.power_cut()
    network.close()
