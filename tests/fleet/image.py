"""The disk of a bare box: a minimal Debian with sshd and Python, nothing of ours. Made once, then kept."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

CACHE = Path(os.environ.get("FLEET_CACHE", "/var/cache/edge-agent-tests"))
SUITE = "bookworm"
PACKAGES = (
    # What an image for boxes brings. The servers are for the machine that becomes the hub: the network here has no internet.
    *("systemd", "systemd-sysv", "dbus", "libpam-systemd", "udev", "kmod", "sudo", "ca-certificates"),
    *("openssh-server", "python3", "iproute2", "nftables", "systemd-timesyncd", "unattended-upgrades", "mosquitto"),
    *("victoria-metrics", "nginx-light"),
    *("wireguard-tools", "wireguard-go"),  # the kernel that the tests run on need not have it
)
SERVICES_OFF = (
    *("mosquitto.service", "victoria-metrics.service", "nginx.service"),
    *("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "fstrim.timer"),
)


def base_image() -> Path:
    """Its root folder, read only by agreement: machines lay their own disk over it. Made in a minute or two where missing."""
    name = hashlib.sha256(repr((SUITE, PACKAGES, SERVICES_OFF)).encode()).hexdigest()[:10]
    image = CACHE / f"{SUITE}-{name}"
    if not image.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        part = image.with_name(f"{image.name}.part{os.getpid()}")
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(part)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        _make_bare(part)
        part.rename(image)
    return image


def _make_bare(root: Path) -> None:
    """As it would come from a card that was never booted."""
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    (root / "etc/machine-id").write_text("uninitialized\n")
    (root / "etc/hostname").unlink(missing_ok=True)
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").write_text("")
    (root / "etc/systemd/system/ssh-keys.service").write_text(
        "[Unit]\nBefore=ssh.service\nConditionPathExists=!/etc/ssh/ssh_host_ed25519_key\n"
        "[Service]\nType=oneshot\nExecStart=/usr/bin/ssh-keygen -A\n[Install]\nWantedBy=ssh.service\n"
    )
    for unit in SERVICES_OFF:
        subprocess.run(["systemctl", f"--root={root}", "disable", unit], capture_output=True, check=False)
    for unit in ("systemd-firstboot.service", "systemd-tmpfiles-setup-dev.service"):  # not for containers
        subprocess.run(["systemctl", f"--root={root}", "mask", unit], capture_output=True, check=True)
    subprocess.run(["systemctl", f"--root={root}", "enable", "ssh-keys.service"], capture_output=True, check=True)
