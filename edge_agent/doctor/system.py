"""The machine: Python, operating system, board, memory, heat, power, clock, the agent's user."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

from edge_agent import __version__
from edge_agent.doctor.box import Box
from edge_agent.doctor.finding import Check, Outcome, fail, ok, skip, warn
from edge_agent.health.hardware import HardwareProbe, hottest
from edge_agent.health.host import HostProbe, clock_synchronised

AREA = "system"
_MB = 2**20
_JETPACK = {32: "4", 34: "5", 35: "5", 36: "6", 38: "7", 39: "7"}
"""L4T release → JetPack generation."""
_OLDEST_L4T = 36
_NODES = ("video*", "dri/renderD*", "accel/accel*", "nvmap", "nvhost-gpu", "galcore", "ethosu*")
_THROTTLED = ("under-voltage", "the processor's clock is capped", "throttled", "at the soft temperature limit")
"""Bits 0–3 of the Raspberry Pi's ``get_throttled``: now; bits 16–19 the same since it was started."""


def checks(_: Box) -> list[Check]:
    """Of this area."""
    named = {
        "Python": python,
        "operating system": operating_system,
        "board": board,
        "JetPack": jetpack,
        "memory": memory,
        "processor load": load,
        "temperature": temperature,
        "throttling": throttling,
        "power mode": power_mode,
        "clock": clock,
        "date and time zone": date,
        "device permissions": permissions,
    }
    return [Check(AREA, name, run) for name, run in named.items()]


def python(_: Box) -> Outcome:
    """Version and word size."""
    here = f"edge-agent {__version__}, Python {platform.python_version()}, {platform.machine()}"
    if sys.maxsize < 2**32:
        return fail(f"{here}, 32-bit", "install a 64-bit system: inference runtimes have no 32-bit packages")
    if sys.version_info[:2] > (3, 13):
        return warn(f"{here}: newer than tested", "use Python 3.10 to 3.13")
    return ok(f"{here}, {'virtual environment' if sys.prefix != sys.base_prefix else 'system'} at {sys.prefix}")


def operating_system(box: Box) -> Outcome:
    """Distribution, kernel, C library."""
    name = re.search(r'^PRETTY_NAME="?([^"\n]*)', box.read("etc/os-release"), re.MULTILINE)
    kernel = box.read("proc/sys/kernel/osrelease") or (platform.release() if box.real else "?")
    libc, version = platform.libc_ver()
    text = f"{name[1] if name else 'unknown'}, kernel {kernel}, {libc or 'no glibc'} {version}"
    if libc != "glibc":
        return warn(text, "use a system with glibc (Debian, Ubuntu, Yocto): packages for others are few")
    if tuple(map(int, version.split(".")[:2])) < (2, 28):
        return warn(f"{text}: older than most packages ask for", "use Debian 11, Ubuntu 20.04 or newer")
    return ok(text)


def board(box: Box) -> Outcome:
    """What machine this is."""
    model = box.read("proc/device-tree/model") or " ".join(
        filter(None, (box.read(f"sys/class/dmi/id/{part}") for part in ("sys_vendor", "product_name")))
    )
    soc = box.read("sys/devices/soc0/soc_id")
    text = ", ".join(filter(None, (model, soc)))
    return ok(text) if text else skip("the kernel does not name the board")


