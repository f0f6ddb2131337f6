"""A network cable and a disk of its own for the agent of ``benchmarks.chaos``, to be pulled and to be filled. Linux, root."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path


class Lacking(Exception):
    """This machine cannot do that; says what."""


def run(*command: str) -> str:
    """What the program printed. Raises Lacking with what it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Lacking(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        raise Lacking(f"{' '.join(command)}: {done.stderr.strip()[-200:]}")
    return done.stdout


class Cable:
    """A network namespace, and a pair of interfaces from there to here. Raises Lacking."""

    def __init__(self) -> None:
        number = os.getpid()
        self._name, self._near = f"chaos{number}", f"ch{number}"
        net = f"10.213.{number // 64 % 256}.{number % 64 * 4}"
        base = net.rpartition(".")
        self.host = f"{base[0]}.{int(base[2]) + 1}"
        """The address of this end."""
        run("ip", "netns", "add", self._name)
        try:
            run("ip", "link", "add", self._near, "type", "veth", "peer", "name", "far", "netns", self._name)
            run("ip", "address", "add", f"{self.host}/30", "dev", self._near)
            run("ip", "link", "set", self._near, "up")
            run(*self.inside(["ip", "address", "add", f"{base[0]}.{int(base[2]) + 2}/30", "dev", "far"]))
            for name in ("far", "lo"):  # paho wakes its thread over the loopback
                run(*self.inside(["ip", "link", "set", name, "up"]))
        except Lacking:
            self.close()
            raise

    def inside(self, command: Sequence[str]) -> list[str]:
        """Runs at the far end."""
        return ["ip", "netns", "exec", self._name, *command]

    def pull(self) -> None:
        """No carrier."""
        run("ip", "link", "set", self._near, "down")

    def plug(self) -> None:
        """Carrier again."""
        run("ip", "link", "set", self._near, "up")

    def drop(self, *, on: bool) -> None:
        """Whether every packet from the agent vanishes without a word."""
        run("iptables", "-w", "-I" if on else "-D", "INPUT", "-i", self._near, "-j", "DROP")

    def close(self) -> None:
        """Take it away, with the interfaces."""
        run("ip", "netns", "delete", self._name)


class SmallDisk:
    """A file system of 64 MB in a file, mounted at ``folder``. Raises Lacking."""

    def __init__(self, folder: Path) -> None:
        self._image, self.folder = folder.with_suffix(".img"), folder
        folder.mkdir(parents=True)
        with self._image.open("wb") as image:
            image.truncate(64 * 2**20)
        self._filler = folder / "filler"
        run("mkfs.ext4", "-q", "-m", "0", str(self._image))
        self._mount()

    def _mount(self) -> None:
        run("mount", "-o", "loop,errors=remount-ro", str(self._image), str(self.folder))

    def fill(self) -> None:
        """Until nothing fits any more."""
        with contextlib.suppress(OSError), self._filler.open("wb", buffering=0) as file:
            os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(self.folder).free - 2**16))
            file.seek(0, os.SEEK_END)
            while True:
                file.write(b"\0" * 4096)

    def free(self) -> None:
        """What ``fill`` took."""
        self._filler.unlink(missing_ok=True)

    def fail(self) -> None:
        """The kernel finds an error and makes it read-only."""
        device = Path(run("findmnt", "-n", "-o", "SOURCE", str(self.folder)).strip())
        Path(f"/sys/fs/ext4/{device.name}/trigger_fs_error").write_text("x\n")

    def repair(self) -> None:
        """As a restart of the box would."""
        self.close()
        subprocess.run(["fsck.ext4", "-y", str(self._image)], check=False, capture_output=True)
        self._mount()

    def close(self) -> None:
        """Unmount."""
        run("umount", "--lazy", str(self.folder))  # what was just closed may still be open for a moment
