"""File trees of boxes that we do not have: what the kernel and the distribution show of a Jetson, a Coral, an i.MX, a Raspberry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edge_agent import config_file
from edge_agent.doctor.box import Box, User
from edge_agent.doctor.finding import Outcome
from tests.sysfs_trees import write_tree

Files = dict[str, str]
AGENT = User("agent", 64123, frozenset({64123}))
"""Somebody who owns nothing in a tree."""

JETSON_ORIN: Files = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8\n",
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\nVERSION_ID="22.04"\n',
    "etc/nvpmodel.conf": (
        "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=25W >\n"
        "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n< PM_CONFIG DEFAULT=1 >\n"
    ),
    "var/lib/nvpmodel/status": "pmode:0001",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,tegra234\0",
    "proc/sys/kernel/osrelease": "5.15.148-tegra\n",
    "proc/meminfo": "MemTotal: 7802912 kB\nMemAvailable: 5312344 kB\n",
    "proc/loadavg": "0.31 0.20 0.18 1/512 4242\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "51250\n",
    "sys/class/thermal/cooling_device0/type": "cpufreq-cpu0\n",
    "sys/class/thermal/cooling_device0/cur_state": "0\n",
    "sys/class/hwmon/hwmon3/name": "soctherm_oc\n",
    "sys/class/hwmon/hwmon3/oc3_event_cnt": "0\n",
    "sys/class/rtc/rtc0/since_epoch": "garbage\n",
    "dev/nvhost-gpu": "",
    "dev/nvmap": "",
    "usr/local/cuda/version.json": '{"cuda" : {"name" : "CUDA SDK", "version" : "12.6.11"}}',
    "var/lib/dpkg/status": (
        "Package: libnvinfer10\nStatus: install ok installed\nVersion: 10.3.0.30-1+cuda12.5\n\n"
        "Package: nvidia-jetpack\nStatus: deinstall ok config-files\nVersion: 6.1\n"
    ),
}
JETSON_NANO: Files = JETSON_ORIN | {
    "etc/nv_tegra_release": "# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64\n",
    "proc/device-tree/model": "NVIDIA Jetson Nano Developer Kit\0",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=5W >\n",
    "var/lib/nvpmodel/status": "pmode:0000",
}
RASPBERRY: Files = {
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "83700\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_driver": "cpufreq-dt\n",
}
IMX8: Files = {
    "proc/device-tree/model": "NXP i.MX8MPlus EVK board\0",
    "sys/devices/soc0/soc_id": "i.MX8MP\n",
    "dev/galcore": "",
}


def coral_usb(vendor: str, product: str, speed: str = "5000") -> Files:
    """A Coral stick on bus 2 as device 7."""
    folder = "sys/bus/usb/devices/2-1"
    return {
        f"{folder}/idVendor": f"{vendor}\n",
        f"{folder}/idProduct": f"{product}\n",
        f"{folder}/speed": f"{speed}\n",
        f"{folder}/busnum": "2\n",
        f"{folder}/devnum": "7\n",
        "dev/bus/usb/002/007": "",
        "etc/group": "root:x:0:\nplugdev:x:46:agent\n",
    }


CORAL_PCI: Files = {
    "sys/bus/pci/devices/0000:01:00.0/vendor": "0x1ac1\n",
    "sys/bus/pci/devices/0000:01:00.0/device": "0x089a\n",
    "sys/class/apex/apex_0/temp": "47050\n",
    "dev/apex_0": "",
}


def plant(root: Path, *trees: Files) -> Box:
    """Write the files below ``root``; the box that shows them, with nobody's configuration."""
    write_tree(root, {name: text for tree in trees for name, text in tree.items()})
    return Box(root=root, user=AGENT)


def configured(box: Box, folder: Path, text: str = "", source: str = "rtsp://user:hunter2@192.0.2.1/x") -> Box:
    """``box`` with a small configuration; ``text`` are further sections."""
    path = folder / "config.yaml"
    path.write_text(
        f"device: box1\ncameras:\n  - id: hall\n    source: {source}\nstate_dir: {folder / 'state'}\n{text}"
    )
    return replace(box, config=config_file.load(path), config_path=path)


def state_of(check: Callable[[Box], Outcome], box: Box) -> tuple[str, str]:
    """The state, and all that was said."""
    outcome = check(box)
    assert outcome.fix or outcome.state in {"ok", "skip"}, "whoever complains says what to do"
    return outcome.state, f"{outcome.found} {outcome.fix}"