def jetpack(box: Box) -> Outcome:
    """The release of NVIDIA's system on a Jetson."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", box.read("etc/nv_tegra_release"))
    if not found:
        if "nvidia,tegra" in box.read("proc/device-tree/compatible"):
            return warn("a Jetson, but /etc/nv_tegra_release cannot be read", "in a container: mount that file")
        return skip("not a Jetson")
    number, revision = int(found[1]), found[2]
    text = f"JetPack {_JETPACK.get(number, '?')} (L4T {number}.{revision})"
    if number < _OLDEST_L4T:
        return fail(
            f"{text} is not supported: JetPack 6 or 7 is needed",
            "Orin: flash JetPack 6 with NVIDIA's SDK Manager. Nano and TX2 end at JetPack 4, Xavier at 5: "
            "they can run the CPU backends only, with a Python 3.10 of their own",
        )
    return ok(text) if number in _JETPACK else warn(f"{text}: newer than this agent knows", "update edge-agent")


def memory(box: Box) -> Outcome:
    """RAM."""
    host = HostProbe(Path("/"), root=box.root).sample()
    if host.ram_total_bytes is None or host.ram_available_bytes is None:
        return skip("the kernel does not tell")
    text = f"{host.ram_available_bytes // _MB} of {host.ram_total_bytes // _MB} MB available"
    if host.ram_available_bytes < 150 * _MB:
        return fail(text, "stop other programs; the agent needs 150 to 400 MB")
    if host.ram_available_bytes < 400 * _MB:
        return warn(text, "stop other programs or a desktop; fewer detect.workers need less")
    return ok(text)


def load(box: Box) -> Outcome:
    """Cores, and how busy they are."""
    cores = len(os.sched_getaffinity(0))
    words = box.read("proc/loadavg").split()
    if not words:
        return ok(f"{cores} cores")
    text = f"{cores} cores, load {words[0]}"
    if float(words[0]) > 1.5 * cores and box.agent is None:
        return warn(text, "other programs take the processor: see `top`")
    return ok(text)


def temperature(box: Box) -> Outcome:
    """The hottest part."""
    degrees, where = hottest(box.root)
    if degrees is None:
        return skip("no sensor that can be read")
    text = f"{degrees:.0f} °C ({where})"
    if degrees >= 95:
        return fail(text, "switch it off before it does so itself: cooling is missing or broken")
    return warn(text, "improve the cooling: it slows down when hotter") if degrees >= 80 else ok(text)


def throttling(box: Box) -> Outcome:
    """Whether heat or a weak supply slows the machine down."""
    if (bits := _throttled_bits(box)) is not None:
        return _raspberry(bits)
    probe = HardwareProbe(box.root)
    if probe.look().throttled is None:
        return skip("the kernel does not tell")
    time.sleep(0.5)  # counters that grow meanwhile say that it is slowed down now
    if reasons := probe.look().throttled:
        return warn(
            f"slowed down now by its {' and '.join(reasons)}",
            "improve cooling and power supply, or lower the power mode",
        )
    if over := sum(_number(box, counter) for counter in box.glob("sys/class/hwmon/hwmon*/oc*_event_cnt")):
        return warn(
            f"over-current throttled {over} times since the start", "use a stronger power supply or a lower power mode"
        )
    return ok("not now")


def _rel(box: Box, path: Path) -> str:
    return str(path.relative_to(box.root))


def _number(box: Box, path: Path) -> int:
    text = box.read(_rel(box, path))
    return int(text) if text.isdecimal() else 0


def _throttled_bits(box: Box) -> int | None:
    text = box.read("sys/devices/platform/soc/soc:firmware/get_throttled")
    if not text and box.real and (program := shutil.which("vcgencmd")):
        done = subprocess.run(  # noqa: S603
            [program, "get_throttled"], capture_output=True, text=True, timeout=3, check=False
        )
        text = done.stdout.strip().partition("=")[2]
    try:
        return int(text, 16)
    except ValueError:
        return None


def _raspberry(bits: int) -> Outcome:
    now = [name for bit, name in enumerate(_THROTTLED) if bits >> bit & 1]
    past = [name for bit, name in enumerate(_THROTTLED) if bits >> (16 + bit) & 1]
    fix = "use the official power supply and a short cable; fit a heat sink or fan"
    if now:
        return fail(f"now: {', '.join(now)}", fix)
    return warn(f"since the start: {', '.join(past)}", fix) if past else ok("never since the start")


def power_mode(box: Box) -> Outcome:
    """Jetson's power model, else the frequency governor."""
    modes = dict(re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", box.read("etc/nvpmodel.conf")))
    status = re.search(r"pmode:0*(\d+)", box.read("var/lib/nvpmodel/status"))
    if modes and status:
        name = modes.get(status[1], "?")
        fastest = max(modes.items(), key=lambda item: _watts(item[1]))
        if _watts(name) < _watts(fastest[1]):
            fix = f"if supply and cooling allow: sudo nvpmodel -m {fastest[0]} && sudo jetson_clocks"
            return warn(f"{name} (mode {status[1]}), slower than {fastest[1]}", fix)
        return ok(f"{name} (mode {status[1]}), the fastest")
    governors = {box.read(_rel(box, path)) for path in box.glob("sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")}
    governors.discard("")
    driver = box.read("sys/devices/system/cpu/cpu0/cpufreq/scaling_driver")
    if not governors:
        return skip("the kernel does not tell")
    text = f"governor {', '.join(sorted(governors))}"
    # With Intel's and AMD's own drivers "powersave" scales with the load; elsewhere it is the lowest frequency for ever.
    if "powersave" in governors and "pstate" not in driver:
        return warn(text, "sudo cpupower frequency-set -g schedutil (or ondemand)")
    return ok(text)


def _watts(name: str) -> float:
    """For the order of power modes: MAXN is the fastest, else watts."""
    found = re.search(r"(\d+)W", name)
    return float("inf") if name.startswith("MAXN") else float(found[1]) if found else 0.0


def clock(_: Box) -> Outcome:
    """Whether a time service keeps the clock right."""
    synchronised = clock_synchronised()
    fix = "sudo timedatectl set-ntp true, and let UDP port 123 out; or use chrony with a server of your own"
    if synchronised is None:
        return skip("the kernel does not tell")
    return ok("synchronised") if synchronised else warn("not synchronised: events may bear a wrong time", fix)


def date(box: Box) -> Outcome:
    """Date against what must lie behind it, the battery clock, the time zone."""
    now = time.time()
    text = f"{datetime.now(tz=timezone.utc):%Y-%m-%d %H:%M} UTC, zone {_zone(box)}"
    made = Path(__file__).stat().st_mtime
    if now < made - 86400:
        return fail(
            f"{text}: that is before this program was installed", "set the clock: sudo timedatectl set-ntp true"
        )
    rtc = box.read("sys/class/rtc/rtc0/since_epoch")
    if not rtc.isdecimal():
        return ok(f"{text}; no battery clock: wrong after a power failure until the network is there")
    if abs(int(rtc) - now) > 300:
        return warn(
            f"{text}; the battery clock is {int(rtc) - now:+.0f} s off", "sudo hwclock --systohc; is its battery empty?"
        )
    return ok(text)


def _zone(box: Box) -> str:
    try:
        target = str((box.root / "etc/localtime").readlink())
    except OSError:
        target = ""
    return target.partition("zoneinfo/")[2] or box.read("etc/timezone") or "UTC"


def permissions(box: Box) -> Outcome:
    """Whether the agent's user may use cameras and accelerators, by groups such as video and render. Coral has its own check."""
    nodes = [node for pattern in _NODES for node in box.glob(f"dev/{pattern}")]
    if not nodes:
        return skip("no camera or accelerator device in /dev")
    refused = [node for node in nodes if not box.may_use(node)]
    text = f"user {box.user.name}: "
    if refused:
        groups = sorted({box.group_of(node) for node in refused})
        names = ", ".join(f"/{_rel(box, node)}" for node in refused[:6])
        fix = f"sudo usermod -aG {','.join(groups)} {box.user.name} and log in again"
        if box.user.uid is None:
            fix = f"SupplementaryGroups={' '.join(groups)} in the unit"
        # A camera that is configured, or an accelerator of a board; a PC's graphics need not matter.
        judge = warn if all("dri" in node.parts for node in refused) else fail
        return judge(f"{text}may not use {names}", fix)
    return ok(f"{text}may use {', '.join(f'/{_rel(box, node)}' for node in nodes[:8])}")
